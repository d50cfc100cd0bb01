package order

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/vectest"
)

func vector[T any](t *testing.T, name string, fresh func() T) T {
	t.Helper()
	return vectest.Of(t, "order/"+name, fresh)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// textVector is a document in its one text. A reader refuses what expects "invalid".
type textVector struct {
	Name     string `json:"name"`
	Document string `json:"document"`
	Hash     string `json:"hash"`
	Expect   string `json:"expect"` // ok or invalid
}

func TestOrderVectors(t *testing.T) {
	for _, v := range vector(t, "orders.json", func() (all []textVector) {
		c := mustCharter(t)
		for _, k := range Kinds() {
			o := mustOrder(t, sampleOrder(c, k.Name))
			all = append(all, textVector{string(k.Name), string(o.Bytes()), charter.EncodeDigest(o.Hash()), "ok"})
		}
		doc := all[0].Document
		return append(all, textVector{"no last line", doc[:len(doc)-80], "", "invalid"}, textVector{"a line more", doc + "\n", "", "invalid"})
	}) {
		o, err := Parse([]byte(v.Document))
		if (err == nil) != (v.Expect == "ok") || err == nil && charter.EncodeDigest(o.Hash()) != v.Hash {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

func TestVetoVectors(t *testing.T) {
	for _, v := range vector(t, "vetoes.json", func() []textVector {
		doc := mustVeto(t, sampleVeto([32]byte{1})).Bytes()
		v := mustVeto(t, sampleVeto([32]byte{1}))
		return []textVector{
			{"a veto", string(doc), charter.EncodeDigest(v.Digest()), "ok"},
			{"a comment more", "# x\n" + string(doc), "", "invalid"},
		}
	}) {
		x, err := ParseVeto([]byte(v.Document))
		if (err == nil) != (v.Expect == "ok") || err == nil && charter.EncodeDigest(x.Digest()) != v.Hash {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// recordVector is a record or a result in hexadecimal.
type recordVector struct {
	Name   string `json:"name"`
	Record string `json:"record"`
	Expect string `json:"expect"`
}

func TestRecordVectors(t *testing.T) {
	for _, v := range vector(t, "records.json", func() []recordVector {
		good, err := NewRecord([]byte("doc\n"), []byte("sig\n"), [32]byte{1}).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return []recordVector{
			{"document, signatures, an attachment", hexOf(good), "ok"},
			{"a byte more", hexOf(append(bytes.Clone(good), 0)), "invalid"},
			{"version 2", hexOf(bytes.Replace(good, []byte{0x84, 1}, []byte{0x84, 2}, 1)), "invalid"},
			{"a longer length than needed", hexOf(bytes.Replace(good, []byte{0x44}, []byte{0x58, 4}, 1)), "invalid"},
		}
	}) {
		b, err := hex.DecodeString(v.Record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRecord(b); (err == nil) != (v.Expect == "ok") {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	for _, v := range vector(t, "results.json", func() []recordVector {
		good, err := sampleResult().Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return []recordVector{
			{"done", hexOf(good), "ok"},
			{"an unknown outcome", hexOf(bytes.Replace(good, []byte{1, 12}, []byte{9, 12}, 1)), "invalid"},
			{"cut short", hexOf(good[:len(good)-1]), "invalid"},
		}
	}) {
		b, err := hex.DecodeString(v.Record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseResult(b); (err == nil) != (v.Expect == "ok") {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// The sentences for people are part of the format: the specification has them as the program writes them.
func TestTheSpecificationHasTheSentences(t *testing.T) {
	b, err := os.ReadFile("../../docs/spec/orders.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		row := "| `" + string(k.Name) + "` | " + strings.Join(k.Fields, ", ") + " | " + strings.Join(k.Does, "<br>") + " |"
		if !bytes.Contains(b, []byte(row)) {
			t.Errorf("docs/spec/orders.md lacks the row\n%s", row)
		}
	}
}
