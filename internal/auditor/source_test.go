package auditor

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// stalling answers for the file named only when released.
type stalling struct {
	memory
	name    string
	reached chan struct{}
	release chan struct{}
	once    *sync.Once
}

func stallAt(m memory, name string) stalling {
	return stalling{m, name, make(chan struct{}), make(chan struct{}), new(sync.Once)}
}

func (s stalling) Checkpoint() ([]byte, error) { return s.Tile("checkpoint") }

func (s stalling) Tile(name string) ([]byte, error) {
	if name == s.name {
		s.once.Do(func() { close(s.reached) })
		<-s.release
	}
	return s.memory.Tile(name)
}

// TestAStallEndsWithTheDeadline holds that a source which never answers costs the
// deadline and no more, whichever file it keeps back, and that nothing is blamed.
func TestAStallEndsWithTheDeadline(t *testing.T) {
	k := keeperOf("lu")
	m := logOf(t, k, acts(t, 1000))
	for _, name := range someFiles(m) {
		src := stallAt(m, name)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-src.reached; cancel() }() // the deadline, without a wait
		r, err := Verify(ctx, src, k.log(), Options{Direct: true})
		close(src.release)
		if err != nil {
			t.Fatal(err)
		}
		if r.Complete || r.Why == "" || !errors.Is(r.Verdict(), ErrIncomplete) || len(r.Findings) > 0 {
			t.Errorf("%s: %v, %q, %+v", name, r.Verdict(), r.Why, r.Findings)
		}
	}
	// The control: with an answer in the end all is well.
	src := stallAt(m, "tile/0/000")
	go func() { <-src.reached; close(src.release) }()
	expect(t, verify(t, src, k, Options{}), nil, "", "", 0)
}

// TestDeadline is the same by the clock.
func TestDeadline(t *testing.T) {
	k := keeperOf("lu")
	src := stallAt(logOf(t, k, acts(t, 3)), "tile/entries/000.p/3")
	defer close(src.release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err := Verify(ctx, src, k.log(), Options{})
	if err != nil || !errors.Is(r.Verdict(), ErrIncomplete) {
		t.Errorf("%v, %v", r.Verdict(), err)
	}
}

// moody is a source that fails for a file, or answers otherwise the second time.
type moody struct {
	memory
	mu    sync.Mutex
	asked map[string]int
	say   func(name string, time int, data []byte) ([]byte, error)
}

func (s *moody) Tile(name string) ([]byte, error) {
	s.mu.Lock()
	s.asked[name]++
	n := s.asked[name]
	s.mu.Unlock()
	data, err := s.memory.Tile(name)
	if err != nil {
		return nil, err
	}
	return s.say(name, n, data)
}

func (s *moody) Checkpoint() ([]byte, error) { return s.Tile("checkpoint") }

func TestASourceThatFailsIsNotBlamed(t *testing.T) {
	k := keeperOf("lu")
	m := logOf(t, k, acts(t, 1000))
	cut := errors.New("the link is cut")
	for _, name := range someFiles(m) {
		src := &moody{memory: m, asked: map[string]int{}, say: func(n string, _ int, data []byte) ([]byte, error) {
			if n == name {
				return nil, cut
			}
			return data, nil
		}}
		r := verify(t, src, k, Options{Direct: true})
		if r.Complete || !errors.Is(r.Verdict(), ErrIncomplete) || len(r.Findings) > 0 {
			t.Errorf("%s: %v, %+v", name, r.Verdict(), r.Findings)
		}
	}
}

// TestASourceThatChangesItsMind shows another tile when it is asked again.
func TestASourceThatChangesItsMind(t *testing.T) {
	k := keeperOf("lu")
	m := logOf(t, k, acts(t, 1000)).with("tile/entries/001", flip(40))
	for name, say := range map[string]func(string, int, []byte) ([]byte, error){
		"the tile to the entries first": func(n string, time int, data []byte) ([]byte, error) {
			if n == "tile/0/001" && time == 1 {
				list, _ := split(m["tile/entries/001"], tileWidth)
				x, _ := built(t, list)
				return x["tile/0/000"], nil
			}
			return data, nil
		},
		"garbage later": func(n string, time int, data []byte) ([]byte, error) {
			if n == "tile/0/001" && time > 1 {
				return bytes.Repeat([]byte{1}, maxTile), nil
			}
			return data, nil
		},
	} {
		r := verify(t, &moody{memory: m, asked: map[string]int{}, say: say}, k, Options{Direct: true})
		if !errors.Is(r.Verdict(), ErrDamaged) || len(r.Findings) == 0 || r.Findings[0].Index != 256 {
			t.Errorf("%s: %v %+v", name, r.Verdict(), r.Findings)
		}
	}
}

// TestAForgedLogPassesAloneOnly is the control of the known checkpoints: a log
// that was rewritten and signed again is whole by itself, and only what others
// have seen tells.
func TestAForgedLogPassesAloneOnly(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 700)
	known := []Known{{"home", checkpointOf(t, k, list[:600])}}
	list[100] = act(t, 100, "forged")
	m := logOf(t, k, list)
	expect(t, verify(t, m, k, Options{}), nil, "", "", 0)
	if r := verify(t, m, k, Options{Known: known}); len(blamed(r, Fork)) != 1 {
		t.Errorf("%+v", r.Findings)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(bundleOf([]byte("a"), nil, []byte("bc")), 3)
	f.Add(bundleOf(make([][]byte, tileWidth)...), 3)
	f.Add([]byte{0xff, 0xff, 0}, 1)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		if width < 1 || width > tileWidth {
			return
		}
		list, why := split(data, width)
		if len(list) > width || why == "" && len(list) != width {
			t.Errorf("%d entries of %d: %q", len(list), width, why)
		}
		again := bundleOf(list...)
		if !bytes.HasPrefix(data, again) {
			t.Error("other entries than the bundle has")
		}
		if all, _ := split(data, tileWidth); why == "" && len(again) != len(data) && len(all) != tileWidth {
			t.Error("more than the bundle may have")
		}
	})
}

// FuzzAnyChange replaces a stretch of any file of a log: it is found, and that
// file is named, unless nothing changed.
func FuzzAnyChange(f *testing.F) {
	k := keeperOf("lu")
	m := logOf(f, k, acts(f, 600))
	var names []string
	for name := range Files(600) {
		names = append(names, name)
	}
	f.Add(0, 0, 2, []byte{1})
	f.Add(5, 40, 0, []byte("more"))
	f.Add(2, 7, 1<<20, []byte(nil))
	f.Fuzz(func(t *testing.T, file, at, cut int, put []byte) {
		if file < 0 || at < 0 || cut < 0 {
			return
		}
		name := names[file%len(names)]
		data := m[name]
		at %= len(data) + 1
		cut = min(cut, len(data)-at)
		changed := bytes.Join([][]byte{data[:at], put, data[at+cut:]}, nil)
		r := verify(t, m.with(name, func([]byte) []byte { return changed }), k, Options{})
		if bytes.Equal(changed, data) {
			expect(t, r, nil, "", "", 0)
			return
		}
		whole := Whole(name) != "" && bytes.HasPrefix(changed, data) // a partial file that goes on as a whole one may
		if !whole && (!errors.Is(r.Verdict(), ErrDamaged) || len(r.Findings) == 0 || r.Findings[0].Path != name) {
			t.Errorf("%s changed at %d: %v, %+v", name, at, r.Verdict(), r.Findings)
		}
	})
}
