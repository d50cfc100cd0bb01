package custody

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrMalformed is returned for a share, request, release or kit that is not in
// its one canonical form.
var ErrMalformed = errors.New("malformed")

// Marshal writes the share as text. The text is secret: see [SealShare].
//
//	chancery share v1
//	state: 32 hexadecimal digits
//	generation: 1
//	share: 3
//	threshold: 3
//	total: 5
//	holder: mari
//	salt: 64 hexadecimal digits
//	value: 64 hexadecimal digits
func (s *Share) Marshal() []byte {
	return fmt.Appendf(nil, "chancery share v1\nstate: %x\ngeneration: %d\nshare: %d\nthreshold: %d\ntotal: %d\nholder: %s\nsalt: %x\nvalue: %x\n",
		s.State[:], s.Generation, s.X, s.Threshold, s.Total, s.Holder, s.Salt[:], s.Value[:])
}

// ParseShare reads what [Share.Marshal] writes and nothing else. Errors name
// the line and never show its content.
func ParseShare(text []byte) (Share, error) {
	var s Share
	l := lines{kind: "share", rest: string(text)}
	l.exact("chancery share v1")
	l.hex("state", s.State[:])
	s.Generation = uint32(l.number("generation", 1<<32-1))
	s.X = uint8(l.number("share", MaxHolders))
	s.Threshold = uint8(l.number("threshold", MaxHolders))
	s.Total = uint8(l.number("total", MaxHolders))
	s.Holder = l.value("holder")
	if l.err == nil && !validName(s.Holder) {
		l.fail("not a name")
	}
	l.hex("salt", s.Salt[:])
	l.hex("value", s.Value[:])
	l.end()
	if l.err == nil && (s.Threshold > s.Total || s.X > s.Total) {
		l.fail("share, threshold and total do not fit together")
	}
	if l.err != nil {
		return Share{}, l.err
	}
	return s, nil
}

// Format writes whose share it is and nothing secret, whatever the verb.
func (s Share) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Share(%d of %d, custodian %s, generation %d, redacted)", s.X, s.Total, printName(s.Holder), s.Generation)
}

// MarshalJSON writes whose share it is and nothing secret.
func (s Share) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint(s)) }

// lines reads a text line by line and remembers the first fault.
type lines struct {
	kind string
	rest string
	n    int
	err  error
}

func (l *lines) fail(why string) {
	if l.err == nil {
		l.err = fmt.Errorf("%s: line %d: %w: %s", l.kind, l.n, ErrMalformed, why)
	}
}

func (l *lines) next() string {
	if l.err != nil {
		return ""
	}
	l.n++
	line, rest, found := strings.Cut(l.rest, "\n")
	if !found {
		l.fail("missing, or without a newline")
		return ""
	}
	l.rest = rest
	return line
}

// exact demands a whole line.
func (l *lines) exact(want string) {
	if line := l.next(); l.err == nil && line != want {
		l.fail("want `" + want + "`")
	}
}

// value demands "key: something".
func (l *lines) value(key string) string {
	v, found := strings.CutPrefix(l.next(), key+": ")
	if l.err == nil && (!found || v == "") {
		l.fail("want `" + key + ": …`")
	}
	return v
}

// hex fills dst from a value of lowercase digits.
func (l *lines) hex(key string, dst []byte) {
	v := l.value(key)
	if l.err != nil {
		return
	}
	if !decodeHex(dst, v) {
		l.fail(fmt.Sprintf("%s: want %d lowercase hexadecimal digits", key, 2*len(dst)))
	}
}

// number reads a decimal value from 1 to limit.
func (l *lines) number(key string, limit uint64) uint64 {
	v := l.value(key)
	if l.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n < 1 || n > limit || strconv.FormatUint(n, 10) != v {
		l.fail(fmt.Sprintf("%s: want a number from 1 to %d", key, limit))
		return 0
	}
	return n
}

func (l *lines) end() {
	if l.err == nil && l.rest != "" {
		l.n++
		l.fail("more than there should be")
	}
}

func decodeHex(dst []byte, text string) bool {
	if len(text) != 2*len(dst) {
		return false
	}
	for i := range len(text) {
		if c := text[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(text))
	return err == nil
}

// validName is the rule for names in a charter: a lowercase letter, then up to
// 31 lowercase letters, digits and hyphens.
func validName(s string) bool {
	if len(s) < 1 || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// printName keeps what is not a name from reaching a terminal as it is.
func printName(s string) string {
	if validName(s) {
		return s
	}
	return strconv.QuoteToASCII(s[:min(len(s), 40)])
}
