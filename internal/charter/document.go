package charter

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// Marshal checks c and writes its document, with comments for people.
func (c *Charter) Marshal() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var w writer
	w.comment("Charter %d of %s (%s).", c.Number, c.State.Name, c.State.Code)
	w.comment("")
	w.comment("The state's own policy: its people, keys, thresholds, agents and embassies.")
	w.comment("It is in force when %d of the %d signers below have signed these exact bytes,", c.Threshold, len(c.Signers))
	w.comment("and, from charter 2 on, as many signers of the charter before as that one asks for.")
	w.comment("To sign:  ssh-keygen -Y sign -n %s -f YOUR_KEY charter.yaml", Namespace)
	w.comment("Comments are signed too. Change nothing here: a change is a new charter.")
	w.blank()
	w.body(c)
	if w.Len() > MaxSize {
		return nil, invalid("document of %d bytes is longer than %d", w.Len(), MaxSize)
	}
	return w.Bytes(), nil
}

// Parse reads a charter and checks it with [Charter.Validate]. It accepts only
// the layout that [Charter.Marshal] writes, except that lines that are empty or
// hold nothing but a comment may come and go. An error names the line.
// doc is copied.
func Parse(doc []byte) (*Charter, error) {
	if err := checkLines(doc); err != nil {
		return nil, err
	}
	var c Charter
	if err := yaml.UnmarshalWithOptions(doc, &c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("charter: %w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w := writer{bare: true}
	w.body(&c)
	if err := compareLines(doc, w.Bytes()); err != nil {
		return nil, err
	}
	c.doc = bytes.Clone(doc)
	return &c, nil
}

// shape is what a line of a charter may look like. It leaves no room for the
// parts of YAML that readers disagree about: anchors, tags, merges, flow and
// block text, escapes, several documents.
var shape = regexp.MustCompile(`^ *(- )?([a-z_]+:|[a-z_]+: ("[^"\\]*"|0|[1-9][0-9]*|\[\])|"[^"\\]*")$`)

func checkLines(doc []byte) error {
	if len(doc) > MaxSize {
		return invalid("document of %d bytes is longer than %d", len(doc), MaxSize)
	}
	if !utf8.Valid(doc) {
		return invalid("document is not UTF-8")
	}
	if !bytes.HasSuffix(doc, []byte("\n")) {
		return invalid("document does not end with a newline")
	}
	n := 0
	for line := range bytes.Lines(doc) {
		n++
		line = line[:len(line)-1]
		if bytes.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			return invalid("line %d: holds a character that cannot be seen", n)
		}
		if !skip(line) && !shape.Match(line) {
			return invalid("line %d: not of the form `key: \"text\"`, `key: number` or a list item", n)
		}
	}
	return nil
}

// skip reports whether a line means nothing: empty, or only a comment.
func skip(line []byte) bool {
	line = bytes.TrimLeft(line, " ")
	return len(line) == 0 || line[0] == '#'
}

// compareLines holds the lines of doc that mean something against want.
func compareLines(doc, want []byte) error {
	n := 0
	for line := range bytes.Lines(doc) {
		n++
		if skip(line[:len(line)-1]) {
			continue
		}
		end := bytes.IndexByte(want, '\n') + 1
		if end == 0 {
			return invalid("line %d: more than a charter holds", n)
		}
		if !bytes.Equal(line, want[:end]) {
			return invalid("line %d: want exactly `%s`", n, want[:end-1])
		}
		want = want[end:]
	}
	if len(want) != 0 {
		return invalid("line %d: the end is missing", n)
	}
	return nil
}

// writer writes the canonical layout. Texts hold neither quotes nor
// backslashes nor control characters: Validate has seen to it.
type writer struct {
	bytes.Buffer
	bare bool // leave out comments and empty lines
}

func (w *writer) comment(format string, args ...any) {
	if !w.bare {
		w.WriteString(strings.TrimRight("# "+fmt.Sprintf(format, args...), " ") + "\n")
	}
}

func (w *writer) blank() {
	if !w.bare {
		w.WriteByte('\n')
	}
}

func (w *writer) body(c *Charter) {
	fmt.Fprintf(w, "version: %d\n", c.Version)
	fmt.Fprintf(w, "state:\n  id: \"%s\"\n  name: \"%s\"\n  code: \"%s\"\n", c.State.ID, c.State.Name, c.State.Code)
	fmt.Fprintf(w, "number: %d\nprevious: \"%s\"\nsuite: \"%s\"\n", c.Number, c.Previous, c.Suite)

	w.blank()
	w.comment("The people who sign charters, and how many of them it takes.")
	fmt.Fprintf(w, "threshold: %d\nsigners:\n", c.Threshold)
	for _, s := range c.Signers {
		fmt.Fprintf(w, "  - name: \"%s\"\n    key: \"%s\"\n", s.Name, s.Key)
	}

	w.blank()
	w.comment("The opening key, and the custodians who hold its shares.")
	fmt.Fprintf(w, "custody:\n  generation: %d\n  threshold: %d\n", c.Custody.Generation, c.Custody.Threshold)
	fmt.Fprintf(w, "  opening_key: \"%s\"\n  recovery_key: \"%s\"\n  custodians:\n", c.Custody.OpeningKey, c.Custody.RecoveryKey)
	for _, k := range c.Custody.Custodians {
		fmt.Fprintf(w, "    - name: \"%s\"\n      x: %d\n      recipient: \"%s\"\n      commitment: \"%s\"\n",
			k.Name, k.X, k.Recipient, k.Commitment)
	}

	w.blank()
	w.comment("The machines that may write. They cannot read what they wrote.")
	if len(c.Agents) == 0 {
		w.WriteString("agents: []\n")
	} else {
		w.WriteString("agents:\n")
	}
	for _, a := range c.Agents {
		fmt.Fprintf(w, "  - name: \"%s\"\n    key: \"%s\"\n", a.Name, a.Key)
	}

	w.blank()
	w.comment("The embassies, each under another state's roof.")
	if len(c.Embassies) == 0 {
		w.WriteString("embassies: []\n")
	} else {
		w.WriteString("embassies:\n")
	}
	for _, e := range c.Embassies {
		fmt.Fprintf(w, "  - name: \"%s\"\n    country: \"%s\"\n    id: \"%s\"\n    key: \"%s\"\n    urls:\n", e.Name, e.Country, e.ID, e.Key)
		for _, u := range e.URLs {
			fmt.Fprintf(w, "      - \"%s\"\n", u)
		}
		fmt.Fprintf(w, "    origin: \"%s\"\n", e.Origin)
	}
}
