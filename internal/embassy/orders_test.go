package embassy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

func TestAReleaseRemovesExactlyWhatItLists(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, cooling(charter.ActRelease, "2s"))
	old, kept := w.delivers(7, 1, 5), w.delivers(7, 2, 5)
	content, list := removalOf(t, 7, old)
	w.cosigned(0, 1)
	began, _ := w.state(0).clock.now()
	s := w.ordered(charter.ActRelease, content, list)
	if s.Sequence != 1 || s.Status != "waiting" || w.held(old) != 5 {
		t.Fatalf("%+v, %d are left", s, w.held(old))
	}
	s = w.over(1)
	if s.Status != "done" || s.Objects != 5 || s.Freed != 3000 || w.held(old) != 0 || w.held(kept) != 5 {
		t.Errorf("%+v, %d and %d are left", s, w.held(old), w.held(kept))
	}
	now, _ := w.state(0).clock.now()
	if now.Sub(began) < 2*time.Second {
		t.Errorf("it took effect after %v of witnessed time", now.Sub(began))
	}
	// The record of the order stands before the first removal, and the result after the last.
	var at []uint64
	size, err := w.state(0).journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.state(0).journal.each(t.Context(), 0, func(i uint64, l *ledger.Leaf) error {
		switch {
		case l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.OrderRecord, l.Kind == ledger.ObjectRemoved,
			l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.ResultRecord:
			at = append(at, uint64(l.Kind)*100+uint64(l.Slot.Kind))
		}
		return nil
	}, int(size))
	want := []uint64{207, 407, 407, 407, 407, 407, 209}
	if err != nil || len(at) != len(want) {
		t.Fatalf("the ledger says %v, %v", at, err)
	}
	for i := range want {
		if at[i] != want[i] {
			t.Errorf("the ledger says %v", at)
		}
	}
	// The same order again does nothing, also after a start; another with its nonce is refused.
	w.sites[0].stop()
	w.start(0)
	if all, err := w.client(0, "agent").Orders(t.Context()); err != nil || len(all) != 1 || all[0].Status != "done" || all[0].Objects != 5 {
		t.Errorf("after a start: %+v, %v", all, err)
	}
	one, err := w.client(0, "agent").Order(t.Context(), s.Hash)
	if err != nil || len(one.Document) == 0 || len(one.Signatures) == 0 {
		t.Fatalf("%+v, %v", one, err)
	}
	if got, err := w.client(0, "agent").OrderAttachment(t.Context(), "1", one.Attachments[0]); err != nil || string(got) != string(list) {
		t.Errorf("its list: %v", err)
	}
	if _, err := w.client(0, "agent").Get(t.Context(), old[0], nil); !errors.Is(err, ErrRemoved) || !strings.Contains(err.Error(), "order 1") {
		t.Errorf("a removed object: %v", err)
	}
}

func TestAVetoStopsWhatWaits(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, cooling(charter.ActErase, "4s"))
	names := w.delivers(7, 1, 3)
	content, list := removalOf(t, 7, names)
	s := w.ordered(charter.ActErase, content, list)
	veto := func(name, signer string) error { return w.veto(t.Context(), s.Hash, name, signer) }
	for name, signer := range map[string]string{"jaan": "jaan", "olev": "jaan", "nobody": "nobody"} {
		if err := veto(name, signer); !errors.Is(err, ErrRefused) {
			t.Errorf("a veto of %s signed by %s: %v", name, signer, err)
		}
	}
	if err := veto("olev", "olev"); err != nil {
		t.Fatal(err)
	}
	if s := w.over(1); s.Status != "vetoed" || s.VetoedBy != "olev" || w.held(names) != 3 {
		t.Errorf("%+v, %d are left", s, w.held(names))
	}
	w.sites[0].stop()
	w.start(0)
	if all, err := w.client(0, "agent").Orders(t.Context()); err != nil || len(all) != 1 || all[0].Status != "vetoed" || w.held(names) != 3 {
		t.Errorf("after a start: %+v, %v", all, err)
	}
}

func TestHoldsAndSuspensionsAreHeeded(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	names, more := w.delivers(7, 1, 3), w.delivers(7, 2, 3)
	hold := order.Content{Register: charter.RegisterID{7}, Label: "land", Hold: "court"}
	if s := w.over(w.ordered(charter.ActHold, hold).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	w.sites[0].stop()
	w.start(0)
	refusedNow := func(what string, kind charter.ActName, content order.Content, lists [][]byte, people ...string) {
		t.Helper()
		_, rec := w.given(w.drafted(kind, content), lists, people...)
		if _, err := w.client(0, "agent").PutOrder(t.Context(), rec, lists...); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, kind := range []charter.ActName{charter.ActErase, charter.ActRelease} {
		content, list := removalOf(t, 7, names)
		refusedNow("under a hold", kind, content, [][]byte{list}, "mari", "jaan")
	}
	unknown := hold
	unknown.Hold = "other"
	refusedNow("a hold that is not there", charter.ActLift, unknown, nil, "mari", "jaan")
	if s := w.over(w.ordered(charter.ActLift, hold).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	content, list := removalOf(t, 7, names)
	if s := w.over(w.ordered(charter.ActErase, content, list).Sequence); s.Status != "done" || w.held(names) != 0 {
		t.Errorf("after the hold: %+v", s)
	}
	// A suspended person's signature counts nothing, a suspended agent is a stranger.
	jaan := order.Content{Who: order.Who{Name: "jaan"}}
	if s := w.over(w.ordered(charter.ActSuspend, jaan).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	content, list = removalOf(t, 7, more)
	refusedNow("signed by one who is suspended", charter.ActRelease, content, [][]byte{list}, "mari", "jaan")
	_, rec := w.given(w.drafted(charter.ActSuspend, order.Content{Who: order.Who{Agent: true, Name: "home-1"}}), nil, "mari", "anna")
	s, err := w.client(0, "nobody").PutOrder(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if s := w.over(s.Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	if _, err := w.client(0, "agent").Status(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("a suspended agent: %v", err)
	}
	w.sites[0].stop()
	w.start(0)
	if _, err := w.client(0, "agent").Status(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("a suspended agent after a start: %v", err)
	}
	if _, err := w.client(0, "recovery").Status(t.Context()); err != nil {
		t.Errorf("control: %v", err)
	}
}
