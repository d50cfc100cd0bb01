package witness

import (
	"bytes"
	"errors"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// The keys that a witness cosigns with may change while it serves: what it is asked for then has cosignatures of the new
// ones, also of the tree that it cosigned last, at once and after a start, and nothing that it knows changes by it: neither
// how far it saw a log nor that it is frozen.
func TestTheCosignersMayChange(t *testing.T) {
	t.Parallel()
	c, l, dir := newClock(), newLog(t, 1, 20, "leaf"), t.TempDir()
	w := awake(t, dir, 9, c, l)
	both := w.pens.Load().cosigners
	first := both[:1]

	w.SetCosigners(first)
	one := mustAdd(t, w, l.request(0, 10))
	if bytes.Count(one, []byte("\n")) != 1 {
		t.Fatalf("%d lines of one key", bytes.Count(one, []byte("\n")))
	}
	w.SetCosigners(first) // control: the same ones, so the same answer
	c.add(again / 10)
	if !bytes.Equal(one, mustAdd(t, w, l.request(10, 10))) {
		t.Error("control: another answer by the same keys")
	}
	w.SetCosigners(both)
	if two := mustAdd(t, w, l.request(10, 10)); bytes.Count(two, []byte("\n")) != 2 {
		t.Errorf("%d lines of two keys", bytes.Count(two, []byte("\n")))
	}
	var old *OldSize
	if _, err := w.Add(l.request(0, 5)); !errors.As(err, &old) || old.Size != 10 {
		t.Errorf("a smaller tree: %v", err)
	}
	w.SetCosigners(first)
	if one := mustAdd(t, w, l.request(10, 12)); bytes.Count(one, []byte("\n")) != 1 {
		t.Errorf("%d lines of one key again", bytes.Count(one, []byte("\n")))
	}

	// What lies on the disk has one cosignature. Started with both keys it is frozen as ever, and gives both when it is not.
	w = open(t, dir, 9, c, l)
	if _, err := w.Add(l.request(12, 12)); !errors.Is(err, ErrFrozen) {
		t.Errorf("after a start: %v", err)
	}
	w.SetCosigners(first)
	w.SetCosigners(both)
	if !w.Frozen(l.origin) {
		t.Error("other keys thawed it")
	}
	if err := w.Thaw(l.origin); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, w, l.request(12, 12))
	raw, ok := w.Seen(l.origin)
	cp, err := unverified(raw)
	if err != nil || !ok {
		t.Fatal(err)
	}
	if found, err := ledger.Cosignatures(cp, w.Keys()); err != nil || len(found) != 2 || cp.Size != 12 {
		t.Errorf("on disk: %d leaves, %d cosignatures, %v", cp.Size, len(found), err)
	}
}
