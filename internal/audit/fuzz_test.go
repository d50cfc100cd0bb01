package audit

import (
	"bytes"
	"encoding/binary"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

func FuzzChallenge(f *testing.F) {
	h := filled(f, "lu", 3, 100)
	for _, ch := range []*Challenge{h.sample(f, 1, 5), NewRange(testState, h.id(), h.checkpoint(f, 4), nonceOf(1), 1, 3)} {
		data, err := ch.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ch, err := ParseChallenge(data)
		if err != nil {
			return
		}
		if again, err := ch.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x, %v", data, again, err)
		}
		if cp, err := ch.Opened(publicOf(h.key)); err == nil && (cp.Size != 4 || ch.To > 4) {
			t.Errorf("a challenge of a forged checkpoint: %+v", ch)
		}
	})
}

// FuzzAnswer: what is not the embassy's own answer, byte for byte, is never OK.
func FuzzAnswer(f *testing.F) {
	h := filled(f, "lu", 3, 100)
	ch := h.sample(f, 1, 3)
	good := h.answer(f, ch)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, answer []byte) {
		res, err := Verify(bytes.NewReader(answer), ch, h.log())
		if got := Judge(res, err, 0, testDeadline); (got == OK) != bytes.Equal(answer, good) {
			t.Errorf("%v for %x (%v)", got, answer, err)
		}
	})
}

// FuzzFrame lets the embassy sign whatever it likes: then too only what is in its
// ledger passes.
func FuzzFrame(f *testing.F) {
	h := filled(f, "lu", 3, 100)
	ch := h.sample(f, 1, 1)
	good := split(f, h.answer(f, ch))
	f.Add(good[0])
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 || len(body) > maxFrame {
			return
		}
		frames := append([][]byte{body}, good[1:]...)
		answer := joined(t, ch, frames, h.key)
		res, err := Verify(bytes.NewReader(answer), ch, h.log())
		if got := Judge(res, err, 0, testDeadline); (got == OK) != bytes.Equal(body, good[0]) {
			t.Errorf("%v for %x (%v)", got, body, err)
		}
	})
}

func FuzzReport(f *testing.F) {
	h := filled(f, "lu", 3, 100)
	for _, gone := range []bool{false, true} {
		h.gone[h.names[1]] = gone
		data, err := reported(f, h, h.sample(f, 1, 20)).Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReport(data)
		if err != nil {
			return
		}
		if again, err := r.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x, %v", data, again, err)
		}
		if found, err := r.Convicts(publicOf(h.key)); err == nil && found.Name != h.names[1] {
			t.Errorf("convicted of %+v", found)
		}
	})
}

// TestFramesAreCapped: the largest frame fits, and no embassy makes an auditor
// take more than that into memory.
func TestFramesAreCapped(t *testing.T) {
	f := frame{
		Draw: 1 << 40, Index: 1 << 60, Leaf: make([]byte, ledger.MaxLeaf), Proof: make([]byte, 32*maxPath),
		Status: present, Data: make([]byte, 64<<10), Path: make([]byte, 32*maxObjectPath),
	}
	body, err := encode(&f)
	if err != nil || len(body) > maxFrame {
		t.Fatalf("%d bytes, cap %d, %v", len(body), maxFrame, err)
	}
	h := filled(t, "lu", 3, 100)
	ch := h.sample(t, 1, 3)
	endless := &zeros{head: binary.BigEndian.AppendUint32(nil, maxFrame+1)}
	if res, err := Verify(endless, ch, h.log()); Judge(res, err, 0, testDeadline) != Wrong || endless.read > 4 {
		t.Errorf("read %d bytes, %v", endless.read, err)
	}
	endless = &zeros{head: binary.BigEndian.AppendUint32(nil, maxFrame)}
	if res, err := Verify(endless, ch, h.log()); Judge(res, err, 0, testDeadline) != Wrong || endless.read > 4+maxFrame {
		t.Errorf("read %d bytes, %v", endless.read, err)
	}
}

// zeros is a head, and zeros without end.
type zeros struct {
	head []byte
	read int
}

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.head = z.head[copy(p, z.head):]
	z.read += len(p)
	return len(p), nil
}
