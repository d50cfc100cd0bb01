package auditor

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"chancery.dev/chancery/internal/ledger"
)

// sizes have every shape of right edge; 65793 is 256*256 + 256 + 1.
var sizes = []int{0, 1, 2, 3, 255, 256, 257, 511, 512, 1000, 65793}

func TestAnUntouchedLogPasses(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, sizes[len(sizes)-1])
	for _, n := range sizes {
		var known []Known
		for _, m := range sizes {
			if m <= n && m < 2000 {
				known = append(known, Known{fmt.Sprint(m), checkpointOf(t, k, list[:m])})
			}
		}
		seen := 0
		r := verify(t, logOf(t, k, list[:n]), k, Options{Known: known, Direct: true, Act: func(i uint64, l *ledger.Leaf) {
			if i != uint64(seen) || l == nil {
				t.Errorf("act %d comes after %d", i, seen)
			}
			seen++
		}})
		expect(t, r, nil, "", "", 0)
		if r.Entries != uint64(n) || seen != n || !r.Complete || len(r.Held) != len(known) {
			t.Errorf("%d entries: %d read, %d acts, held against %v", n, r.Entries, seen, r.Held)
		}
		for _, h := range r.Held {
			if !h.Joined {
				t.Errorf("%d entries: not joined with %s", n, h.From)
			}
		}
	}
}

// TestEveryBitCounts changes a bit in each file of a log, at its beginning, in the
// middle and at its end, and expects that very file to be named.
func TestEveryBitCounts(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 65793)
	sizes := []int{1, 300, 512, 65793}
	if testing.Short() {
		sizes = sizes[:3]
	}
	for _, n := range sizes {
		m := logOf(t, k, list[:n])
		for _, name := range someFiles(m) {
			places := []int{0, len(m[name]) / 2, -1}
			if n > 1000 {
				places = places[1:2]
			}
			for _, at := range places {
				r := verify(t, m.with(name, flip(at)), k, Options{Direct: true})
				if len(r.Findings) == 0 || r.Verdict() == nil {
					t.Fatalf("%d entries: byte %d of %s changed and not found", n, at, name)
				}
				f := r.Findings[0]
				if f.Path != name || f.Blame != Operator {
					t.Errorf("%d entries: byte %d of %s changed, found %+v", n, at, name, r.Findings)
				}
			}
		}
	}
}

// someFiles are the checkpoint and of each level the first, the second and the last.
func someFiles(m memory) (names []string) {
	count := map[string]int{}
	for name := range Files(uint64(sizeOf(m))) {
		dir := path.Dir(name)
		if strings.HasSuffix(dir, ".p") {
			dir = path.Dir(dir)
		}
		if count[dir]++; count[dir] < 3 || strings.Contains(name, ".p/") {
			names = append(names, name)
		}
	}
	return append(names, "checkpoint")
}

func sizeOf(m memory) (n int) {
	_, _ = fmt.Sscan(strings.Split(string(m["checkpoint"]), "\n")[1], &n)
	return n
}

func TestWhatIsBadIsNamed(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 1000)
	m := logOf(t, k, list)
	const first, second, last = "tile/entries/000", "tile/entries/001", "tile/entries/003.p/232"
	other := act(t, 5, "another")
	swap := func(a, b string) memory {
		out := maps.Clone(m)
		out[a], out[b] = m[b], m[a]
		return out
	}
	without := func(name string) memory { out := maps.Clone(m); delete(out, name); return out }
	replaced := func(name string, b []byte) memory { return m.with(name, func([]byte) []byte { return b }) }
	consistent := func() memory { // a bundle and its tile say the same, and not what is signed
		l := append([][]byte{}, list...)
		l[5] = other
		x, _ := built(t, l)
		out := maps.Clone(m)
		out[first], out["tile/0/000"] = x[first], x["tile/0/000"]
		return out
	}
	rewritten := func() memory { // all files say the same
		l := append([][]byte{}, list...)
		l[5] = other
		x, _ := built(t, l)
		x["checkpoint"] = m["checkpoint"]
		return x
	}
	for name, c := range map[string]struct {
		src   memory
		kind  Kind
		path  string
		index uint64
	}{
		"an entry replaced":                    {replaced(first, bundleOf(append(append(list[:5:5], other), list[6:256]...)...)), BadEntry, first, 5},
		"an entry dropped":                     {replaced(second, bundleOf(append(list[256:300:300], list[301:512]...)...)), BadEntry, second, 300},
		"an entry dropped at the end":          {replaced(last, bundleOf(list[768:999]...)), BadEntry, last, 999},
		"an entry twice, the last one gone":    {replaced(first, bundleOf(append(append(list[:8:8], list[7]), list[8:255]...)...)), BadEntry, first, 8},
		"an entry twice":                       {replaced(last, bundleOf(append(append(list[768:780:780], list[779]), list[780:1000]...)...)), BadEntry, last, 780},
		"an entry more":                        {replaced(last, append(bytes.Clone(m[last]), bundleOf(other)...)), BadEntry, last, 999},
		"a bundle cut within an entry":         {m.with(first, func(b []byte) []byte { return b[:len(b)-3] }), BadEntry, first, 255},
		"a bundle cut within a length":         {m.with(first, func(b []byte) []byte { return append(b, 0) }), BadEntry, first, 255},
		"an empty bundle":                      {replaced(second, nil), BadEntry, second, 256},
		"an oversized entry":                   {replaced(second, bundleOf(make([]byte, ledger.MaxLeaf+1))), BadEntry, second, 256},
		"an endless bundle":                    {replaced(second, make([]byte, maxBundle+1)), BadEntry, second, 256},
		"garbage for a bundle":                 {replaced(second, []byte("<html>not found</html>")), BadEntry, second, 256},
		"bundles swapped":                      {swap(first, second), BadEntry, first, 0},
		"a bundle gone":                        {without(second), BadEntry, second, 256},
		"a tile gone":                          {without("tile/0/001"), BadTile, "tile/0/001", 256},
		"the top tile gone":                    {without("tile/1/000.p/3"), BadTile, "tile/1/000.p/3", 0},
		"a tile of entries for one of hashes":  {swap("tile/0/001", second), BadTile, "tile/0/001", 256},
		"tiles swapped":                        {swap("tile/0/000", "tile/0/001"), BadTile, "tile/0/000", 0},
		"a tile cut":                           {m.with("tile/0/000", func(b []byte) []byte { return b[:len(b)-32] }), BadTile, "tile/0/000", 0},
		"a tile cut within a hash":             {m.with("tile/1/000.p/3", func(b []byte) []byte { return b[:95] }), BadTile, "tile/1/000.p/3", 0},
		"an endless tile":                      {replaced("tile/0/000", make([]byte, maxTile+1)), BadTile, "tile/0/000", 0},
		"a bundle and its tile replaced":       {consistent(), BadTile, "tile/0/000", 0},
		"everything replaced":                  {rewritten(), BadTile, "tile/1/000.p/3", 0},
		"everything but the top tile replaced": {func() memory { x := rewritten(); x["tile/1/000.p/3"] = m["tile/1/000.p/3"]; return x }(), BadTile, "tile/0/000", 0},
		"no checkpoint":                        {without("checkpoint"), Unsigned, "checkpoint", 0},
		"garbage for a checkpoint":             {replaced("checkpoint", []byte("\x00\xff")), Unsigned, "checkpoint", 0},
		"an endless checkpoint":                {replaced("checkpoint", make([]byte, maxCheckpoint+1)), Unsigned, "checkpoint", 0},
		"another log's checkpoint":             {replaced("checkpoint", checkpointOf(t, keeperOf("is"), list)), Unsigned, "checkpoint", 0},
		"a checkpoint of too much":             {replaced("checkpoint", k.sign(t, maxEntries+1, [32]byte{})), Unsigned, "checkpoint", 0},
		"a checkpoint of more than there is":   {replaced("checkpoint", k.sign(t, 1200, [32]byte{})), BadTile, "tile/0/003", 768},
	} {
		t.Run(name, func(t *testing.T) {
			r := verify(t, c.src, k, Options{Direct: true})
			expect(t, r, ErrDamaged, c.kind, c.path, c.index)
			if r.Findings[0].Blame != Operator {
				t.Errorf("the operator handed it out, and %q is blamed", r.Findings[0].Blame)
			}
			r = verify(t, c.src, k, Options{})
			if r.Findings[0].Blame != Nobody || r.Findings[0].Proven {
				t.Errorf("a copy may have been damaged by anybody, and %q is blamed", r.Findings[0].Blame)
			}
		})
	}
}

// TestTwoFaultsAreBothNamed holds that one bad file does not hide another.
func TestTwoFaultsAreBothNamed(t *testing.T) {
	k := keeperOf("lu")
	m := logOf(t, k, acts(t, 1000))
	m = m.with("tile/entries/001", flip(40)).with("tile/0/000", flip(3)).with("tile/1/000.p/3", flip(70))
	r := verify(t, m, k, Options{})
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.Path)
	}
	m = logOf(t, k, acts(t, 1000)).with("tile/entries/001", flip(40))
	delete(m, "tile/1/000.p/3")
	r = verify(t, m, k, Options{})
	if len(r.Findings) != 2 || r.Findings[1].Path != "tile/entries/001" {
		t.Errorf("with the top tile gone: %+v", r.Findings)
	}
	if s := strings.Join(got, " "); s != "tile/0/000 tile/entries/001 tile/1/000.p/3" && s != "tile/0/000 tile/1/000.p/3 tile/entries/001" {
		t.Errorf("found in %s: %+v", s, r.Findings)
	}
}

// TestAWholeTileStandsForAPartialOne: a log that grows replaces its partial files.
func TestAWholeTileStandsForAPartialOne(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 600)
	m := logOf(t, k, list)
	m["checkpoint"] = checkpointOf(t, k, list[:300])
	m["tile/1/000.p/1"] = m["tile/1/000.p/2"][:32]
	expect(t, verify(t, m, k, Options{}), nil, "", "", 0)
	expect(t, verify(t, m.with("tile/entries/001", flip(9)), k, Options{}), ErrDamaged, BadEntry, "tile/entries/001.p/44", 256)
}

func TestLeavesAreRead(t *testing.T) {
	k := keeperOf("lu")
	leaf := func(change func(*ledger.Leaf)) []byte {
		l := ledger.NewLeaf(ledger.ObjectStored, testState)
		l.Name, l.Size = sha256.Sum256(nil), 1
		change(&l)
		b, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	taken := func(n uint64) []byte {
		return leaf(func(l *ledger.Leaf) {
			l.Kind, l.Slot = ledger.CharterTaken, ledger.Slot{Kind: ledger.Charter, Sequence: n}
		})
	}
	later := bytes.Clone(act(t, 3, ""))
	later[2] = 11 // its kind
	for name, c := range map[string]struct {
		list    [][]byte
		verdict error
		kind    Kind
		index   uint64
		blame   Blame
	}{
		"as it should be":         {[][]byte{taken(4), act(t, 1, ""), taken(5), taken(5), taken(6)}, nil, "", 0, ""},
		"no charter first":        {[][]byte{act(t, 1, "")}, ErrDamaged, CharterBroken, 0, Nobody},
		"a charter left out":      {[][]byte{taken(1), taken(3)}, ErrDamaged, CharterBroken, 1, Nobody},
		"a charter of before":     {[][]byte{taken(2), taken(1)}, ErrDamaged, CharterBroken, 1, Nobody},
		"of another state":        {[][]byte{taken(1), leaf(func(l *ledger.Leaf) { l.State[0] = 9 })}, ErrDamaged, BadEntry, 1, Operator},
		"not in canonical form":   {[][]byte{taken(1), append(act(t, 1, ""), 0)}, ErrDamaged, BadEntry, 1, Operator},
		"of a kind still to come": {[][]byte{taken(1), later}, ErrIncomplete, UnknownLeaf, 1, Nobody},
	} {
		t.Run(name, func(t *testing.T) {
			r := verify(t, logOf(t, k, c.list), k, Options{})
			expect(t, r, c.verdict, c.kind, map[bool]string{true: fmt.Sprintf("tile/entries/000.p/%d", len(c.list))}[c.kind != ""], c.index)
			if c.kind != "" && r.Findings[0].Blame != c.blame {
				t.Errorf("blames %q", r.Findings[0].Blame)
			}
		})
	}
}

func TestFolder(t *testing.T) {
	k := keeperOf("lu")
	m := logOf(t, k, acts(t, 300))
	files := fstest.MapFS{}
	for name, data := range m {
		files[name] = &fstest.MapFile{Data: data}
	}
	expect(t, verify(t, Folder(files), k, Options{}), nil, "", "", 0)
	pipe := maps.Clone(files)
	pipe["tile/0/000"] = &fstest.MapFile{Mode: fs.ModeNamedPipe}
	expect(t, verify(t, Folder(pipe), k, Options{}), ErrDamaged, BadTile, "tile/0/000", 0)
	expect(t, verify(t, Folder(endless{files}), k, Options{}), ErrDamaged, Unsigned, "checkpoint", 0)
}

// endless is a folder whose files never end.
type endless struct{ fstest.MapFS }

func (e endless) Open(name string) (fs.File, error) {
	f, err := e.MapFS.Open(name)
	return endlessFile{f}, err
}

type endlessFile struct{ fs.File }

func (endlessFile) Read(p []byte) (int, error) { return len(p), nil }
