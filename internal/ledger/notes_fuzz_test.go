package ledger

import (
	"bytes"
	"testing"
)

func FuzzNote(f *testing.F) {
	l := filled(f, "a", 3)
	w, pq := cosignerOf(f, "w"), mldsaCosignerOf(f, "w")
	f.Add(l.checkpoint(f, 3), []byte("\u2014 w AAAAAAA=\n"))
	f.Add(l.cosigned(f, 3, noon, w).Raw, l.cosigned(f, 3, noon, pq).Raw)
	keys := []WitnessKey{w.Key(), pq.Key()}
	v := l.verifier(f)
	f.Fuzz(func(t *testing.T, data, more []byte) {
		text, lines, err := SplitSignatures(data)
		if err != nil {
			return
		}
		if whole := append(append(bytes.Clone(text), '\n'), bytes.Join(lines, nil)...); !bytes.Equal(whole, data) {
			t.Errorf("%q is put together as %q", data, whole)
		}
		sum, err := AddSignatures(data, more)
		if err == nil {
			again, err := AddSignatures(sum, more)
			if err != nil || !bytes.Equal(again, sum) || len(sum) > maxCheckpoint {
				t.Errorf("%q and %q twice: %q, %v", data, more, again, err)
			}
		}
		cp, err := ParseCheckpoint(data, v)
		if err != nil {
			return
		}
		got, err := Cosignatures(cp, keys)
		for _, c := range got {
			if err != nil || !c.Time.Equal(noon) || cp.Size != 3 {
				t.Errorf("forged: %+v, %v", c, err)
			}
		}
	})
}

func FuzzWitnessKey(f *testing.F) {
	f.Add(cosignerOf(f, "w").Key().String())
	f.Add(mldsaCosignerOf(f, "w").Key().String())
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseWitnessKey(text)
		if err != nil {
			return
		}
		if again, err := ParseWitnessKey(k.String()); err != nil || again != k {
			t.Errorf("%q is read as %q, %v", text, k, err)
		}
	})
}

func FuzzAddCheckpoint(f *testing.F) {
	a := AddCheckpoint{Old: 1, Proof: hashes(2), Checkpoint: filled(f, "a", 3).checkpoint(f, 3)}
	f.Add(a.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := ParseAddCheckpoint(data); err == nil && !bytes.Equal(a.Bytes(), data) {
			t.Errorf("%q is written as %q", data, a.Bytes())
		}
	})
}

func FuzzProof(f *testing.F) {
	l := filled(f, "a", 3)
	r := l.receipt(f, 1, 3)
	p := Proof{Extra: []byte("x"), Index: 1, Path: r.Proof, Checkpoint: r.Checkpoint}
	f.Add(p.Bytes())
	v := l.verifier(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), data) {
			t.Errorf("%q is written as %q", data, p.Bytes())
		}
		if _, err := p.Verify(l.leaves[1], v); err == nil && p.Index != 1 {
			t.Errorf("leaf 1 is proven at %d", p.Index)
		}
	})
}

func FuzzDelivery(f *testing.F) {
	for _, n := range []int{0, 3} {
		d := deliveryOf(f, n)
		data, err := d.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDelivery(data)
		if err != nil {
			return
		}
		if again, err := d.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x, %v", data, again, err)
		}
	})
}
