package agreement

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/charter"
)

// The tags `is` of the fields say what a value may be:
//
//	text N          1 to N bytes of visible text
//	text or none N  the same, or nothing
//	texts N         up to N different texts of up to 256 bytes
//	name            as charters have them
//	names N         1 to N different names
//	code            two capital letters; "code or none": or nothing
//	currency        three capital letters
//	key             an SSH public key as charters have them
//	fingerprint     of an embassy's key
//	yesno           "yes" or "no"
//	one of A B …    one of these words
//	some of A B …   a list of different ones of these words, at least one; "any of": perhaps none
//	up to N         a list of so many entries
//	above 0         a span that is not "0"
//
// Spans and dates are known by their types. Numbers, and what one field demands of another, are in [Agreement.Validate].

var (
	codePattern     = regexp.MustCompile(`^[A-Z]{2}$`)
	currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)
)

const (
	maxQuota = 1 << 60
	maxRate  = 1_000_000
	maxMoney = 1_000_000_000_000
	million  = 1_000_000
)

// Validate checks every rule that an agreement keeps by itself; [ErrInvalid] says which is broken. What it keeps with
// the one before it is [CheckAmendment].
func (a *Agreement) Validate() error {
	if err := a.validateDraft(); err != nil {
		return err
	}
	if missing := a.Missing(); len(missing) > 0 {
		return invalid("not agreed yet: %s", strings.Join(missing, ", "))
	}
	return nil
}

// Missing lists the fields in which a draft is still open, by their path in the document.
func (a *Agreement) Missing() (fields []string) {
	if len(a.Host.Signatories) == 0 {
		fields = append(fields, "host.signatories")
	}
	_ = walk("", reflect.ValueOf(a).Elem(), func(path, _ string, v reflect.Value) error { // never fails
		texts, list := v.Interface().([]string)
		if v.Kind() == reflect.String && v.String() == Open || list && slices.Contains(texts, Open) {
			fields = append(fields, path)
		}
		return nil
	})
	return fields
}

func (a *Agreement) validateDraft() error {
	switch {
	case a.Version != Version:
		return invalid("version %d: this program knows version %d", a.Version, Version)
	case a.Number < 1 || a.Number > 1<<32:
		return invalid("number: counts from 1")
	case a.Number == 1 && a.Previous != "":
		return invalid("previous: agreement 1 follows none")
	case a.State.ID == charter.StateID{}:
		return invalid("state.id: is zero")
	}
	if a.Number > 1 {
		if _, err := charter.ParseDigest(a.Previous); err != nil {
			return invalid("previous: want the hash of agreement %d: 64 lowercase hexadecimal digits", a.Number-1)
		}
	}
	if err := walk("", reflect.ValueOf(a).Elem(), checkField); err != nil {
		return err
	}
	for _, check := range []func(*Agreement) error{checkSignatories, checkDuties, checkCost, checkBetween} {
		if err := check(a); err != nil {
			return err
		}
	}
	return nil
}

// walk calls f for each field below v that is no struct, with its path and rule. Items of lists are numbered from 1.
func walk(path string, v reflect.Value, f func(path, rule string, v reflect.Value) error) error {
	for i := range v.NumField() {
		t := v.Type().Field(i)
		key := t.Tag.Get("yaml")
		if key == "" {
			continue
		}
		at, x := strings.TrimPrefix(path+"."+key, "."), v.Field(i)
		if x.Kind() == reflect.Struct {
			if err := walk(at, x, f); err != nil {
				return err
			}
			continue
		}
		if err := f(at, t.Tag.Get("is"), x); err != nil {
			return err
		}
		for i := range lengthOf(x) {
			if item := x.Index(i); item.Kind() == reflect.Struct {
				if err := walk(at+"."+strconv.Itoa(i+1), item, f); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// lengthOf is the number of a list's items; an id is no list.
func lengthOf(v reflect.Value) int {
	if v.Kind() != reflect.Slice {
		return 0
	}
	return v.Len()
}

func checkField(path, rule string, v reflect.Value) error {
	switch x := v.Interface().(type) {
	case charter.Span:
		if !x.Valid() {
			return invalid("%s %q: want 0, or a number of up to five digits and s, m, h or d, such as 72h", path, x)
		}
		if rule == "above 0" && x.Duration() == 0 {
			return invalid("%s: must be longer than 0", path)
		}
	case charter.Date:
		if !x.Valid() && !(rule == "or none" && x == "") {
			return invalid("%s %q: want a day such as 2026-01-31", path, x)
		}
	case string:
		if why := wrongText(rule, x); why != "" {
			return invalid("%s: want %s", path, why)
		}
	case []string:
		return checkTexts(path, rule, x)
	default:
		if most, ok := number(rule, "up to "); ok && lengthOf(v) > most {
			return invalid("%s: %d entries: at most %d", path, lengthOf(v), most)
		}
	}
	return nil
}

// number reads the number at the end of a rule that begins with kind.
func number(rule, kind string) (int, bool) {
	rest, ok := strings.CutPrefix(rule, kind)
	n, err := strconv.Atoi(rest)
	return n, ok && err == nil
}

// wrongText says what a text should be, and nothing where it is that.
func wrongText(rule, s string) string {
	ok, want := true, ""
	if most, is := number(rule, "text or none "); is {
		ok, want = s == "" || canon.ValidText(s, most), fmt.Sprintf("nothing, or up to %d bytes of visible text without quotes or backslashes", most)
	} else if most, is := number(rule, "text "); is {
		ok, want = canon.ValidText(s, most), fmt.Sprintf("1 to %d bytes of visible text without quotes or backslashes", most)
	} else if words, is := strings.CutPrefix(rule, "one of "); is {
		ok, want = slices.Contains(strings.Fields(words), s), "one of "+strings.Join(strings.Fields(words), ", ")
	}
	switch rule {
	case "name":
		ok, want = charter.ValidName(s), "a lowercase letter, then up to 31 lowercase letters, digits and hyphens"
	case "code", "code or none":
		ok, want = codePattern.MatchString(s) || s == "" && rule != "code", "two capital letters"
	case "currency":
		ok, want = currencyPattern.MatchString(s), "three capital letters"
	case "yesno":
		ok, want = s == "yes" || s == "no", "yes or no"
	case "fingerprint":
		ok, want = validFingerprint(s), "the fingerprint of the embassy's key, SHA256:…, as embassy init printed it"
	case "key":
		ok, want = validKey(s), "an SSH public key, ssh-ed25519 or sk-ssh-ed25519@openssh.com: type and base64, one space between, no comment"
	}
	if ok {
		return ""
	}
	return want
}

func validKey(s string) bool {
	key, err := charter.ParseSSHPublicKey([]byte(s))
	return err == nil && key == s
}

func validFingerprint(s string) bool {
	text, ok := strings.CutPrefix(s, "SHA256:")
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	return ok && err == nil && len(b) == 32 && base64.RawStdEncoding.EncodeToString(b) == text
}

func checkTexts(path, rule string, texts []string) error {
	kind, rest, _ := strings.Cut(rule, " ")
	words := strings.Fields(strings.TrimPrefix(rest, "of "))
	least, most := 0, len(words)
	switch kind {
	case "some":
		least = 1
	case "names", "texts":
		most, _ = strconv.Atoi(rest) // a constant of this package
		if kind == "names" {
			least = 1
		}
	}
	if len(texts) < least || len(texts) > most {
		return invalid("%s: %d entries: want %d to %d", path, len(texts), least, most)
	}
	for i, s := range texts {
		why := ""
		switch kind {
		case "names":
			why = wrongText("name", s)
		case "texts":
			why = wrongText("text 256", s)
		default:
			why = wrongText("one of "+strings.Join(words, " "), s)
		}
		if why != "" {
			return invalid("%s: entry %d: want %s", path, i+1, why)
		}
		if slices.Contains(texts[:i], s) {
			return invalid("%s: entry %d: %s stands there twice", path, i+1, s)
		}
	}
	return nil
}

func checkSignatories(a *Agreement) error {
	names, keys := map[string]bool{}, map[string]string{}
	for i, s := range a.Host.Signatories {
		if names[s.Name] {
			return invalid("host.signatories.%d: the name %s is taken", i+1, s.Name)
		}
		if other, taken := keys[s.Key]; taken {
			return invalid("host.signatories.%d: %s has the same key as %s", i+1, s.Name, other)
		}
		names[s.Name], keys[s.Key] = true, s.Name
	}
	if n := len(a.Host.Signatories); a.Host.Need < 1 || n > 0 && a.Host.Need > n {
		return invalid("host.need: %d of %d signatories is not possible", a.Host.Need, n)
	}
	return nil
}

func checkDuties(a *Agreement) error {
	d := &a.Duties
	switch {
	case d.Links < 1 || d.Links > 16:
		return invalid("duties.links: %d: want 1 to 16", d.Links)
	case d.Independent < 0 || d.Independent > d.Links:
		return invalid("duties.links_independent: %d of %d links", d.Independent, d.Links)
	case d.UptimePPM < 0 || d.UptimePPM > million:
		return invalid("duties.uptime_ppm: %d: want millionths, 0 to 1000000; 999950 is 99.995 %%", d.UptimePPM)
	case d.Windows.Duration() > d.UptimeOver.Duration():
		return invalid("duties.maintenance_most: %s is longer than uptime_over, %s", d.Windows, d.UptimeOver)
	}
	return nil
}

func checkCost(a *Agreement) error {
	c, l := &a.Cost, &a.Limits
	switch {
	case c.PricePerTBMonth > maxMoney || c.FixedPerPeriod > maxMoney:
		return invalid("cost: more than %d of the smallest unit", int64(maxMoney))
	case c.Basis == "use" && c.FixedPerPeriod != 0:
		return invalid("cost.fixed_per_period: want 0 where the basis is use")
	case c.Basis == "fixed" && c.PricePerTBMonth != 0:
		return invalid("cost.price_per_tb_month: want 0 where the basis is fixed")
	case l.QuotaBytes < 1 || l.QuotaBytes > maxQuota:
		return invalid("limits.quota_bytes: want 1 to %d", int64(maxQuota))
	case l.RequestsPerSecond < 1 || l.RequestsPerSecond > maxRate:
		return invalid("limits.requests_per_second: want 1 to %d", maxRate)
	}
	return nil
}

// checkBetween checks what one field demands of another.
func checkBetween(a *Agreement) error {
	switch {
	case a.InForce.Until != "" && a.InForce.Until.Start().Before(a.InForce.From.Start()):
		return invalid("in_force.until: %s is before from, %s", a.InForce.Until, a.InForce.From)
	case a.InForce.Until == "" && a.InForce.Renewal != "none":
		return invalid("in_force.renewal: want none where there is no end")
	case (a.Premises.Shared == "yes") != (len(a.Premises.Others) > 0):
		return invalid("premises.others: want those who share the premises, and nobody where shared is no")
	case a.Number == 1 && a.Retention.Lowers != "no":
		return invalid("retention.lowers: agreement 1 lowers nothing")
	case (a.Termination.Custodian.Name == "") != (a.Termination.Custodian.Code == ""):
		return invalid("termination.custodian: want name and code of a third state, or neither")
	case a.Termination.Custodian.Code == a.State.Code || a.Termination.Custodian.Code == a.Host.Code:
		return invalid("termination.custodian: want a third state, not a party")
	case a.State.Code == a.Host.Code:
		return invalid("host.code: the state is not its own host")
	}
	for i, x := range a.Entry.Exceptions {
		if slices.ContainsFunc(a.Entry.Exceptions[:i], func(y Exception) bool { return y.Case == x.Case }) {
			return invalid("entry.exceptions.%d: %s stands there twice", i+1, x.Case)
		}
	}
	for i, x := range a.Notices {
		if slices.ContainsFunc(a.Notices[:i], func(y Notice) bool { return y.Kind == x.Kind && y.By == x.By }) {
			return invalid("notices.%d: %s by %s stands there twice", i+1, x.Kind, x.By)
		}
	}
	return nil
}
