package ledger

import (
	"bytes"
	"testing"
)

func FuzzLeaf(f *testing.F) {
	l := objectLeaf(3)
	data, err := l.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLeaf(data)
		if err != nil {
			return
		}
		if again, err := l.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x, %v", data, again, err)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	l := filled(f, "a", 20)
	v := l.verifier(f)
	r := l.receipt(f, 5, 20)
	one, err := r.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	b := ReceiptBatch{Checkpoint: r.Checkpoint, Items: []BatchItem{{Index: 5, Leaf: r.Leaf, Proof: r.Proof}}}
	many, err := b.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add(many)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseReceipt(data); err == nil {
			if again, err := r.Bytes(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%x is written as %x, %v", data, again, err)
			}
			if leaf, _, err := r.Verify(v); err == nil && !bytes.Equal(mustBytes(t, &leaf), l.leaves[r.Index]) {
				t.Error("a forged leaf verifies")
			}
		}
		if b, err := ParseReceiptBatch(data); err == nil {
			if again, err := b.Bytes(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%x is written as %x, %v", data, again, err)
			}
		}
	})
}

func mustBytes(t *testing.T, l *Leaf) []byte {
	t.Helper()
	b, err := l.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzCheckpoint(f *testing.F) {
	l := filled(f, "a", 3)
	v := l.verifier(f)
	raw := l.checkpoint(f, 3)
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		cp, err := ParseCheckpoint(data, v)
		if err != nil {
			return
		}
		// Only what the log signed is read, whoever else signed beside it.
		text, _, _ := bytes.Cut(raw, []byte("\n\n"))
		if !bytes.HasPrefix(data, text) || cp.Size != 3 {
			t.Errorf("a forged checkpoint verifies: %q", data)
		}
	})
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x02bc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := SplitBundle(data)
		if err != nil {
			return
		}
		n := 0
		for _, e := range entries {
			n += 2 + len(e)
		}
		if n != len(data) || len(entries) > tileWidth {
			t.Errorf("%d entries of %d bytes out of %d", len(entries), n, len(data))
		}
	})
}
