package witness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

func TestForkedCheckpointsAreKeptAndCapped(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 10, "leaf")
	dir := t.TempDir()
	w := awake(t, dir, 9, newClock(), l)
	mustAdd(t, w, l.request(0, 10))
	fork := l.fork(4, 10).checkpoint(10)
	for range 3 {
		if _, err := w.Add(&ledger.AddCheckpoint{Old: 10, Checkpoint: fork}); !errors.Is(err, ErrForked) {
			t.Fatal(err)
		}
	}
	kept, err := conflictsIn(w.conflictFolder(), ID(l.origin))
	if err != nil || len(kept) != 2 {
		t.Fatalf("%v, %v", kept, err)
	}
	roots := map[[32]byte]bool{}
	for _, name := range kept {
		raw, err := os.ReadFile(filepath.Join(dir, "conflicts", name))
		if err != nil {
			t.Fatal(err)
		}
		v, _ := ledger.NewVerifier(l.origin, l.log().Key)
		cp, err := ledger.ParseCheckpoint(raw, v)
		if err != nil || cp.Size != 10 {
			t.Fatalf("%s: %v", name, err)
		}
		roots[cp.Root] = true
	}
	if len(roots) != 2 {
		t.Error("the two are one tree")
	}
	for i := range 2 * maxConflicts {
		bad := l.sign(l.origin, 10, [32]byte{byte(i + 1)}, l.key)
		if _, err := w.Add(&ledger.AddCheckpoint{Old: 10, Checkpoint: bad}); !errors.Is(err, ErrForked) {
			t.Fatal(err)
		}
	}
	if kept, err := conflictsIn(w.conflictFolder(), ID(l.origin)); err != nil || len(kept) != maxConflicts {
		t.Errorf("%d kept, %v", len(kept), err)
	}
	saw, err := Saw(dir, w.Keys())
	if err != nil || len(saw) != 1 || saw[0].Conflicts != maxConflicts || saw[0].Size != 10 || saw[0].Time.IsZero() {
		t.Errorf("%+v, %v", saw, err)
	}
	if _, err := w.Add(l.request(10, 10)); err != nil {
		t.Errorf("the true one is refused now: %v", err)
	}
}

func TestEvidenceIsKeptBeforeTheRefusalAndWhileFrozen(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 10, "leaf")
	dir, c := t.TempDir(), newClock()
	mustAdd(t, awake(t, dir, 9, c, l), l.request(0, 10))
	w := open(t, dir, 9, c, l)
	if _, err := w.Add(&ledger.AddCheckpoint{Old: 10, Checkpoint: l.fork(4, 10).checkpoint(10)}); !errors.Is(err, ErrForked) {
		t.Fatal(err)
	}
	if kept, _ := conflictsIn(w.conflictFolder(), ID(l.origin)); len(kept) != 2 {
		t.Errorf("kept %v", kept)
	}
}

func TestADamagedFileStopsItsLogAlone(t *testing.T) {
	t.Parallel()
	a, b := newLog(t, 1, 10, "leaf"), newLog(t, 2, 10, "leaf")
	dir, c := t.TempDir(), newClock()
	w := awake(t, dir, 9, c, a, b)
	mustAdd(t, w, a.request(0, 10))
	path := filepath.Join(dir, "logs", ID(a.origin))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other[len(other)-20] ^= 1
	for name, data := range map[string][]byte{
		"cut": whole[:len(whole)/2], "empty": {}, "flipped": other, "of another log": b.checkpoint(3), "large": make([]byte, maxNote+1),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		w := open(t, dir, 9, c)
		if err := w.SetLogs([]ledger.Log{a.log(), b.log()}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Thaw(a.origin); !errors.Is(err, ErrDamaged) || !w.Frozen(a.origin) {
			t.Errorf("%s: thawed: %v", name, err)
		}
		if _, err := w.Add(a.request(0, 10)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Thaw(b.origin); err != nil {
			t.Errorf("%s: the other log: %v", name, err)
		}
		if _, err := Saw(dir, w.Keys()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: show: %v", name, err)
		}
	}
}

func TestChangingLogsKeepsWhatIsThawed(t *testing.T) {
	t.Parallel()
	a, b := newLog(t, 1, 10, "leaf"), newLog(t, 2, 10, "leaf")
	dir, c := t.TempDir(), newClock()
	w := awake(t, dir, 9, c, a)
	mustAdd(t, w, a.request(0, 5))
	if err := w.SetLogs([]ledger.Log{a.log(), b.log()}); err != nil {
		t.Fatal(err)
	}
	if w.Frozen(a.origin) || !w.Frozen(b.origin) || !w.Frozen("elsewhere") {
		t.Error("the known must stay thawed, and the new begin frozen")
	}
	if err := w.SetLogs([]ledger.Log{b.log()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(a.request(5, 10)); !errors.Is(err, ErrUnknownLog) {
		t.Error(err)
	}
	if raw, ok := w.Seen(a.origin); !ok || len(raw) == 0 {
		t.Error("what it cosigned once it tells for ever")
	}
	if err := w.SetLogs([]ledger.Log{a.log()}); err != nil || !w.Frozen(a.origin) {
		t.Errorf("one that came back must begin frozen, %v", err)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	for _, mldsa := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "w")
		f, err := Init(dir, mldsa)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Load(dir); err != nil || fmt.Sprint(again.Keys()) != fmt.Sprint(f.Keys()) || len(f.Keys()) != map[bool]int{false: 1, true: 2}[mldsa] {
			t.Fatalf("%v, %v", again, err)
		}
		if _, err := Init(dir, mldsa); !errors.Is(err, ErrExists) {
			t.Errorf("made again: %v", err)
		}
		if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Error("a key that is open to others is taken")
		}
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNoWitness) {
		t.Error(err)
	}
	// What a crash left before the last file is made anew, a seed that is not wanted any more is gone.
	dir := t.TempDir()
	if _, err := Init(dir, true); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, versionFile)); err != nil {
		t.Fatal(err)
	}
	if f, err := Init(dir, false); err != nil || len(f.Keys()) != 1 {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, versionFile), []byte("version 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoWitness) {
		t.Errorf("a newer version: %v", err)
	}
}

func TestAPersonsWordServesOneStart(t *testing.T) {
	t.Parallel()
	f, err := Init(filepath.Join(t.TempDir(), "w"), false)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := f.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := f.Lock(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	if err := f.AllowThaw("a"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if got, err := f.TakeThaw("a"); err != nil || got != want {
			t.Errorf("start %d: %v, %v", i, got, err)
		}
	}
	if got, err := f.TakeThaw("b"); err != nil || got {
		t.Errorf("another log: %v, %v", got, err)
	}
	if n := tempsIn(t, f.Dir); n != 0 {
		t.Errorf("%d temporary files left", n)
	}
}
