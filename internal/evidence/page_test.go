package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>' onmouseover='x' </style></td>{{.}}` + "\u202e\x00\x1b[2J\n javascript:alert(1)"

// hostileVerdict has a hostile text in every place that holds text.
func hostileVerdict() *Verdict {
	now := time.Unix(1, 0)
	return &Verdict{
		State: hostile, StateName: hostile, Trust: hostile, Problems: []string{hostile},
		Ledgers:  []Shown{{Embassy: hostile, Country: hostile, Key: hostile, Groups: []string{hostile}, Time: &now}},
		Signed:   []Signed{{Embassy: hostile, Root: hostile, Sources: []string{hostile}, Cosigned: []CosignedFor{{hostile, now}}}},
		Acts:     []Act{{Embassy: hostile, What: hostile, Who: hostile, Note: hostile, Time: &now, Bytes: 3}},
		Findings: []Finding{{Claim: hostile, Says: hostile, Outcome: Outcome(hostile), By: []Party{{hostile, hostile}}, Because: []string{hostile}, Open: []string{hostile}, Rests: []Place{{hostile, 1}}}},
		ActsLeft: 1,
	}
}

var (
	tags   = regexp.MustCompile(`<(/?[a-zA-Z!][a-zA-Z0-9]*)([^>]*)>`)
	policy = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy" content="([^"]*)">`)
	style  = regexp.MustCompile(`(?s)<style>(.*)</style>`)
)

func TestThePageIsOnlyText(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, hostileVerdict()); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	allowed := strings.Fields("!DOCTYPE html head meta title style body h1 h2 h3 p b ul li section span table thead tbody tr th td br")
	for _, m := range tags.FindAllStringSubmatch(page, -1) {
		name := strings.TrimPrefix(m[1], "/")
		if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+name+" ") {
			t.Errorf("the page has a <%s>", name)
		}
		for _, bad := range []string{"onerror", "onmouseover", "src=", "href=", "style="} {
			if strings.Contains(m[2], bad) {
				t.Errorf("an element has %s: %s", bad, m[0])
			}
		}
	}
	for _, bad := range []string{"\u202e", "\x00", "\x1b", "http://", "https://", "url(", "@import"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if n := strings.Count(page, "&lt;script&gt;"); n < 20 {
		t.Errorf("the hostile text stands on the page %d times: places are not tested any more", n)
	}
}

func TestThePageAllowsItsOwnStyleAndNothingElse(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, &Verdict{}); err != nil {
		t.Fatal(err)
	}
	rule := policy.FindStringSubmatch(b.String())
	css := style.FindStringSubmatch(b.String())
	if rule == nil || css == nil {
		t.Fatal("no policy or no style")
	}
	sum := sha256.Sum256([]byte(css[1]))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
	if got := html.UnescapeString(rule[1]); got != want {
		t.Errorf("policy %q, want %q", got, want)
	}
	for _, rule := range []string{"@page { size: A4", "break-inside: avoid", "background: #fff", "table-header-group"} {
		if !strings.Contains(css[1], rule) {
			t.Errorf("the style has no %q", rule)
		}
	}
}

func TestThePageSaysWhatWasFound(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 2, nil)
	lu := w.logs["lu"]
	other := lu.fork()
	lu.object(hash32(50))
	other.object(hash32(51))
	p := w.pack(lu.show(0, lu.cosigned(), other.checkpoint(0)))
	p.Withhold(func(_ string, i uint64, _ *ledger.Leaf) bool { return i == 2 })
	v := w.judgeBy(nil, p)
	var b bytes.Buffer
	if err := HTML(&b, v); err != nil {
		t.Fatal(err)
	}
	text := html.UnescapeString(tags.ReplaceAllString(b.String(), " "))
	for _, want := range []string{
		"Republic of X", "by embassy lu", "The ledger of embassy lu has shown everyone the same history.", "What is not known", "withheld",
		"Nobody gave a charter to compare with", w.charter.State.Name, "agent agent", "objects stored", "charter 1 taken",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}
