package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

// fed is what a test feeds: files by path, in this order.
type fed []struct {
	path string
	data []byte
}

func (f fed) feed(then ...func(*archive.Feeder) error) archive.Feed {
	return archive.Feed{Path: "a server", Read: func(_ context.Context, to *archive.Feeder) ([]byte, error) {
		a := archive.Attributes{Mode: 0o600, UID: 7, GID: 8, Modified: time.Unix(1700000000, 5)}
		for _, file := range f {
			if err := to.File(file.path, a, int64(len(file.data)), bytes.NewReader(file.data)); err != nil {
				return nil, err
			}
		}
		for _, f := range then {
			if err := f(to); err != nil {
				return nil, err
			}
		}
		return []byte("position"), nil
	}}
}

func (b *bench) feed(f archive.Feed) *archive.BackupReport {
	b.Helper()
	rep, err := archive.BackupFeed(b.Context(), b.reg(), b.state.Agent, f, nil)
	check(b, err)
	return rep
}

func (f fed) matches(t testing.TB, dir string) {
	t.Helper()
	for _, file := range f {
		got, err := os.ReadFile(filepath.Join(dir, file.path))
		check(t, err)
		if !bytes.Equal(got, file.data) {
			t.Errorf("%s: %d bytes, and not those that were fed", file.path, len(got))
		}
	}
}

func database() fed {
	large := sim.Bytes(1, 70*chunk.Pages+4321) // more extents than an entry of a feed holds
	clear(large[10*chunk.Pages : 13*chunk.Pages])
	return fed{
		{"data/base/5/1", sim.Bytes(2, 3*8192)},
		{"data/base/5/2", nil},
		{"data/global/pg_control", sim.Bytes(3, 8192)},
		{"tablespaces/77/x", large},
		{"zero", make([]byte, 3*chunk.Pages+1)},
		{"data/base/5/3", large[:20*chunk.Pages]}, // the same pages at the same places: once
	}
}

// What a feed gives comes back, its folders made, its attributes kept, its position in the head; and the part below a
// folder comes back alone.
func TestAFeedComesBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	files := database()
	at := archive.Attributes{Mode: 0o700, UID: 7, GID: 8, Modified: time.Unix(1600000000, 0)}
	rep := b.feed(files.feed(
		func(to *archive.Feeder) error { return to.Folder("data/pg_notify", at) },
		func(to *archive.Feeder) error { return to.Folder("data/base", at) },
		func(to *archive.Feeder) error { return to.Link("data/link", "../elsewhere", at) },
	))
	position, err := archive.Position(b.reg(), rep.Head)
	check(t, err)
	if string(position) != "position" || bytes.Contains(rep.Head.Source, position) || rep.Stats.Files != 6 || rep.Stats.Links != 1 {
		t.Fatalf("%+v, position %q", rep.Stats, position)
	}
	to, _, err := b.restore("1", archive.RestoreOptions{})
	check(t, err)
	files.matches(t, to)
	st, err := os.Stat(filepath.Join(to, "data/base/5/1"))
	check(t, err)
	if st.Mode() != 0o600 || !st.ModTime().Equal(time.Unix(1700000000, 5)) {
		t.Errorf("%s, %s", st.Mode(), st.ModTime())
	}
	if st, err = os.Stat(filepath.Join(to, "data/base")); err != nil || !st.ModTime().Equal(at.Modified) {
		t.Errorf("a folder given after what is in it: %v, %v", st, err)
	}
	if target, err := os.Readlink(filepath.Join(to, "data/link")); err != nil || target != "../elsewhere" {
		t.Errorf("%q, %v", target, err)
	}
	part, _, err := b.restore("1", archive.RestoreOptions{Base: "data/base"})
	check(t, err)
	fed{{"5/1", files[0].data}, {"5/2", nil}, {"5/3", files[5].data}}.matches(t, part)
	if names, err := os.ReadDir(part); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	for _, base := range []string{"data/none", "zero"} {
		if _, _, err := b.restore("1", archive.RestoreOptions{Base: base}); !errors.Is(err, archive.ErrNoPath) {
			t.Errorf("base %s: %v", base, err)
		}
	}
}

// Of a second backup only the pages are stored that changed; one that is as before stores no chunk of data.
func TestAFeedStoresChangedPagesOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	files := database()
	first := b.feed(files.feed())
	if first.Stats.NewBytes > uint64(70*chunk.Pages) {
		t.Errorf("%d new bytes: a page that came twice was stored twice", first.Stats.NewBytes)
	}
	if again := b.feed(files.feed()); again.Stats.NewBytes != 0 {
		t.Errorf("%d new bytes, and nothing changed", again.Stats.NewBytes)
	}
	files[3].data = bytes.Clone(files[3].data)
	files[3].data[33*chunk.Pages+500]++
	changed := b.feed(files.feed())
	if n := changed.Stats.NewBytes; n < chunk.Pages || n > chunk.Pages+64<<10 {
		t.Errorf("%d new bytes for one changed page", n)
	}
	to, _, err := b.restore("latest", archive.RestoreOptions{})
	check(t, err)
	files.matches(t, to)
}

// A feed that ends in an error, early, or with names that cannot be kept makes no snapshot, and the next one does.
func TestABrokenFeedMakesNoSnapshot(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	boom := errors.New("the server went away")
	a := archive.Attributes{Mode: 0o600}
	small := func(p string) func(*archive.Feeder) error {
		return func(to *archive.Feeder) error { return to.File(p, a, 1, strings.NewReader("x")) }
	}
	for name, c := range map[string]struct {
		last []func(*archive.Feeder) error
		want error
	}{
		"an error":        {[]func(*archive.Feeder) error{func(*archive.Feeder) error { return boom }}, boom},
		"a broken reader": {[]func(*archive.Feeder) error{func(to *archive.Feeder) error { return to.File("f", a, 9, iotest.ErrReader(boom)) }}, boom},
		"an early end": {[]func(*archive.Feeder) error{func(to *archive.Feeder) error {
			return to.File("f", a, chunk.Pages+1, bytes.NewReader(make([]byte, chunk.Pages)))
		}}, io.ErrUnexpectedEOF},
		"a name twice":          {[]func(*archive.Feeder) error{small("data/global/pg_control")}, archive.ErrFeed},
		"a file and a folder":   {[]func(*archive.Feeder) error{small("data/global/pg_control/x")}, archive.ErrFeed},
		"a folder and a file":   {[]func(*archive.Feeder) error{small("data/global")}, archive.ErrFeed},
		"up":                    {[]func(*archive.Feeder) error{small("../x")}, archive.ErrFeed},
		"absolute":              {[]func(*archive.Feeder) error{small("/x")}, archive.ErrFeed},
		"nothing":               {[]func(*archive.Feeder) error{small("")}, archive.ErrFeed},
		"a name with a NUL":     {[]func(*archive.Feeder) error{small("x\x00y")}, snapshot.ErrEntry},
		"a folder with a NUL":   {[]func(*archive.Feeder) error{small("x\x00/y")}, archive.ErrFeed},
		"a slash at the end":    {[]func(*archive.Feeder) error{small("x/")}, archive.ErrFeed},
		"a name of 5,000 bytes": {[]func(*archive.Feeder) error{small(strings.Repeat("x", 5000))}, snapshot.ErrEntry},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := archive.BackupFeed(t.Context(), b.reg(), b.state.Agent, database().feed(c.last...), nil)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
	if rep := b.feed(database().feed()); rep.Sequence != 1 {
		t.Errorf("snapshot %d", rep.Sequence)
	}
	b.restoreFed(database())
}

func (b *bench) restoreFed(files fed) {
	b.Helper()
	to, _, err := b.restore("latest", archive.RestoreOptions{})
	check(b, err)
	files.matches(b, to)
}

// An interrupted feed is taken up: what embassies hold of it is not sent again.
func TestAFeedIsTakenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	files := fed{{"large", sim.Bytes(4, 100<<20)}}
	ctx, stop := context.WithCancel(t.Context())
	var puts atomic.Int32
	b.state.Embassies[0].Fail(sim.Faults{After: onPut(func() {
		if puts.Add(1) == 5 { // of six; three packs are on their way at a time
			stop()
		}
	})})
	if _, err := archive.BackupFeed(ctx, b.reg(), b.state.Agent, files.feed(), nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.state.Embassies[0].Fail(sim.Faults{})
	if rep := b.feed(files.feed()); rep.Stats.NewBytes > 84<<20 {
		t.Errorf("%d new bytes of 100 MiB, a pack of which was there", rep.Stats.NewBytes)
	}
	b.restoreFed(files)
}
