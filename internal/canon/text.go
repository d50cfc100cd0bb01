package canon

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextError says which line of a text is not in its canonical form, from 1; Line is 0 where it is the whole text. It
// is an [ErrForm].
type TextError struct {
	Line int
	Why  string
}

// Error names the line first.
func (e *TextError) Error() string {
	if e.Line == 0 {
		return e.Why
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Why)
}

// Is makes every TextError an [ErrForm].
func (e *TextError) Is(target error) bool { return errors.Is(ErrForm, target) }

// shape is what a line of a signed text may look like. It leaves no room for the parts of YAML that readers disagree
// about: anchors, tags, merges, flow and block text, escapes, several documents.
var shape = regexp.MustCompile(`^ *(- )?([a-z_]+:|[a-z_]+: ("[^"\\]*"|0|[1-9][0-9]*|\[\])|"[^"\\]*")$`)

// CheckLines holds a signed text of at most limit bytes to what every one keeps to, whatever it says: UTF-8 of visible
// characters, each line ended by a newline, and each line empty, a comment, or of the form `key: "text"`,
// `key: number`, or a list item. It fails with a [TextError].
func CheckLines(doc []byte, limit int) error {
	switch {
	case len(doc) > limit:
		return &TextError{0, fmt.Sprintf("document of %d bytes is longer than %d", len(doc), limit)}
	case !utf8.Valid(doc):
		return &TextError{0, "document is not UTF-8"}
	case !bytes.HasSuffix(doc, []byte("\n")):
		return &TextError{0, "document does not end with a newline"}
	}
	n := 0
	for line := range bytes.Lines(doc) {
		n++
		line = line[:len(line)-1]
		if bytes.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			return &TextError{n, "holds a character that cannot be seen"}
		}
		if !skip(line) && !shape.Match(line) {
			return &TextError{n, "not of the form `key: \"text\"`, `key: number` or a list item"}
		}
	}
	return nil
}

// skip reports whether a line means nothing: empty, or only a comment.
func skip(line []byte) bool {
	line = bytes.TrimLeft(line, " ")
	return len(line) == 0 || line[0] == '#'
}

// CompareLines holds the lines of doc that mean something against want, the canonical layout without comments and
// empty lines, which a [Text] with Bare writes. It fails with a [TextError].
func CompareLines(doc, want []byte) error {
	n := 0
	for line := range bytes.Lines(doc) {
		n++
		if skip(line[:len(line)-1]) {
			continue
		}
		end := bytes.IndexByte(want, '\n') + 1
		if end == 0 {
			return &TextError{n, "more than the document holds"}
		}
		if !bytes.Equal(line, want[:end]) {
			return &TextError{n, fmt.Sprintf("want exactly `%s`", want[:end-1])}
		}
		want = want[end:]
	}
	if len(want) != 0 {
		return &TextError{n, "the end is missing"}
	}
	return nil
}

// ValidText accepts 1 to limit bytes of visible text that such a line can hold in double quotes as it is, without a
// space at either end.
func ValidText(s string, limit int) bool {
	if len(s) < 1 || len(s) > limit || !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '"' || r == '\\' }) < 0
}

// Text writes the canonical layout of a signed text line by line. Texts that it is given must be [ValidText].
type Text struct {
	bytes.Buffer
	Bare bool // leave out comments and empty lines
}

// Comment writes a line for people. It means nothing, and is signed like all others.
func (w *Text) Comment(format string, args ...any) {
	if !w.Bare {
		w.WriteString(strings.TrimRight("# "+fmt.Sprintf(format, args...), " ") + "\n")
	}
}

// Blank writes an empty line.
func (w *Text) Blank() {
	if !w.Bare {
		w.WriteByte('\n')
	}
}

// List writes the line that begins a list of n items; key is indented by whoever calls.
func (w *Text) List(key string, n int) {
	if n == 0 {
		key += ": []\n"
	} else {
		key += ":\n"
	}
	w.WriteString(key)
}

// Texts writes a list of texts under key; both are indented by indent spaces.
func (w *Text) Texts(indent int, key string, texts []string) {
	pad := strings.Repeat(" ", indent)
	w.List(pad+key, len(texts))
	for _, t := range texts {
		fmt.Fprintf(w, "%s  - \"%s\"\n", pad, t)
	}
}
