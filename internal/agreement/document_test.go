package agreement

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
)

func TestADocumentSaysWhatTheAgreementSays(t *testing.T) {
	for name, a := range map[string]Agreement{
		"the sample": sample(t),
		"another": *changed(t, func(a *Agreement) {
			a.InForce.Until, a.InForce.Renewal = "", "none"
			a.Notices, a.Entry.Exceptions, a.Duties.NotCounted = nil, nil, nil
			a.Premises.Shared, a.Premises.Others = "no", nil
			a.Termination.Custodian = Custody{"Kingdom of Nowhere", "NW"}
			a.Cost.Basis, a.Cost.PricePerTBMonth, a.Cost.FixedPerPeriod = "fixed", 0, 1_000_000
			a.Host.Name = "Ünïcode – “quoted” and 国"
		}),
	} {
		made := mustNew(t, a)
		bare := withoutComments(made.Bytes())
		again, err := Parse(bare)
		if err != nil {
			t.Errorf("%s without comments: %v", name, err)
			continue
		}
		if again.Hash() == made.Hash() {
			t.Errorf("%s: comments are not part of the hash", name)
		}
		again.doc = made.doc
		if !reflect.DeepEqual(again, made) {
			t.Errorf("%s: comments change the meaning", name)
		}
	}
}

// withoutComments takes comments and empty lines away.
func withoutComments(doc []byte) []byte {
	var out []byte
	for line := range bytes.Lines(doc) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			out = append(out, line...)
		}
	}
	return out
}

func TestParseRefusesAllButTheCanonicalForm(t *testing.T) {
	doc := string(mustNew(t, sample(t)).Bytes())
	if _, err := Parse([]byte(doc)); err != nil { // the control
		t.Fatal(err)
	}
	replace := func(from, to string) string {
		if !strings.Contains(doc, from) {
			t.Fatalf("the sample has no %q", from)
		}
		return strings.Replace(doc, from, to, 1)
	}
	for name, bad := range map[string]string{
		"nothing":                  "",
		"no newline at the end":    strings.TrimSuffix(doc, "\n"),
		"CRLF":                     strings.ReplaceAll(doc, "\n", "\r\n"),
		"a tab":                    replace("  until:", "\tuntil:"),
		"text without quotes":      replace(`"room"`, "room"),
		"single quotes":            replace(`"room"`, "'room'"),
		"a number in quotes":       replace("uptime_ppm: 999950", `uptime_ppm: "999950"`),
		"a number with a zero":     replace("uptime_ppm: 999950", "uptime_ppm: 0999950"),
		"a number with a point":    replace("uptime_ppm: 999950", "uptime_ppm: 999950.0"),
		"a number below 0":         replace("uptime_ppm: 999950", "uptime_ppm: -1"),
		"a comment behind a value": replace(`boundary: "room"`, `boundary: "room" # walls`),
		"an escape":                replace(`"room"`, `"r\u006fom"`),
		"a field twice":            replace(`  boundary: "room"`, "  boundary: \"room\"\n  boundary: \"room\""),
		"a field too many":         replace(`  boundary: "room"`, "  boundary: \"room\"\n  colour: \"red\""),
		"a field missing":          replace("  boundary: \"room\"\n", ""),
		"two fields exchanged":     replace("  minimum: \"90d\"\n  cooling_off: \"72h\"\n", "  cooling_off: \"72h\"\n  minimum: \"90d\"\n"),
		"a list in one line":       replace("\n    - \"embassies\"\n    - \"home\"", ` ["embassies", "home"]`),
		"indented otherwise":       replace("    - \"embassies\"", "  - \"embassies\""),
		"an anchor":                replace("premises:\n", "premises: &a\n"),
		"a merge":                  replace("premises:\n", "premises:\n  <<: *a\n"),
		"a tag":                    replace(`"room"`, `!!str "room"`),
		"a second document":        doc + "---\n" + doc,
		"an end of document":       doc + "...\n",
		"cut off":                  doc[:strings.Index(doc, "disputes:")],
		"a direction mark":         replace("Minister of State", "Minister\u202eof State"),
		"a character nobody sees":  replace("Minister of State", "Minister\u200b of State"),
		"a hard space":             replace("Minister of State", "Minister\u00a0of State"),
		"too long":                 doc + strings.Repeat("# \n", MaxSize/3),
		"not UTF-8":                replace("Minister of State", "Minister \xff"),
		"a newer version":          replace("version: 1", "version: 2"),
		"a number beyond 64 bits":  replace("quota_bytes: 10000000000000", "quota_bytes: 99999999999999999999"),
	} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Parse([]byte(replace("  boundary: \"room\"\n", "")))
	if err == nil || !strings.Contains(err.Error(), "boundary") {
		t.Errorf("an error that does not say where: %v", err)
	}
}

func TestEveryRule(t *testing.T) {
	long := strings.Repeat("x", 2049)
	for want, change := range map[string]func(*Agreement){
		"version 2":                        func(a *Agreement) { a.Version = 2 },
		"number":                           func(a *Agreement) { a.Number = 0 },
		"previous: agreement 1":            func(a *Agreement) { a.Previous = charter.EncodeDigest([32]byte{1}) },
		"previous: want the":               func(a *Agreement) { a.Number = 2 },
		"state.id":                         func(a *Agreement) { a.State.ID = charter.StateID{} },
		"state.code":                       func(a *Agreement) { a.State.Code = "Um" },
		"host.code":                        func(a *Agreement) { a.Host.Code = "UM" },
		"host.name":                        func(a *Agreement) { a.Host.Name = `the "host"` },
		"host.need: 0":                     func(a *Agreement) { a.Host.Need = 0 },
		"host.need: -1":                    func(a *Agreement) { a.Host.Need = -1 },
		"host.need: 4":                     func(a *Agreement) { a.Host.Need = 4 },
		"not agreed yet: host.signatories": func(a *Agreement) { a.Host.Signatories, a.Host.Need = nil, 1 },
		"host.signatories.2.name":          func(a *Agreement) { a.Host.Signatories[1].Name = "Paul" },
		"host.signatories.2: the name":     func(a *Agreement) { a.Host.Signatories[1].Name = "anne" },
		"has the same key as anne":         func(a *Agreement) { a.Host.Signatories[1].Key = a.Host.Signatories[0].Key },
		"host.signatories.3.key":           func(a *Agreement) { a.Host.Signatories[2].Key += " luc@home" },
		"host.signatories: 65":             func(a *Agreement) { a.Host.Signatories = make([]Signatory, 65) },
		"embassy.key":                      func(a *Agreement) { a.Embassy.Key = a.Embassy.Key[:49] },
		"embassy.name":                     func(a *Agreement) { a.Embassy.Name = "" },
		"in_force.from":                    func(a *Agreement) { a.InForce.From = "2026-02-30" },
		"in_force.until \"never\"":         func(a *Agreement) { a.InForce.Until = "never" },
		"in_force.until: 2026-11-30":       func(a *Agreement) { a.InForce.Until = "2026-11-30" },
		"in_force.renewal: want one":       func(a *Agreement) { a.InForce.Renewal = "tacit" },
		"in_force.renewal: want none":      func(a *Agreement) { a.InForce.Until = "" },
		"premises.boundary":                func(a *Agreement) { a.Premises.Boundary = "country" },
		"premises.others":                  func(a *Agreement) { a.Premises.Others = nil },
		"premises.others: entry 2":         func(a *Agreement) { a.Premises.Others = []string{"a", "a"} },
		"inviolability.covers: 0":          func(a *Agreement) { a.Inviolability.Covers = nil },
		"inviolability.covers: entry 1":    func(a *Agreement) { a.Inviolability.Covers = []string{"people"} },
		"exempt_from: entry 2":             func(a *Agreement) { a.Inviolability.Exempt = []string{"search", "search"} },
		"entry.exceptions.2: fire":         func(a *Agreement) { a.Entry.Exceptions[1].Case = "fire" },
		"entry.exceptions.1.report":        func(a *Agreement) { a.Entry.Exceptions[0].Report = "0" },
		"entry.exceptions: 17":             func(a *Agreement) { a.Entry.Exceptions = make([]Exception, 17) },
		"entry.judiciary":                  func(a *Agreement) { a.Entry.Judiciary = "perhaps" },
		"access.roles: 0":                  func(a *Agreement) { a.Access.Roles = nil },
		"access.roles: entry 1":            func(a *Agreement) { a.Access.Roles = []string{"All of them"} },
		"access.notice \"1 day\"":          func(a *Agreement) { a.Access.Notice = "1 day" },
		"duties.links: 0":                  func(a *Agreement) { a.Duties.Links = 0 },
		"duties.links_independent: 3 of 2": func(a *Agreement) { a.Duties.Independent = 3 },
		"duties.uptime_ppm: 1000001":       func(a *Agreement) { a.Duties.UptimePPM = 1_000_001 },
		"duties.maintenance_most":          func(a *Agreement) { a.Duties.Windows = "366d" },
		"duties.measured_by: 0":            func(a *Agreement) { a.Duties.MeasuredBy = nil },
		"notices.1.by":                     func(a *Agreement) { a.Notices[0].By = "nobody" },
		"notices.2: outage by host": func(a *Agreement) {
			a.Notices = append(a.Notices[:1], Notice{"outage", "host", "after", "1h"}, Notice{"outage", "host", "before", "1h"})
			a.Notices[0] = a.Notices[1]
		},
		"process.refusal":                     func(a *Agreement) { a.Process.Refusal = long },
		"cost.currency":                       func(a *Agreement) { a.Cost.Currency = "Euro" },
		"cost.fixed_per_period":               func(a *Agreement) { a.Cost.FixedPerPeriod = 1 },
		"cost.price_per_tb_month":             func(a *Agreement) { a.Cost.Basis = "fixed" },
		"cost: more than":                     func(a *Agreement) { a.Cost.PricePerTBMonth = maxMoney + 1 },
		"limits.quota_bytes":                  func(a *Agreement) { a.Limits.QuotaBytes = 0 },
		"limits.quota_bytes: want 1 to 11529": func(a *Agreement) { a.Limits.QuotaBytes = maxQuota + 1 },
		"limits.requests_per_second":          func(a *Agreement) { a.Limits.RequestsPerSecond = 0 },
		"retention.minimum \"-1d\"":           func(a *Agreement) { a.Retention.Minimum = "-1d" },
		"retention.lowers":                    func(a *Agreement) { a.Retention.Lowers = "yes" },
		"review.next":                         func(a *Agreement) { a.Review.Next = "" },
		"custodian: want name":                func(a *Agreement) { a.Termination.Custodian.Code = "IS" },
		"custodian: want a third":             func(a *Agreement) { a.Termination.Custodian = Custody{"Us", "UM"} },
		"not agreed yet: premises.others":     func(a *Agreement) { a.Premises.Others = []string{Open} },
		"not agreed yet: law.courts":          func(a *Agreement) { a.Law.Courts = Open },
	} {
		a := sample(t)
		change(&a)
		if _, err := New(a); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A text, word, span or day that is left out is refused, but where the layout says that it may be.
func TestNothingIsLeftOut(t *testing.T) {
	var optional []string
	count := 0
	a := sample(t)
	_ = walk("", reflect.ValueOf(&a).Elem(), func(path, _ string, v reflect.Value) error {
		if v.Kind() != reflect.String {
			return nil
		}
		count++
		old := v.String()
		v.SetString("")
		if _, err := New(a); err == nil {
			optional = append(optional, path)
		} else if part, _, _ := strings.Cut(path, "."); !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error does not name it: %v", path, err)
		}
		v.SetString(old)
		return nil
	})
	// until needs renewal none besides, and a custodian both name and code.
	if want := []string{"previous", "termination.custodian.name", "termination.custodian.code"}; !slices.Equal(optional, want) {
		t.Errorf("may be left out: %v, want %v", optional, want)
	}
	if count < 50 {
		t.Errorf("only %d texts were tried", count)
	}
}

func TestDrafts(t *testing.T) {
	for _, template := range Templates() {
		p := Parties{
			Template: template, State: State{stateID, "Republic of Ümlaut", "UM"}, HostCode: "LU",
			Embassy: Embassy{"lu", "LU", charter.Fingerprint(public(embassyKey))}, From: "2027-01-01",
		}
		doc, err := Draft(p)
		if err != nil {
			t.Fatal(template, err)
		}
		if _, err := Parse(doc); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "host.signatories") {
			t.Errorf("%s: a draft counts as an agreement: %v", template, err)
		}
		a, err := ParseDraft(doc)
		if err != nil {
			t.Fatal(template, err)
		}
		open := a.Missing()
		if !slices.Contains(open, "host.signatories") || !slices.Contains(open, "premises.place") || !slices.Contains(open, "host.name") {
			t.Errorf("%s: open are %v", template, open)
		}
		p.HostName, p.Signatories = "Grand Duchy of Elsewhere", []Signatory{{Name: "anne", Key: sshOf(t, 20)}, {Name: "paul", Key: sshOf(t, 21)}}
		if doc, err = Draft(p); err != nil {
			t.Fatal(template, err)
		}
		if p.Signatories[0].Office != "" {
			t.Error("the caller's list was changed")
		}
		// Whoever fills in what is open has an agreement.
		done, err := Parse([]byte(strings.ReplaceAll(string(doc), Open, "as agreed")))
		if err != nil {
			t.Fatalf("%s, filled in: %v", template, err)
		}
		if done.Host.Need != 2 || done.Premises.Boundary != template {
			t.Errorf("%s: need %d, boundary %s", template, done.Host.Need, done.Premises.Boundary)
		}
	}
	if _, err := Draft(Parties{Template: "ship", From: "2027-01-01"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a template that is none: %v", err)
	}
}

func TestNotesStandAtRealFields(t *testing.T) {
	doc := string(mustNew(t, sample(t)).Bytes())
	for path, text := range notes {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); !strings.Contains(doc, "# "+line+"\n") {
				t.Errorf("%s: the note is written nowhere: %s", path, line)
			}
			if len(line) > 128 {
				t.Errorf("%s: a line of %d characters", path, len(line))
			}
		}
	}
}
