package agreement

import (
	"bytes"
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/canon"
)

// Marshal checks a and writes its document, with comments for people.
func (a *Agreement) Marshal() ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return a.write()
}

func (a *Agreement) write() ([]byte, error) {
	var w writer
	a.heading(&w)
	w.fields("", "", reflect.ValueOf(a).Elem())
	if w.Len() > MaxSize {
		return nil, invalid("document of %d bytes is longer than %d", w.Len(), MaxSize)
	}
	return w.Bytes(), nil
}

func (a *Agreement) heading(w *writer) {
	what := "Agreement"
	if a.Number > 1 {
		what = fmt.Sprintf("Amendment %d of the agreement", a.Number)
	}
	w.Comment("%s between %s (%s) and %s (%s)", what, a.State.Name, a.State.Code, a.Host.Name, a.Host.Code)
	w.Comment("about the embassy %s.", a.Embassy.Name)
	w.Comment("")
	w.Comment("It counts when the people of the state's charter who may make agreements, and as many of the host's signatories")
	w.Comment("below as it needs, have signed these exact bytes. An amendment is also signed by those whom the one before names.")
	w.Comment("To sign:  ssh-keygen -Y sign -n %s -f YOUR_KEY agreement.yaml", Namespace)
	w.Comment("Comments are signed too, and mean nothing to the program. Lines keep their order; values are yours to negotiate.")
	w.Comment("What the software enforces, records, and cannot do:  chancery agreement explain agreement.yaml")
	w.Blank()
}

// Parse reads an agreement and checks it with [Agreement.Validate]. It accepts only the layout that
// [Agreement.Marshal] writes, except that lines that are empty or hold nothing but a comment may come and go. An error
// names the line or the field. doc is copied.
func Parse(doc []byte) (*Agreement, error) {
	return parse(doc, (*Agreement).Validate)
}

// ParseDraft is [Parse] for a document that is still negotiated: texts may be [Open], and the host may have no
// signatories yet. Nobody can sign one: [Agreement.Missing] says what it lacks.
func ParseDraft(doc []byte) (*Agreement, error) {
	return parse(doc, (*Agreement).validateDraft)
}

func parse(doc []byte, check func(*Agreement) error) (*Agreement, error) {
	if err := canon.CheckLines(doc, MaxSize); err != nil {
		return nil, invalid("%v", err)
	}
	var a Agreement
	if err := yaml.UnmarshalWithOptions(doc, &a, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("agreement: %w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if err := check(&a); err != nil {
		return nil, err
	}
	w := writer{canon.Text{Bare: true}}
	w.fields("", "", reflect.ValueOf(&a).Elem())
	if err := canon.CompareLines(doc, w.Bytes()); err != nil {
		return nil, invalid("%v", err)
	}
	a.doc = bytes.Clone(doc)
	return &a, nil
}

// writer writes the canonical layout: the fields of the structs above in their order. Texts hold neither quotes nor
// backslashes nor control characters: Validate has seen to it.
type writer struct{ canon.Text }

// fields writes the fields of a struct, each behind pad, with the notes that stand at its path.
func (w *writer) fields(pad, path string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("yaml")
		if key == "" {
			continue
		}
		at := strings.TrimPrefix(path+"."+key, ".")
		if path == "" {
			w.article(key)
		}
		w.notes(pad, notes[at])
		w.field(pad, at, key, v.Field(i))
	}
}

// article writes the heading of the article that begins with a key of the document.
func (w *writer) article(key string) {
	for _, x := range articles {
		if x.Keys[0] == key {
			w.Blank()
			w.Comment("Article %d. %s", x.Number, x.Title)
		}
	}
}

func (w *writer) notes(pad, text string) {
	if w.Bare || text == "" {
		return
	}
	for line := range strings.Lines(text) {
		w.WriteString(pad)
		w.Comment("%s", strings.TrimSuffix(line, "\n"))
	}
}

func (w *writer) field(pad, path, key string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Slice:
		w.List(pad+key, v.Len())
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Struct {
				w.item(pad+"  ", path, v.Index(i))
			} else {
				fmt.Fprintf(w, "%s  - \"%s\"\n", pad, v.Index(i))
			}
		}
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(w, "%s%s:\n", pad, key)
		w.fields(pad+"  ", path, v)
	default:
		fmt.Fprintf(w, "%s%s: %s\n", pad, key, scalar(v))
	}
}

// item writes a struct as one item of a list: its first field stands behind the hyphen.
func (w *writer) item(pad, path string, v reflect.Value) {
	inner := writer{canon.Text{Bare: true}}
	inner.fields(pad+"  ", path, v)
	text := inner.Bytes()
	copy(text[len(pad):], "- ")
	w.Write(text)
}

// scalar writes a text or a number as it stands in the document.
func scalar(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if text, err := m.MarshalText(); err == nil { // ids never fail
			return `"` + string(text) + `"`
		}
	}
	if v.Kind() == reflect.String {
		return `"` + v.String() + `"`
	}
	return fmt.Sprint(v.Interface())
}
