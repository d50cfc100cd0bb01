package auditor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// play is a log that changes from one look to the next; nil is one that does not answer.
type play struct {
	looks []Source
	at    int
}

func (p *play) now() Source { return p.looks[min(p.at, len(p.looks)-1)] }

func (p *play) Checkpoint() ([]byte, error) {
	if p.now() == nil {
		return nil, errors.New("no answer")
	}
	return p.now().Checkpoint()
}

func (p *play) Tile(name string) ([]byte, error) { return p.now().Tile(name) }

var errOver = errors.New("over")

// followed plays the looks and returns what Act was told, and how it ended.
func followed(t *testing.T, k keeper, opts FollowOptions, looks ...Source) (told []string, troubles int, err error) {
	t.Helper()
	p := &play{looks: looks}
	opts.Wait = func(context.Context) error {
		if p.at++; p.at >= len(looks) {
			return errOver
		}
		return nil
	}
	opts.Act = func(i uint64, l *ledger.Leaf, raw []byte) error {
		if l != nil && len(raw) == 0 {
			t.Error("an act without bytes")
		}
		told = append(told, fmt.Sprint(i))
		return nil
	}
	opts.Trouble = func(error) { troubles++ }
	err = Follow(t.Context(), p, k.log(), opts)
	return told, troubles, err
}

func numbers(from, to int) string {
	var s []string
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return strings.Join(s, " ")
}

func TestFollow(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 9000)
	forged := append([][]byte{}, list...)
	forged[100] = act(t, 100, "forged")
	log := func(n int) Source { return logOf(t, k, list[:n]) }
	fork := func(n int) Source { return logOf(t, k, forged[:n]) }
	for name, c := range map[string]struct {
		since    uint64
		known    []byte
		looks    []Source
		from, to int
		troubles int
		err      error
	}{
		"from the beginning":               {0, nil, []Source{log(3), log(3), log(300), log(9000)}, 0, 9000, 0, errOver},
		"from an empty log":                {0, nil, []Source{log(0), log(1)}, 0, 1, 0, errOver},
		"from now on":                      {Now, nil, []Source{log(600), log(700)}, 600, 700, 0, errOver},
		"from within":                      {257, nil, []Source{log(600), log(700)}, 257, 700, 0, errOver},
		"from what is to come":             {650, nil, []Source{log(600), log(700)}, 650, 700, 0, errOver},
		"through a restart":                {0, nil, []Source{log(600), nil, nil, log(700)}, 0, 700, 2, errOver},
		"down at first":                    {0, nil, []Source{nil, log(10)}, 0, 10, 1, errOver},
		"a tile that is not there yet":     {0, nil, []Source{without(log(10), "tile/0/000.p/10"), log(10)}, 0, 10, 1, errOver},
		"shorter":                          {0, nil, []Source{log(600), log(599)}, 0, 600, 0, ledger.ErrShorter},
		"another of the same size":         {0, nil, []Source{log(600), fork(600)}, 0, 600, 0, ledger.ErrForked},
		"another, longer":                  {0, nil, []Source{log(600), fork(700)}, 0, 600, 0, ledger.ErrForked},
		"another, from now on":             {Now, nil, []Source{log(600), fork(700)}, 600, 600, 0, ledger.ErrForked},
		"another after the part followed":  {Now, nil, []Source{log(50), log(160), fork(700)}, 50, 160, 0, ledger.ErrForked},
		"known before":                     {0, checkpointOf(t, k, list[:500]), []Source{log(600)}, 0, 600, 0, errOver},
		"known longer":                     {0, checkpointOf(t, k, list[:700]), []Source{log(600)}, 0, 0, 0, ledger.ErrShorter},
		"known otherwise":                  {0, checkpointOf(t, k, forged[:500]), []Source{log(600)}, 0, 0, 0, ledger.ErrForked},
		"an entry that is not the signed":  {0, nil, []Source{log(300), log(700).(memory).with("tile/entries/001", flip(8000))}, 0, 300, 0, ErrDamaged},
		"a tile that is not the signed":    {0, nil, []Source{log(300), log(700).(memory).with("tile/1/000.p/2", flip(0))}, 0, 300, 0, ErrDamaged},
		"a bundle cut short":               {0, nil, []Source{log(300), log(700).(memory).with("tile/entries/001", func(b []byte) []byte { return b[:100] })}, 0, 300, 0, ErrDamaged},
		"a tile cut short":                 {0, nil, []Source{log(300), log(700).(memory).with("tile/0/002.p/188", func(b []byte) []byte { return b[:64] })}, 0, 300, 0, ErrDamaged},
		"an endless bundle":                {0, nil, []Source{log(300), log(700).(memory).with("tile/entries/002.p/188", func([]byte) []byte { return make([]byte, maxBundle+1) })}, 0, 300, 0, ErrDamaged},
		"an endless checkpoint":            {0, nil, []Source{log(300), log(700).(memory).with("checkpoint", func([]byte) []byte { return make([]byte, maxCheckpoint+1) })}, 0, 300, 0, ErrDamaged},
		"a checkpoint that is not signed":  {0, nil, []Source{log(300), log(700).(memory).with("checkpoint", flip(-9))}, 0, 300, 0, ledger.ErrSignature},
		"a start that is not the signed":   {300, nil, []Source{log(700).(memory).with("tile/1/000.p/2", flip(0))}, 0, 0, 0, ErrDamaged},
		"a larger one, part of which came": {0, nil, []Source{without(log(9000), "tile/entries/020"), log(600)}, 0, 4096, 1, ledger.ErrShorter},
	} {
		t.Run(name, func(t *testing.T) {
			opts := FollowOptions{Since: c.since}
			if c.known != nil {
				opts.Known = []Known{{"home", c.known}}
			}
			told, troubles, err := followed(t, k, opts, c.looks...)
			if !errors.Is(err, c.err) || troubles != c.troubles {
				t.Errorf("ended with %v after %d troubles", err, troubles)
			}
			if got, want := strings.Join(told, " "), numbers(c.from, c.to); got != want {
				t.Errorf("told %.80s (%d), want %d to %d", got, len(told), c.from, c.to)
			}
		})
	}
}

func without(src Source, name string) Source {
	m := src.(memory).with(name, func(b []byte) []byte { return b })
	delete(m, name)
	return m
}

func TestFollowEnds(t *testing.T) {
	k := keeperOf("lu")
	ctx, cancel := context.WithCancel(t.Context())
	src := stallAt(logOf(t, k, acts(t, 10)), "tile/entries/000.p/10")
	go func() { <-src.reached; cancel() }()
	defer close(src.release)
	err := Follow(ctx, src, k.log(), FollowOptions{Wait: func(context.Context) error { return errOver }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a stalled look: %v", err)
	}
	stop := errors.New("enough")
	err = Follow(t.Context(), src.memory, k.log(), FollowOptions{
		Act: func(uint64, *ledger.Leaf, []byte) error { return stop },
	})
	if !errors.Is(err, stop) {
		t.Errorf("an act's error: %v", err)
	}
}

func TestShow(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 600)
	m := logOf(t, k, list)
	for _, i := range []uint64{0, 255, 256, 599} {
		e, err := Show(t.Context(), m, k.log(), i)
		if err != nil || string(e.Receipt.Leaf) != string(list[i]) || e.Size != 600 || e.Hash != ledger.LeafHash(list[i]) {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	if _, err := Show(t.Context(), m, k.log(), 600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("beyond: %v", err)
	}
	for name, at := range map[string]int{"tile/entries/001": len(bundleOf(list[256:300]...)) + 40, "tile/0/001": 0, "tile/1/000.p/2": 1} {
		if _, err := Show(t.Context(), m.with(name, flip(at)), k.log(), 300); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	short := m.with("tile/0/001", func(b []byte) []byte { return b[:32] })
	if _, err := Show(t.Context(), short, k.log(), 300); !errors.Is(err, ErrDamaged) {
		t.Errorf("a tile cut short: %v", err)
	}
	if _, err := Show(t.Context(), m.with("checkpoint", flip(-9)), k.log(), 300); !errors.Is(err, ledger.ErrSignature) {
		t.Errorf("a forged checkpoint: %v", err)
	}
}
