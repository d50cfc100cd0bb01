package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// world is a log of LU's embassy, and witnesses is, pt and fi of the states with those codes.
type world struct {
	t      *testing.T
	log    *fakeLog
	fork   *fakeLog
	clock  *clock
	own    string // the folder of "is", who is to be roused
	peers  map[string]*Witness
	remote map[string]*Remote
	policy *ledger.Policy
}

func newWorld(t *testing.T, secure bool) *world {
	t.Helper()
	x := &world{t: t, log: newLog(t, 1, 60, "leaf"), clock: newClock(), own: t.TempDir(), peers: map[string]*Witness{}, remote: map[string]*Remote{}}
	x.fork = x.log.fork(12, 60)
	x.policy = &ledger.Policy{Need: 3, Faulty: 1}
	for i, name := range []string{"lu", "is", "pt", "fi"} {
		w := awake(t, t.TempDir(), byte(10+i), x.clock, x.log)
		x.policy.Groups = append(x.policy.Groups, ledger.Group{
			Name: strings.ToUpper(name), Need: 1, Members: []ledger.Member{{Name: name, Keys: w.Keys()}},
		})
		if name == "pt" || name == "fi" {
			x.peers[name], x.remote[name] = w, served(t, w, nil, secure)
		}
	}
	if err := x.policy.Check(); err != nil {
		t.Fatal(err)
	}
	return x
}

// woken opens the witness that is to be roused.
func (x *world) woken() *Witness { return open(x.t, x.own, 11, x.clock, x.log) }

// ask rouses a witness by these peers; "lu" is the log itself, which shows a tree of this size.
func (x *world) ask(w *Witness, shows int, names ...string) error {
	x.t.Helper()
	var peers []Peer
	for _, n := range names {
		p := Peer{Name: n, Remote: x.remote[n]}
		if n == "lu" {
			p.Seen = func(context.Context, string) ([]byte, error) { return x.log.checkpoint(shows), nil }
		}
		peers = append(peers, p)
	}
	return Rouse(x.t.Context(), w, x.log.log(), peers, x.policy, "is", x.log.fetch)
}

func (x *world) put(name string, from, to int) {
	x.t.Helper()
	mustAdd(x.t, x.peers[name], x.log.request(from, to))
}

func TestRousingLearnsTheMost(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	mustAdd(t, awake(t, x.own, 11, x.clock, x.log), x.log.request(0, 10))
	x.put("pt", 0, 30)
	x.put("fi", 0, 20)
	w := x.woken()
	if err := x.ask(w, 25, "lu", "pt", "fi"); err != nil {
		t.Fatal(err)
	}
	if w.Frozen(x.log.origin) {
		t.Fatal("frozen still")
	}
	var old *OldSize
	if _, err := w.Add(x.fork.request(10, 20)); !errors.As(err, &old) || old.Size != 30 {
		t.Errorf("a smaller fork: %v", err)
	}
	mustAdd(t, w, x.log.request(30, 40))
}

// A log that was shown to somebody larger, and now proves nothing, may have two histories: whoever was put back does not
// take the word of the others, however many, for enough.
func TestALargerTreeWithoutProofKeepsItFrozen(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	mustAdd(t, awake(t, x.own, 11, x.clock, x.log), x.log.request(0, 10))
	x.put("pt", 0, 30)
	x.put("fi", 0, 10)
	refuses := func(context.Context, ledger.Checkpoint, ledger.Checkpoint) ([][32]byte, error) {
		return nil, errors.New("no tiles for you")
	}
	peers := []Peer{
		{Name: "pt", Remote: x.remote["pt"]},
		{Name: "fi", Remote: x.remote["fi"]},
		{Name: "lu", Seen: func(context.Context, string) ([]byte, error) { return x.log.checkpoint(10), nil }},
	}
	w := x.woken()
	err := Rouse(t.Context(), w, x.log.log(), peers, x.policy, "is", refuses)
	if !errors.Is(err, ErrFrozen) || !strings.Contains(err.Error(), "pt saw 30 leaves") || !w.Frozen(x.log.origin) {
		t.Errorf("thawed on the word of fi and lu: %v", err)
	}
	if err := Rouse(t.Context(), w, x.log.log(), peers, x.policy, "is", x.log.fetch); err != nil || w.Frozen(x.log.origin) {
		t.Errorf("control: with the proof: %v", err)
	}
}

func TestTooFewAnswersKeepItFrozen(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	x.put("pt", 0, 30)
	w := x.woken()
	// Silent: fi, and lu with it. Those two and this witness make 3 of 4.
	if err := x.ask(w, 0, "pt"); !errors.Is(err, ErrFrozen) || !w.Frozen(x.log.origin) {
		t.Errorf("one answer of three: %v", err)
	}
	x.remote["fi"] = &Remote{Prefix: "https://127.0.0.1:1", HTTP: x.remote["pt"].HTTP}
	err := x.ask(w, 30, "pt", "fi")
	if !errors.Is(err, ErrFrozen) || !strings.Contains(err.Error(), "fi") {
		t.Errorf("one that cannot be reached: %v", err)
	}
	if err := x.ask(w, 30, "lu", "pt", "fi"); err != nil || w.Frozen(x.log.origin) {
		t.Errorf("the control: two of three are enough here: %v", err)
	}
	if err := Rouse(t.Context(), x.woken(), x.log.log(), nil, nil, "", nil); !errors.Is(err, ErrFrozen) {
		t.Errorf("nobody to ask: %v", err)
	}
}

func TestAllPutBackAtOnceRouseEachOther(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	x.put("pt", 0, 30)
	x.put("fi", 0, 20)
	for _, name := range []string{"pt", "fi"} {
		if err := x.peers[name].SetLogs(nil); err != nil {
			t.Fatal(err)
		}
		if err := x.peers[name].SetLogs([]ledger.Log{x.log.log()}); err != nil {
			t.Fatal(err)
		}
	}
	w := x.woken()
	if err := x.ask(w, 0, "lu", "pt", "fi"); err != nil {
		t.Fatal(err)
	}
	if held, _, _ := w.holds(x.log.origin); held.Size != 30 {
		t.Errorf("holds %d", held.Size)
	}
}

func TestAnswersThatAreNoneDoNotCount(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	x.put("pt", 0, 30)
	x.put("fi", 0, 30)
	for name, h := range map[string]http.HandlerFunc{
		"no such path": http.NotFound,
		"not signed by the log": func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write(x.log.sign(x.log.origin, 50, x.log.root(50), seedKey(3)))
		},
		"another log": func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(newLog(t, 2, 3, "leaf").checkpoint(3)) },
		"failed":      func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) },
		"a tree that does not continue ours": func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write(x.fork.checkpoint(50))
		},
		"a tree that ours does not continue": func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write(x.fork.checkpoint(20))
		},
	} {
		x.own = t.TempDir()
		w := x.woken()
		if err := w.Learn(x.log.origin, x.log.checkpoint(30), nil, nil); err != nil {
			t.Fatal(err)
		}
		lying := *x
		lying.remote = map[string]*Remote{"pt": served(t, x.peers["pt"], h, true), "fi": x.remote["fi"]}
		if err := lying.ask(w, 0, "pt", "fi"); !errors.Is(err, ErrFrozen) || !w.Frozen(x.log.origin) {
			t.Errorf("%s: %v", name, err)
		}
		if held, _, _ := w.holds(x.log.origin); held.Size != 30 {
			t.Errorf("%s: holds %d", name, held.Size)
		}
		kept, err := conflictsIn(w.conflictFolder(), ID(x.log.origin))
		if want := map[bool]int{true: 2, false: 0}[strings.HasPrefix(name, "a tree")]; err != nil || len(kept) != want {
			t.Errorf("%s: kept %v, %v", name, kept, err)
		}
	}
}

func TestTwoHistoriesKeepItFrozenAndAreKept(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	mustAdd(t, awake(t, x.own, 11, x.clock, x.log), x.log.request(0, 30))
	mustAdd(t, x.peers["pt"], x.fork.request(0, 30))
	x.put("fi", 0, 30)
	w := x.woken()
	if err := x.ask(w, 30, "lu", "pt", "fi"); !errors.Is(err, ErrForked) || !w.Frozen(x.log.origin) {
		t.Errorf("%v", err)
	}
	if kept, err := conflictsIn(w.conflictFolder(), ID(x.log.origin)); err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v", kept, err)
	}
}

// Over plain HTTP an answer may be a recording; one that cosigns now what this witness holds is none.
func TestPlainAnswersCountOnlyWithAFreshSignature(t *testing.T) {
	t.Parallel()
	x := newWorld(t, false)
	x.put("pt", 0, 30)
	x.put("fi", 0, 20)
	w := x.woken()
	if err := x.ask(w, 30, "lu", "pt"); err != nil || w.Frozen(x.log.origin) {
		t.Fatalf("fresh: %v", err)
	}
	// A recording of what pt said when it had 30 leaves, played while it has 50.
	seen, _ := x.peers["pt"].Seen(x.log.origin)
	_, all, err := ledger.SplitSignatures(seen)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Join(all[1:], nil)
	x.clock.add(time.Hour)
	tape := served(t, x.peers["pt"], http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = rw.Write(seen)
			return
		}
		_, _ = rw.Write(lines)
	}), false)
	x.put("pt", 30, 50)
	x.own = t.TempDir()
	live := x.remote["pt"]
	for _, c := range []struct {
		remote *Remote
		frozen bool
	}{{tape, true}, {live, false}} {
		x.remote["pt"] = c.remote
		w := x.woken()
		if err := x.ask(w, 30, "lu", "pt"); errors.Is(err, ErrFrozen) != c.frozen || w.Frozen(x.log.origin) != c.frozen {
			t.Errorf("want frozen %v: %v", c.frozen, err)
		}
	}
}

// Home cannot be asked; it comes by itself, and leaves its cosignature with the log.
func TestACosignatureMadeSinceIsAnAnswer(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	home := x.peers["fi"]
	x.put("fi", 0, 20)
	x.clock.add(time.Hour + 400*time.Millisecond)
	x.put("fi", 20, 25) // in the second in which the witness starts, and before it does
	x.clock.add(time.Millisecond)
	w := x.woken()
	shows := func() []byte {
		raw, ok := home.Seen(x.log.origin)
		if !ok {
			t.Fatal("nothing seen")
		}
		return raw
	}
	ask := func() error {
		lu := Peer{Name: "lu", Seen: func(context.Context, string) ([]byte, error) { return shows(), nil }}
		return Rouse(t.Context(), w, x.log.log(), []Peer{lu}, x.policy, "is", x.log.fetch)
	}
	if err := ask(); !errors.Is(err, ErrFrozen) || !w.Frozen(x.log.origin) {
		t.Errorf("the control: one from before it started: %v", err)
	}
	x.clock.add(time.Second)
	x.put("fi", 25, 30)
	if err := ask(); err != nil || w.Frozen(x.log.origin) {
		t.Errorf("one made since: %v", err)
	}
}

// A witness of others speaks add-checkpoint alone.
func TestAWitnessThatTellsSizesAlone(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	x.put("pt", 0, 20)
	mute := x.peers["pt"].Handler()
	x.remote["pt"] = served(t, x.peers["pt"], http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			http.NotFound(rw, r)
			return
		}
		mute.ServeHTTP(rw, r)
	}), true)
	w := x.woken()
	if err := x.ask(w, 10, "lu", "pt"); !errors.Is(err, ErrFrozen) {
		t.Errorf("it saw more than anybody shows: %v", err)
	}
	if err := x.ask(w, 25, "lu", "pt"); err != nil || w.Frozen(x.log.origin) {
		t.Errorf("it cosigns what is held: %v", err)
	}
}

func TestRousingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	x := newWorld(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(hung); <-r.Context().Done() }))
	defer s.Close()
	go func() { <-hung; cancel() }()
	peers := []Peer{{Name: "pt", Remote: &Remote{Prefix: s.URL, HTTP: s.Client()}}, {Name: "fi"}}
	if err := Rouse(ctx, x.woken(), x.log.log(), peers, x.policy, "is", x.log.fetch); !errors.Is(err, ErrFrozen) {
		t.Error(err)
	}
}

func FuzzWitness(f *testing.F) {
	l := &fakeLog{t: &testing.T{}, origin: "log.example/1", key: seedKey(1)}
	l.grow(12, "leaf")
	f.Add(l.request(0, 5).Bytes())
	f.Add(l.request(5, 12).Bytes())
	f.Add([]byte("old 5\n\nlog.example/1\n"))
	key := seedKey(9)
	name := ledger.WitnessName(ed25519.PublicKey(key[32:]))
	c, err := ledger.NewCosigner(name, key)
	if err != nil {
		f.Fatal(err)
	}
	dir, clock := f.TempDir(), newClock()
	f.Fuzz(func(t *testing.T, body []byte) {
		w, err := Open(dir, []*ledger.Cosigner{c}, clock.now)
		if err != nil {
			t.Fatal(err)
		}
		w.write = func(string, []byte) error { return nil }
		if err := w.SetLogs([]ledger.Log{l.log()}); err != nil {
			t.Fatal(err)
		}
		if err := w.Thaw(l.origin); err != nil {
			t.Fatal(err)
		}
		rw := httptest.NewRecorder()
		w.Handler().ServeHTTP(rw, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
		held, _, err := w.holds(l.origin)
		if err != nil {
			t.Fatal(err)
		}
		if (rw.Code == 200) != (held.Raw != nil) || held.Raw != nil && held.Root != l.root(int(held.Size)) {
			t.Errorf("status %d, holds %+v", rw.Code, held)
		}
		if cp, err := unverified(body); err == nil && len(cp.Raw) > maxNote {
			t.Error("too large, and read")
		}
	})
}
