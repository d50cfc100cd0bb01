package agreement

import (
	"bytes"
	"reflect"
	"testing"
)

func FuzzParse(f *testing.F) {
	a := mustNew(f, sample(f))
	f.Add(a.Bytes())
	f.Add(withoutComments(a.Bytes()))
	f.Add(mustNew(f, a.Next()).Bytes())
	f.Add([]byte("version: 1\nnumber: 1\nprevious: \"\"\nstate:\n  id: \"\"\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if draft, err := ParseDraft(doc); err == nil && len(draft.Missing()) == 0 {
			if _, err := Parse(doc); err != nil {
				t.Errorf("a draft that lacks nothing is no agreement: %v", err)
			}
		}
		a, err := Parse(doc)
		if err != nil {
			return
		}
		if !bytes.Equal(a.Bytes(), doc) {
			t.Error("the bytes are not kept")
		}
		again, err := New(*a)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		again.doc = a.doc
		if !reflect.DeepEqual(again, a) {
			t.Error("written again it means something else")
		}
	})
}

func FuzzSides(f *testing.F) {
	a := mustNew(f, sample(f))
	c := sampleCharter(f, nil)
	f.Add(signed(f, a.doc, 90, 91))
	f.Add(signed(f, a.doc, 92))
	f.Fuzz(func(t *testing.T, sigs []byte) {
		// Nobody who signed what the fuzzer knows is on either side.
		if sides, err := a.Sides(nil, sigs, c, noon); err == nil && (sides[0].Signed != nil || sides[1].Signed != nil) {
			t.Error("a signature from nowhere")
		}
		if a.Verify(sigs, c, noon) == nil {
			t.Error("a quorum from nowhere")
		}
	})
}
