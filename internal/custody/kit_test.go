package custody

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func sampleKit(t testing.TB) *Kit {
	t.Helper()
	_, shares, _ := split(t, 40, 3, 5)
	_, recipient := identity(t, "mari")
	sealed, err := SealShare(shares[0], recipient)
	if err != nil {
		t.Fatal(err)
	}
	return &Kit{
		State: [16]byte{1, 2, 3}, StateName: "Republic of Ümlaut", Custodian: "mari", X: 1, Threshold: 3, Total: 5, Generation: 1,
		Charter: []byte("version: 1\n"), Signature: []byte("signatures\n"), Share: sealed,
		Embassies: []KitEmbassy{
			{"lux", "LU", take32(41), []string{"https://lux.example:8443", "https://192.0.2.1:8443"}},
			{"reykjavik", "IS", take32(42), []string{"https://is.example"}},
		},
	}
}

func mustBuild(t testing.TB, k *Kit) map[string][]byte {
	t.Helper()
	files, err := BuildKit(k)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestKitRoundTrips(t *testing.T) {
	for _, embassies := range []int{0, 1, 2} {
		want := sampleKit(t)
		want.Embassies = want.Embassies[:embassies:embassies]
		got, err := ParseKit(mustBuild(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if embassies == 0 {
			got.Embassies = want.Embassies
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestKitHasExactlyItsFiles(t *testing.T) {
	files := mustBuild(t, sampleKit(t))
	if len(files) != 5 {
		t.Errorf("%d files", len(files))
	}
	for name := range files {
		less := maps.Clone(files)
		delete(less, name)
		if _, err := ParseKit(less); !errors.Is(err, ErrKit) || !strings.Contains(err.Error(), name+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
		for _, content := range [][]byte{nil, make([]byte, 2<<20)} {
			other := maps.Clone(files)
			other[name] = content
			if _, err := ParseKit(other); !errors.Is(err, ErrKit) {
				t.Errorf("%s with %d bytes: %v", name, len(content), err)
			}
		}
	}
	more := maps.Clone(files)
	more["key.txt"] = []byte("x")
	if _, err := ParseKit(more); !errors.Is(err, ErrKit) || !strings.Contains(err.Error(), "key.txt") {
		t.Errorf("with another file: %v", err)
	}
}

func TestKitPageSaysWhatToDo(t *testing.T) {
	k := sampleKit(t)
	files := mustBuild(t, k)
	page := string(files[KitReadme])
	hash := sha256.Sum256(k.Charter)
	for _, want := range []string{
		"Republic of Ümlaut", "mari", "1 of 5; any 3 of them open", fmt.Sprintf("%x", hash),
		"chancery recover --to DIR \\\n        --kit KIT1 --identity KEY1 \\\n        --kit KIT2 --identity KEY2 \\\n        --kit KIT3 --identity KEY3\n",
		"chancery custodian kit --kit KIT --identity KEY\n",
		"chancery custodian release --kit KIT --identity KEY --request request.txt \\\n        --fingerprint \"FINGERPRINT\" --out NAME.share\n",
		"private key is NOT in this folder", "https://lux.example:8443", "https://192.0.2.1:8443", keyFingerprint(take32(42)),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for n, line := range strings.Split(page, "\n") {
		if len(line) > 100 || strings.TrimRight(line, " \t") != line && !strings.Contains(line, "SHA256:") {
			t.Errorf("line %d: %q", n+1, line)
		}
	}
	k.Threshold, k.Embassies = 1, nil
	page = string(mustBuild(t, k)[KitReadme])
	if !strings.Contains(page, "chancery recover --to DIR --kit KIT --identity KEY\n") || !strings.Contains(page, "None when this kit was made") {
		t.Error("page for one custodian and no embassies")
	}
}

func TestKitParserIsStrict(t *testing.T) {
	files := mustBuild(t, sampleKit(t))
	good := string(files[KitEmbassies])
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, bad := range map[string]string{
		"version": swap("version: 1", "version: 2"), "state": swap("01020300", "0102030"), "state zero": swap("010203", "000000"),
		"charter": swap("charter_hash: \"", "charter_hash: \"0"), "custodian": swap("custodian: \"mari\"", "custodian: \"Mari\""),
		"share": swap("share: 1", "share: 6"), "threshold": swap("threshold: 3", "threshold: 0"), "total": swap("total: 5", "total: 2"),
		"plain": swap("\"lux\"", "lux"), "name twice": swap("\"reykjavik\"", "\"lux\""), "country": swap("\"LU\"", "\"lu\""),
		"fingerprint": swap("fingerprint: \"SHA256:", "fingerprint: \"SHA256:A"), "key": swap("key: \"", "key: \"A"),
		"address": swap("https://lux", "http://lux"), "no address": swap("      - \"https://is.example\"\n", ""), "more": good + "x: 1\n",
		"no newline": strings.TrimSuffix(good, "\n"), "escape": swap("\"lux\"", `"l\x75x"`), "cut": good[:strings.Index(good, "  - name")],
		"many addresses": swap("      - \"https://is.example\"\n", strings.Repeat("      - \"https://is.example\"\n", 9)),
	} {
		if bad == good {
			t.Fatalf("%s: nothing changed", name)
		}
		other := maps.Clone(files)
		other[KitEmbassies] = []byte(bad)
		if _, err := ParseKit(other); !errors.Is(err, ErrKit) {
			t.Errorf("%s: error %v, want ErrKit", name, err)
		}
	}
	other := maps.Clone(files)
	other[KitCharter] = []byte("version: 2\n")
	if _, err := ParseKit(other); !errors.Is(err, ErrKit) || !strings.Contains(err.Error(), "is not the charter") {
		t.Errorf("another charter: %v", err)
	}
	other = maps.Clone(files)
	other[KitShare] = []byte("AGE-SECRET-KEY-PQ-1")
	if _, err := ParseKit(other); !errors.Is(err, ErrKit) {
		t.Errorf("a share in the clear: %v", err)
	}
	other = maps.Clone(files)
	other[KitReadme] = []byte("words of a later release\n")
	other[KitEmbassies] = append([]byte("# a note\n\n"), files[KitEmbassies]...)
	if _, err := ParseKit(other); err != nil {
		t.Errorf("control: other words and comments: %v", err)
	}
}

func TestKitHoldsNoSecret(t *testing.T) {
	k := sampleKit(t)
	_, shares, _ := split(t, 40, 3, 5)
	for name, content := range mustBuild(t, k) {
		for _, secret := range [][]byte{shares[0].Value[:], fmt.Appendf(nil, "%x", shares[0].Value[:]), []byte("AGE-SECRET-KEY")} {
			if bytes.Contains(content, secret) {
				t.Errorf("%s holds a secret", name)
			}
		}
	}
}
