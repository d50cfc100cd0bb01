package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

const block = 8192

// paged is a source of files of blocks, which gives of what it gave before the changes alone.
type paged struct {
	b       *bench
	now     map[string][]byte
	before  map[string][]byte
	whole   map[string]bool // what was given whole by the last feed
	unknown bool            // it says of everything what changed, asked for or not
	round   byte
}

// feed takes a snapshot, and notes with each file a copy of its first bytes, which must come back with it.
func (p *paged) feed(change ...func(*archive.Feed)) (*archive.BackupReport, error) {
	p.round++
	p.whole = map[string]bool{}
	feed := archive.Feed{Path: "a server", Read: func(_ context.Context, f *archive.Feeder) ([]byte, error) {
		if got := f.Before(); len(got) > 0 && !bytes.Equal(got, []byte{p.round - 1}) {
			p.b.Errorf("the source's note is %d; it is round %d", got, p.round)
		}
		known := map[string]bool{}
		for x := range f.Fed() {
			known[x.Path] = true
			if was := p.before[x.Path]; int64(len(was)) != x.Size || !bytes.Equal(x.Note, noteOf(was)) {
				p.b.Errorf("%s: %d bytes and note %x are known of %d bytes", x.Path, x.Size, x.Note, len(was))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(p.now)) {
			if err := p.give(f, name, known[name] || p.unknown); err != nil {
				return nil, err
			}
		}
		f.Remember([]byte{p.round})
		return []byte("position"), nil
	}}
	for _, c := range change {
		c(&feed)
	}
	rep, err := archive.BackupFeed(p.b.Context(), p.b.reg(), p.b.state.Agent, feed, nil)
	if err == nil {
		p.before = maps.Clone(p.now)
	}
	return rep, err
}

func noteOf(data []byte) []byte { return append([]byte{}, data[:min(8, len(data))]...) }

func (p *paged) give(f *archive.Feeder, name string, known bool) error {
	a, data := archive.Attributes{Mode: 0o600}, p.now[name]
	if !known {
		p.whole[name] = true
		return f.Noted(name, a, int64(len(data)), bytes.NewReader(data), func() []byte { return noteOf(data) })
	}
	was := p.before[name]
	c := archive.Change{Size: int64(len(data)), Block: block, Note: func(old []byte) []byte {
		if !bytes.Equal(old, noteOf(was)) {
			p.b.Errorf("%s: the note was %x", name, old)
		}
		return noteOf(data)
	}}
	var sent []byte
	for at := 0; at < len(data); at += block {
		now, old := data[at:at+block], make([]byte, block) // what it had not is zeros
		if at < len(was) {
			old = was[at : at+block]
		}
		if !bytes.Equal(now, old) {
			c.Blocks, sent = append(c.Blocks, uint32(at/block)), append(sent, now...)
		}
	}
	return f.Changed(name, a, c, bytes.NewReader(sent))
}

func (p *paged) comesBack(snap string) {
	p.b.Helper()
	to, _, err := p.b.restore(snap, archive.RestoreOptions{})
	check(p.b, err)
	for name, data := range p.now {
		got, err := os.ReadFile(filepath.Join(to, name))
		check(p.b, err)
		if !bytes.Equal(got, data) {
			p.b.Errorf("snapshot %s: %s: %d bytes, and not those that it has", snap, name, len(got))
		}
	}
}

func newPaged(t *testing.T) *paged {
	p := &paged{b: newBench(t, 2, 3), now: map[string][]byte{}, before: map[string][]byte{}}
	for i := range 6 {
		p.now[fmt.Sprintf("data/base/%d", i)] = sim.Bytes(uint64(i), i*23*block)
	}
	return p
}

// mutate changes blocks, lengths and the set of files, at random.
func (p *paged) mutate(r *rand.Rand) {
	for _, name := range slices.Sorted(maps.Keys(p.now)) {
		data := bytes.Clone(p.now[name])
		blocks := func() int { return len(data) / block }
		switch r.IntN(6) {
		case 0:
			continue
		case 1:
			data = data[:r.IntN(blocks()+1)*block]
		case 2:
			data = append(data, make([]byte, r.IntN(40)*block)...)
		}
		for range min(blocks(), r.IntN(12)) {
			at := r.IntN(blocks()) * block
			if r.IntN(4) == 0 {
				clear(data[at : at+block])
			} else {
				copy(data[at:at+block], sim.Bytes(r.Uint64(), block))
			}
		}
		p.now[name] = data
	}
	p.now[fmt.Sprintf("data/base/new%d", p.round)] = sim.Bytes(r.Uint64(), r.IntN(20)*block)
	delete(p.now, fmt.Sprintf("data/base/new%d", int(p.round)-2))
}

// Files that are given by their changes are whole files in every snapshot, whatever changed, and however often.
func TestChangesComeBackAsWholeFiles(t *testing.T) {
	t.Parallel()
	p, r := newPaged(t), rand.New(rand.NewPCG(86, 1))
	byChanges := 0
	for round := 1; round <= 9; round++ {
		rep, err := p.feed()
		check(t, err)
		byChanges += len(p.now) - len(p.whole)
		if int(rep.Stats.Files) != len(p.now) {
			t.Errorf("%d files of %d", rep.Stats.Files, len(p.now))
		}
		p.comesBack(rep.Snapshot)
		p.mutate(r)
	}
	if byChanges < 40 {
		t.Errorf("only %d files were given by their changes", byChanges)
	}
	if rep, err := archive.Verify(t.Context(), p.b.reg(), p.b.state.Agent, archive.VerifyOptions{}, nil); err != nil || rep.Lost != 0 {
		t.Errorf("%v", err)
	}
}

// What did not change is stored by nobody again; of what did, the blocks are.
func TestChangesStoreWhatChanged(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	_, err := p.feed()
	check(t, err)
	large := bytes.Clone(p.now["data/base/5"])
	for _, at := range []int{3, 4, 40, 77} {
		copy(large[at*block:], sim.Bytes(uint64(at)+100, block))
	}
	p.now["data/base/5"] = large
	rep, err := p.feed()
	check(t, err)
	if n := rep.Stats.NewBytes; n < 4*block || n > 4*block+16<<10 { // with the listings
		t.Errorf("%d new bytes for four blocks", n)
	}
	if len(p.whole) != 0 || rep.Stats.Unchanged != 5 {
		t.Errorf("whole: %v; %d unchanged", p.whole, rep.Stats.Unchanged)
	}
	p.comesBack(rep.Snapshot)
}

// A file that is scattered over too many places has to come whole, and is then in few of them again.
func TestAScatteredFileComesWhole(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	const name = "data/base/5"
	came := 0
	for round := range 12 {
		rep, err := p.feed()
		check(t, err)
		if p.whole[name] && round > 0 {
			came++
			p.comesBack(rep.Snapshot)
		}
		data := bytes.Clone(p.now[name])
		for at := round; at < len(data)/block; at += 8 {
			copy(data[at*block:], sim.Bytes(uint64(1000*round+at), block))
		}
		p.now[name] = data
	}
	if came == 0 || came > 4 {
		t.Errorf("of twelve snapshots it came whole in %d", came)
	}
}

// What is lost, was forgotten, or cannot be read is not built upon: the source is told to give it whole, and one that
// gives changes all the same makes no snapshot.
func TestChangesAreNotBuiltUponWhatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	p.unknown = true
	if _, err := p.feed(); !errors.Is(err, archive.ErrNotFed) {
		t.Fatalf("changes to nothing: %v", err)
	}
	p.unknown, p.round = false, 0
	_, err := p.feed()
	check(t, err)
	p.unknown = true
	if _, err := p.feed(func(f *archive.Feed) { f.Forget = true }); !errors.Is(err, archive.ErrNotFed) {
		t.Fatalf("changes to what is to be forgotten: %v", err)
	}
	p.unknown, p.round = false, 1
	for _, e := range p.b.state.Embassies[:2] {
		for _, name := range e.Objects() {
			e.Damage(name, nil)
		}
	}
	if _, err := archive.Verify(t.Context(), p.b.reg(), p.b.state.Agent, archive.VerifyOptions{}, nil); !errors.Is(err, register.ErrDamaged) {
		t.Fatalf("verify: %v", err)
	}
	rep, err := p.feed()
	check(t, err)
	if len(p.whole) != 5 { // the sixth has no bytes
		t.Errorf("whole: %v", p.whole)
	}
	p.comesBack(rep.Snapshot)
	p.comesBack("1")
}

// A file of what was fed that is damaged anywhere is as none; one of an earlier snapshot is as good as it was.
func TestADamagedMemoryOfAFeedIsNone(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	_, err := p.feed()
	check(t, err)
	path := filepath.Join(p.b.reg().Dir, "fed")
	good, err := os.ReadFile(path)
	check(t, err)
	for at := range good {
		if at > 200 && at < len(good)-200 && at%97 != 0 {
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if archive.ReadsFed(bad) {
			t.Errorf("byte %d is not missed", at)
		}
	}
	if archive.ReadsFed(good[:len(good)-1]) || archive.ReadsFed(append(bytes.Clone(good), 0)) || !archive.ReadsFed(good) {
		t.Error("its length is of no matter")
	}
	check(t, os.WriteFile(path, good[:len(good)/2], 0o600))
	rep, err := p.feed()
	check(t, err)
	if len(p.whole) != len(p.now) {
		t.Errorf("whole: %v", p.whole)
	}
	p.comesBack(rep.Snapshot)
	p.now["data/base/4"] = sim.Bytes(44, 92*block)
	_, err = p.feed()
	check(t, err)
	check(t, os.WriteFile(path, good, 0o600))
	p.round, p.before = 1, map[string][]byte{}
	for i := range 6 {
		p.before[fmt.Sprintf("data/base/%d", i)] = sim.Bytes(uint64(i), i*23*block)
	}
	rep, err = p.feed()
	check(t, err)
	if len(p.whole) != 0 {
		t.Errorf("whole: %v", p.whole)
	}
	p.comesBack(rep.Snapshot)
}

// A change that does not fit its file is refused.
func TestAChangeThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	_, err := p.feed()
	check(t, err)
	for name, c := range map[string]archive.Change{
		"a length of no blocks":    {Size: block + 1, Block: block},
		"a block behind the end":   {Size: block, Block: block, Blocks: []uint32{1}},
		"blocks out of order":      {Size: 9 * block, Block: block, Blocks: []uint32{3, 2}},
		"a block twice":            {Size: 9 * block, Block: block, Blocks: []uint32{3, 3}},
		"blocks that fit no chunk": {Size: 9000, Block: 9000},
		"no blocks":                {Size: block},
		"a length below nothing":   {Size: -block, Block: block},
		"blocks beyond a chunk":    {Size: 2 * chunk.Pages, Block: 2 * chunk.Pages},
	} {
		t.Run(name, func(t *testing.T) {
			c.Note = func(b []byte) []byte { return b }
			_, err := archive.BackupFeed(t.Context(), p.b.reg(), p.b.state.Agent, archive.Feed{Read: func(_ context.Context, f *archive.Feeder) ([]byte, error) {
				return nil, f.Changed("data/base/3", archive.Attributes{}, c, bytes.NewReader(make([]byte, 9*block)))
			}}, nil)
			if !errors.Is(err, archive.ErrFeed) {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzFed(f *testing.F) {
	f.Add([]byte("chancery fed 1\n"))
	f.Add(archive.SampleFed())
	f.Fuzz(func(t *testing.T, data []byte) { archive.ReadsFedRecord(t, data) })
}

// A release of the snapshot that changes were built upon takes what they do not need, and nothing that they do.
func TestAReleaseLeavesWhatChangesWereBuiltUpon(t *testing.T) {
	t.Parallel()
	p := newPaged(t)
	a := &ages{bench: p.b}
	p.now["data/gone"] = sim.Bytes(100, 100<<20) // fills more packs than are filled at once
	for i := range 4 {
		p.now[fmt.Sprintf("data/kept/%d", i)] = sim.Bytes(uint64(200+i), 100*block)
	}
	_, err := p.feed()
	check(t, err)
	delete(p.now, "data/gone")
	for i := range 4 {
		data := bytes.Clone(p.now[fmt.Sprintf("data/kept/%d", i)])
		copy(data[5*block:], sim.Bytes(uint64(300+i), block))
		p.now[fmt.Sprintf("data/kept/%d", i)] = data
	}
	_, err = p.feed()
	check(t, err)
	if len(p.whole) != 0 {
		t.Fatalf("whole: %v", p.whole)
	}
	rel := a.propose(1)
	if rel.Packs == 0 {
		t.Fatal("it takes nothing")
	}
	check(t, a.checked(rel, lists(rel)))
	a.carry(rel, 7)
	p.comesBack("2")
	a.verified()
	_, err = p.feed()
	check(t, err)
	if len(p.whole) != 0 {
		t.Errorf("after it came whole: %v", p.whole)
	}
	p.comesBack("3")
}
