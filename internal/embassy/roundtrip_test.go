package embassy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

func TestObjectsComeBackAsTheyWere(t *testing.T) {
	noLeaks(t)
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	for _, size := range []int{1, shard.LeafSize - 1, shard.LeafSize, shard.LeafSize + 1, blockSize + 5, 1 << 20, 16 << 20} {
		name, data := object(size, "back", size)
		for range 2 { // the second time nothing changes
			if err := c.Put(ctx, name, data); err != nil {
				t.Fatalf("Put %d: %v", size, err)
			}
		}
		got, err := c.Get(ctx, name, []byte("before"))
		if err != nil || !bytes.Equal(got, append([]byte("before"), data...)) {
			t.Fatalf("Get %d: %v, or other bytes", size, err)
		}
		leaves, err := c.Leaves(ctx, name)
		if err != nil || len(leaves) != (size+shard.LeafSize-1)/shard.LeafSize {
			t.Fatalf("Leaves %d: %d, %v", size, len(leaves), err)
		}
		off := (size - 1) / shard.LeafSize * shard.LeafSize // the last leaf
		part, err := c.GetRange(ctx, name, int64(off), min(shard.LeafSize, maxObject-off), nil)
		if err != nil {
			t.Fatalf("GetRange %d: %v", size, err)
		}
		if err := shard.VerifyRange(name, int64(size), off/shard.LeafSize, part, leaves); err != nil {
			t.Fatalf("range of %d: %v", size, err)
		}
	}
	st, err := c.Status(ctx)
	if err != nil || st.Objects != 7 || st.LedgerSize != 8 || st.CharterNumber != 1 || st.Country != "LU" {
		t.Errorf("Status: %+v, %v", st, err)
	}
	s.stop()
}

func TestMissingAndListKnowExactlyWhatIsThere(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	var all, absent []shard.Name
	for i := range 20 {
		name, data := object(1000+i, "m", i)
		all = append(all, name)
		if i%3 == 0 {
			absent = append(absent, name)
			continue
		}
		if err := c.Put(ctx, name, data); err != nil {
			t.Fatal(err)
		}
	}
	missing, err := c.Missing(ctx, all)
	if err != nil || !slices.Equal(missing, absent) {
		t.Fatalf("Missing: %v, %v", missing, err)
	}
	present := slices.DeleteFunc(slices.Clone(all), func(n shard.Name) bool { return slices.Contains(absent, n) })
	slices.SortFunc(present, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	var listed []shard.Name
	var after shard.Name
	for {
		page, err := c.List(ctx, after, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		listed, after = append(listed, page...), page[len(page)-1]
	}
	if !slices.Equal(listed, present) {
		t.Errorf("List: %d names, want %d", len(listed), len(present))
	}
	// A file that is gone counts as missing though its leaf is there.
	if err := os.Remove(s.state().store.path(present[0])); err != nil {
		t.Fatal(err)
	}
	missing, err = c.Missing(ctx, present)
	if err != nil || !slices.Equal(missing, present[:1]) {
		t.Errorf("Missing after a loss: %v, %v", missing, err)
	}
}

func TestRecordsTakeASlotOnce(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	slot := func(register byte, seq uint64) ledger.Slot {
		return ledger.Slot{Kind: ledger.Head, Register: [16]byte{register}, Sequence: seq}
	}
	for seq := range uint64(5) {
		for r := range byte(3) {
			if err := c.PutRecord(ctx, slot(r, seq+1), []byte{r, byte(seq)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.PutRecord(ctx, slot(1, 3), []byte{1, 2}); err != nil {
		t.Errorf("the same bytes again: %v", err)
	}
	if err := c.PutRecord(ctx, slot(1, 3), []byte{9}); !errors.Is(err, ErrConflict) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("other bytes: %v", err)
	}
	got, err := c.GetRecord(ctx, slot(1, 3))
	if err != nil || !bytes.Equal(got, []byte{1, 2}) {
		t.Errorf("GetRecord: %v, %v", got, err)
	}
	if _, err := c.GetRecord(ctx, slot(1, 6)); !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty slot: %v", err)
	}
	check := func(c *Client) {
		t.Helper()
		infos, err := c.ListRecords(ctx, ledger.Head, [16]byte{1}, 2)
		if err != nil || len(infos) != 3 || infos[0].Slot != slot(1, 3) || infos[0].Hash != sha256.Sum256([]byte{1, 2}) || infos[0].Size != 2 {
			t.Errorf("ListRecords: %+v, %v", infos, err)
		}
		ids, err := c.ListRegisters(ctx, ledger.Head)
		if err != nil || !slices.Equal(ids, [][16]byte{{0}, {1}, {2}}) {
			t.Errorf("ListRegisters: %v, %v", ids, err)
		}
		ids, err = c.ListRegisters(ctx, ledger.Register)
		if err != nil || len(ids) != 0 {
			t.Errorf("ListRegisters of another kind: %v, %v", ids, err)
		}
	}
	check(c)
	s.stop()
	s = serve(t, dir, Options{})
	check(s.client(t, "agent"))
	if err := s.client(t, "agent").PutRecord(ctx, slot(1, 3), []byte{9}); !errors.Is(err, ErrConflict) {
		t.Errorf("other bytes after a restart: %v", err)
	}
}

func TestReceiptsProveWhatWasStored(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	var names []shard.Name
	var stored sync.WaitGroup
	for i := range 300 { // more than one tile
		name, data := object(100, "r", i)
		names = append(names, name)
		stored.Go(func() {
			if err := s.putDirect(name, data); err != nil {
				t.Error(err)
			}
		})
	}
	stored.Wait()
	slot := ledger.Slot{Kind: ledger.Head, Register: [16]byte{1}, Sequence: 1}
	if err := c.PutRecord(ctx, slot, []byte("head")); err != nil {
		t.Fatal(err)
	}
	receipts, err := c.Receipts(ctx, names, []ledger.Slot{slot})
	if err != nil || len(receipts) != 301 {
		t.Fatalf("Receipts: %d, %v", len(receipts), err)
	}
	for i := range receipts {
		leaf, _, err := receipts[i].Verify(c.verifier)
		if err != nil {
			t.Fatal(err)
		}
		want := [32]byte(sha256.Sum256([]byte("head")))
		if i < 300 {
			want = names[i]
		}
		if leaf.Name != want || leaf.Actor != [32]byte(publicOf(keyOf("agent"))) {
			t.Fatalf("receipt %d is for something else", i)
		}
	}
	if _, err := c.Receipts(ctx, []shard.Name{{1}}, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a receipt for what is not there: %v", err)
	}
	// The same answer does not pass for something else that was asked.
	leaf, _, _ := receipts[0].Verify(c.verifier)
	if err := c.match([]ledger.Leaf{leaf}, names[1:2], nil); err == nil {
		t.Error("a receipt for another object passes")
	}
	if err := c.match([]ledger.Leaf{leaf}, names[:1], nil); err != nil {
		t.Errorf("control: %v", err)
	}
}

// putDirect stores past the network, many at a time.
func (s *site) putDirect(name shard.Name, data []byte) error {
	st := s.state()
	if err := st.store.write(name, bytes.NewReader(data), int64(len(data))); err != nil {
		return err
	}
	l := ledger.NewLeaf(ledger.ObjectStored, st.id)
	l.Name, l.Size, l.Actor = name, uint64(len(data)), [32]byte(publicOf(keyOf("agent")))
	_, err := st.act(&l)
	return err
}

func TestScrubFindsAndRepairMendsDamage(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	kinds := []string{"", "altered", "length", "lost"}
	var names []shard.Name
	var bodies [][]byte
	for i, what := range kinds {
		name, data := object(200_000, "d", i)
		names, bodies = append(names, name), append(bodies, data)
		if err := c.Put(ctx, name, data); err != nil {
			t.Fatal(err)
		}
		path := s.state().store.path(name)
		bad := bytes.Clone(data)
		bad[123_456] ^= 1
		var err error
		switch what {
		case "altered":
			err = os.WriteFile(path, bad, 0o600)
		case "length":
			err = os.Truncate(path, 199_999)
		case "lost":
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stranger, _ := object(5, "never stored")
	damage, err := c.Scrub(ctx, append(slices.Clone(names), stranger))
	if err != nil {
		t.Fatal(err)
	}
	want := []Damage{{names[1], "altered"}, {names[2], "length"}, {names[3], "lost"}, {stranger, "unknown"}}
	if !slices.Equal(damage, want) {
		t.Fatalf("Scrub: %v", damage)
	}
	// Put alone trusts a file of the right length; Repair does not.
	if err := c.Put(ctx, names[1], bodies[1]); err != nil {
		t.Fatal(err)
	}
	if damage, err = c.Scrub(ctx, names[1:2]); err != nil || len(damage) != 1 {
		t.Errorf("control: Put mended altered bytes: %v, %v", damage, err)
	}
	for i := range names {
		if err := c.Repair(ctx, names[i], bodies[i]); err != nil {
			t.Errorf("Repair %q: %v", kinds[i], err)
		}
	}
	if damage, err = c.Scrub(ctx, names); err != nil || len(damage) != 0 {
		t.Errorf("after repair: %v, %v", damage, err)
	}
	if size, err := s.state().journal.size(ctx); err != nil || size != uint64(1+len(kinds)) {
		t.Errorf("repairs added leaves: %d, %v", size, err)
	}
}

func TestWrongBytesAreNotStored(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	name, _ := object(1000, "right")
	_, other := object(1000, "wrong")
	err := c.Put(t.Context(), name, other)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "do not make the name") {
		t.Errorf("Put: %v", err)
	}
	if missing, err := c.Missing(t.Context(), []shard.Name{name}); err != nil || len(missing) != 1 {
		t.Errorf("Missing: %v, %v", missing, err)
	}
	if left, err := filesIn(s.state().store.tmp()); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	if _, err := os.Stat(s.state().store.path(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file under the name: %v", err)
	}
}

func TestCharterFollowsSuccessionOnly(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	ctx := t.Context()
	one := sampleCharter(t, "one")
	next := one.Next()
	next.Agents = append(next.Agents, next.Agents[0])
	next.Agents[1].Name = "home-2"
	next.Agents[1].Key = charterKey("agent-2")
	two := made(t, next)
	if err := c.PutCharter(ctx, two.Bytes(), signed(t, two, "impostor")); !errors.Is(err, ErrRefused) {
		t.Errorf("without the quorum: %v", err)
	}
	if _, err := s.client(t, "agent-2").Status(ctx); !errors.Is(err, ErrRefused) {
		t.Errorf("control: the new agent before the charter: %v", err)
	}
	for range 2 {
		if err := c.PutCharter(ctx, two.Bytes(), signed(t, two, "signer")); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutCharter(ctx, one.Bytes(), signed(t, one, "signer")); !errors.Is(err, ErrRefused) {
		t.Errorf("back to the old charter: %v", err)
	}
	if _, err := s.client(t, "agent-2").Status(ctx); err != nil {
		t.Errorf("the new agent: %v", err)
	}
	s.stop()
	s = serve(t, dir, Options{})
	doc, sig, err := s.client(t, "agent-2").Charter(ctx)
	if err != nil || !bytes.Equal(doc, two.Bytes()) || two.Verify(sig) != nil {
		t.Errorf("after a restart: %v", err)
	}
}
