package embassy

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

func (s *site) removal(order uint64) *removal {
	return &removal{st: s.state(), actor: publicOf(s.server.key), register: [16]byte{7}, order: order}
}

func TestWhatAnOrderRemovedIsNotHeldAndMayComeAgain(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	gone, goneData := object(70_000, "gone")
	kept, keptData := object(500, "kept")
	for name, data := range map[shard.Name][]byte{gone: goneData, kept: keptData} {
		if err := c.Put(ctx, name, data); err != nil {
			t.Fatal(err)
		}
	}
	did, err := s.removal(3).objects(ctx, nameList(gone, mustName(t, 9)))
	if err != nil || did != (removed{1, 70_000}) {
		t.Fatalf("removed %+v, %v", did, err)
	}
	if _, err := os.Lstat(s.state().store.path(gone)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	check := func(when string) {
		t.Helper()
		c := s.client(t, "agent")
		_, err := c.Get(ctx, gone, nil)
		if !errors.Is(err, ErrRemoved) || !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "order 3") {
			t.Errorf("%s: GET: %v", when, err)
		}
		if _, err := c.Leaves(ctx, gone); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s: leaves: %v", when, err)
		}
		if _, err := c.Receipts(ctx, nameList(gone), nil); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s: receipt: %v", when, err)
		}
		if missing, err := c.Missing(ctx, nameList(gone, kept)); err != nil || len(missing) != 1 || missing[0] != gone {
			t.Errorf("%s: missing %v, %v", when, missing, err)
		}
		if names, err := c.List(ctx, shard.Name{}, 10); err != nil || len(names) != 1 || names[0] != kept {
			t.Errorf("%s: list %v, %v", when, names, err)
		}
		if st, err := c.Status(ctx); err != nil || st.Objects != 1 || st.Bytes != 500 {
			t.Errorf("%s: status %+v, %v", when, st, err)
		}
		if what, err := s.state().checkHeld(ctx, gone, 70_000); what != "" || err != nil {
			t.Errorf("%s: a sweep calls it %q, %v", when, what, err)
		}
		if _, err := c.Get(ctx, mustName(t, 77), nil); errors.Is(err, ErrRemoved) || !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: control: never held: %v", when, err)
		}
	}
	check("at once")
	s.stop()
	s = serve(t, dir, Options{})
	check("after a start")
	s.stop()
	if err := os.Remove(filepath.Join(s.state().dir, "catalog.db")); err != nil {
		t.Fatal(err)
	}
	s = serve(t, dir, Options{})
	check("read from the ledger again")
	// It comes again, under a leaf of its own.
	c = s.client(t, "agent")
	if err := c.Put(ctx, gone, goneData); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, gone, nil); err != nil || !bytes.Equal(got, goneData) {
		t.Errorf("again: %v", err)
	}
	r, err := c.Receipts(ctx, nameList(gone), nil)
	if err != nil || r[0].Index < 4 {
		t.Errorf("its receipt is of leaf %d, %v", r[0].Index, err)
	}
	s.stop()
}

// A kill between the leaf and the unlink leaves the file: the order comes by it again.
func TestAFileLeftBehindGoesWhenTheOrderGoesOn(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	name, data := object(900, "left")
	if err := s.client(t, "agent").Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	if _, err := s.removal(1).objects(t.Context(), nameList(name)); err != nil {
		t.Fatal(err)
	}
	path := s.state().store.path(name)
	if err := os.WriteFile(path, data, 0o600); err != nil { // as it was before the unlink
		t.Fatal(err)
	}
	s.stop()
	s = serve(t, dir, Options{})
	c := s.client(t, "agent")
	if _, err := c.Get(t.Context(), name, nil); !errors.Is(err, ErrRemoved) {
		t.Errorf("shown though removed: %v", err)
	}
	before, err := s.state().journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	did, err := s.removal(1).objects(t.Context(), nameList(name))
	if err != nil || did != (removed{1, 900}) {
		t.Errorf("the second run counts %+v, %v", did, err)
	}
	after, err := s.state().journal.size(t.Context())
	if err != nil || after != before {
		t.Errorf("the second run adds %d leaves, %v", after-before, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	// Another order has nothing to do with it.
	if did, err := s.removal(2).objects(t.Context(), nameList(name)); err != nil || did != (removed{}) {
		t.Errorf("another order counts %+v, %v", did, err)
	}
	s.stop()
}

func TestAnErasedRegisterTakesNothingAnyMore(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	slot := func(kind ledger.RecordKind, n uint64) ledger.Slot {
		return ledger.Slot{Kind: kind, Register: [16]byte{7}, Sequence: n}
	}
	for n := uint64(1); n <= 3; n++ {
		if err := s.putRecordDirect(registerRecord(t, s.state(), n, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutRecord(ctx, slot(ledger.Head, 1), []byte("head")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing left to do
		if err := s.removal(1).registerRecords(ctx); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		c := s.client(t, "agent")
		if _, err := c.GetRecord(ctx, slot(ledger.Register, 2)); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s: its record: %v", when, err)
		}
		if list, err := c.ListRecords(ctx, ledger.Register, [16]byte{7}, 0); err != nil || len(list) != 0 {
			t.Errorf("%s: its records: %v, %v", when, list, err)
		}
		if got, err := c.GetRecord(ctx, slot(ledger.Head, 1)); err != nil || string(got) != "head" {
			t.Errorf("%s: heads stay: %v", when, err)
		}
		for _, at := range []ledger.Slot{slot(ledger.Register, 2), slot(ledger.Head, 2)} {
			_, data := registerRecord(t, s.state(), 2, nil)
			if err := c.PutRecord(ctx, at, data); !errors.Is(err, ErrRemoved) {
				t.Errorf("%s: a new %s record: %v", when, at.Kind, err)
			}
		}
		other := ledger.Slot{Kind: ledger.Head, Register: [16]byte{8}, Sequence: 1}
		if err := c.PutRecord(ctx, other, []byte("x")); err != nil {
			t.Errorf("%s: control: another register: %v", when, err)
		}
	}
	check("at once")
	s.stop()
	if err := os.Remove(filepath.Join(s.state().dir, "catalog.db")); err != nil {
		t.Fatal(err)
	}
	s = serve(t, dir, Options{})
	check("read from the ledger again")
	s.stop()
}

// putRecordDirect stores past the network and its checks.
func (s *site) putRecordDirect(slot ledger.Slot, data []byte) error {
	_, _, err := s.server.takeRecord(context.Background(), s.state(), slot, data, publicOf(keyOf("agent")), false)
	return err
}

// readerOf reads from a list as a journal reads from its bundles.
func readerOf(leaves *[]ledger.Leaf) func(context.Context, uint64, func(uint64, *ledger.Leaf) error, int) (uint64, error) {
	return func(_ context.Context, from uint64, each func(uint64, *ledger.Leaf) error, most int) (uint64, error) {
		for end := from + uint64(most); from < end && from < uint64(len(*leaves)); from++ {
			if err := each(from, &(*leaves)[from]); err != nil {
				return from, err
			}
		}
		return from, nil
	}
}

// What the catalogue says must not depend on when its file caught up.
func TestTheCatalogueIsAFunctionOfTheLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		var leaves []ledger.Leaf
		c, err := openCatalog(filepath.Join(dir, "c"+strings.Repeat("x", n)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.close() }()
		c.read = readerOf(&leaves)
		held := map[byte]uint64{}
		want := counts{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := byte(rapid.IntRange(1, 4).Draw(t, "name"))
			l := ledger.NewLeaf(ledger.ObjectStored, [16]byte{1})
			l.Name, l.Size = [32]byte{name}, uint64(name)*10
			switch _, is := held[name]; {
			case is:
				l.Kind, l.Slot = ledger.ObjectRemoved, ledger.Slot{Kind: ledger.OrderRecord, Sequence: 5}
				delete(held, name)
				want.objects--
				want.bytes -= int64(l.Size)
			default:
				held[name] = uint64(len(leaves))
				want.objects++
				want.bytes += int64(l.Size)
			}
			leaves = append(leaves, l)
			c.note(&l, uint64(len(leaves)-1))
			if rapid.IntRange(0, 3).Draw(t, "catch up") == 0 {
				if err := c.catchUp(t.Context(), uint64(rapid.IntRange(int(c.next), len(leaves)).Draw(t, "to"))); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.totals(); got != want {
				t.Fatalf("totals %+v, want %+v", got, want)
			}
			for name := byte(1); name <= 4; name++ {
				p, ok, err := c.object(shard.Name{name})
				if at, is := held[name]; err != nil || ok != is || (ok && p.index != at) {
					t.Fatalf("object %d: %+v %v %v, want %d %v", name, p, ok, err, at, is)
				}
			}
		}
	})
}

func TestALargeRemovalHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	const n = 3000
	names := make([]shard.Name, n)
	var stored sync.WaitGroup
	room := make(chan struct{}, 64)
	for i := range n {
		var data []byte
		names[i], data = object(100, "many", i)
		room <- struct{}{}
		stored.Go(func() {
			defer func() { <-room }()
			if err := s.putDirect(names[i], data); err != nil {
				t.Error(err)
			}
		})
	}
	stored.Wait()
	ended := make(chan error, 1)
	go func() {
		did, err := s.removal(1).objects(t.Context(), names)
		if err == nil && did.objects != n {
			err = errors.New("not all")
		}
		ended <- err
	}()
	c := s.client(t, "agent")
	puts := 0
	for over := false; !over; puts++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		name, data := object(200, "meanwhile", puts)
		if err := c.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	if puts < 3 {
		t.Errorf("only %d objects were taken while %d were removed", puts, n)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Objects != uint64(puts) {
		t.Errorf("%+v, %v", st, err)
	}
	s.stop()
}
