package attack

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// strike is one harm to one call.
type strike struct {
	name string
	at   int
	harm harm
}

func (s strike) String() string { return fmt.Sprintf("%v %s number %d", s.harm, s.name, s.at) }

// strikes are every harm to every call that a clean run made, or a seeded sample of most, in which each kind of call
// and of harm is.
func strikes(t *testing.T, counts map[string]int, most int) []strike {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("calls of a clean run: %v; seed %d", counts, seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var first, rest []strike
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		for h := fail; h <= kill; h++ {
			order := r.Perm(counts[name])
			for i, at := range order {
				s := strike{name, at + 1, h}
				if i == 0 {
					first = append(first, s)
				} else {
					rest = append(rest, s)
				}
			}
		}
	}
	r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	all := append(first, rest...)
	if !exhaustive() {
		all = all[:min(len(all), most)]
	}
	t.Logf("%d of %d strikes", len(all), len(first)+len(rest))
	return all
}

// named are a tracer's counts by name, of the calls that are to be harmed.
func (x *tracer) named() map[string]int {
	out := map[string]int{}
	for name, n := range calls() {
		if x.count[n] > 0 && name != "mmap" && name != "flock" {
			out[name] = x.count[n]
		}
	}
	return out
}

// ground is what one worker strikes on: a state of its own.
type ground struct {
	*state
	cases atomic.Int64
}

// newGround makes a state with some embassies.
func newGround(t *testing.T, dir string, names ...string) *ground {
	t.Helper()
	g := &ground{state: found(t, dir, "reader", nil, names...)}
	if err := os.Mkdir(g.in("restored"), 0o700); err != nil {
		t.Fatal(err)
	}
	return g
}

// acked is a snapshot that a backup has acknowledged with exit 0, and a copy of what was in it.
type acked struct{ snapshot, copy string }

// expect runs a command that has to end in one of these ways.
func expect(codes []int, args ...string) (string, error) {
	r := chancery(args...)
	if !slices.Contains(codes, r.code) {
		return "", fmt.Errorf("chancery %s: %v, want exit %v", strings.Join(args, " "), r, codes)
	}
	return r.out, nil
}

// begin makes a register with one acknowledged snapshot (unless the strike is to hit the first), and then changes
// its tree.
func (g *ground) begin(t *testing.T, first bool) (register, tree string, held []acked, err error) {
	register = fmt.Sprintf("r%d", g.cases.Add(1))
	tree = g.in("trees", register)
	smallTree(t, tree)
	if _, err := expect([]int{0}, g.addArgs(register, tree, (len(g.hosts)+1)/2)...); err != nil {
		return "", "", nil, err
	}
	if first {
		return register, tree, nil, nil
	}
	if _, err := expect([]int{0}, "backup", register, "--home", g.home); err != nil {
		return "", "", nil, err
	}
	held = append(held, acked{"1", g.in("copies", register)})
	if err := copyTree(tree, held[0].copy); err != nil {
		return "", "", nil, err
	}
	if err := os.Remove(filepath.Join(tree, "deeds", "2")); err != nil {
		return "", "", nil, err
	}
	write(t, filepath.Join(tree, "deeds", "3"), noise(byte(g.cases.Load()), 4000))
	return register, tree, held, nil
}

// copyTree copies a tree with the system's own tool, attributes and all.
func copyTree(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return run("cp", "-a", from, to)
}

// settle runs everything again without harm, and checks what must then hold: the backup ends with exit 0 (or 3, and 0
// after a repair), everything is whole, the newest snapshot is the tree, and what was acknowledged is all there.
func (g *ground) settle(register, tree string, held []acked) error {
	r := chancery("backup", register, "--home", g.home)
	if r.code == 3 {
		if _, err := expect([]int{0}, "repair", register, "--home", g.home); err != nil {
			return err
		}
		r = chancery("backup", register, "--home", g.home)
	}
	if r.code != 0 {
		return fmt.Errorf("backup: %v", r)
	}
	if _, err := expect([]int{0}, "verify", register, "--home", g.home, "--data"); err != nil {
		return err
	}
	held = append(held, acked{"latest", tree})
	for _, a := range held {
		to := g.in("restored", register+"-"+a.snapshot)
		if _, err := expect([]int{0}, "restore", register+"@"+a.snapshot, "--home", g.home, "--identity", g.reader(), "--to", to); err != nil {
			return err
		}
		if err := same(a.copy, to); err != nil {
			return fmt.Errorf("snapshot %s: %w", a.snapshot, err)
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	return nil
}

// newSnapshot is the number of the snapshot that a backup made, from its answer.
func newSnapshot(answer string) (string, error) {
	var a struct{ Snapshot string }
	err := json.Unmarshal([]byte(answer), &a)
	return a.Snapshot, err
}

// traceBackup runs a backup under a tracer, and adds the snapshot to held if it was acknowledged.
func (g *ground) traceBackup(x *tracer, register, tree string, held []acked) ([]acked, int, error) {
	out, err := os.CreateTemp(g.dir, "out-*")
	if err != nil {
		return held, 0, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	code, err := x.run([]string{program, "--json", "backup", register, "--home", g.home}, out, nil, func(int) {})
	if err != nil || code != 0 {
		return held, code, err
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return held, code, err
	}
	snapshot, err := newSnapshot(string(text))
	if err != nil {
		return held, code, fmt.Errorf("exit 0 without an answer: %w", err)
	}
	return append(held, acked{snapshot, tree}), code, nil
}

// TestEverySystemCallOfABackup fails, fails after the fact, or kills a backup at its i-th system call of each kind that
// writes, opens or renames; after each the register is run again without harm, and everything has to hold.
func TestEverySystemCallOfABackup(t *testing.T) {
	t.Parallel()
	const workers = 4
	var grounds []*ground
	for n := range workers {
		grounds = append(grounds, newGround(t, filepath.Join(t.TempDir(), fmt.Sprint(n)), "lu", "is", "pt"))
	}
	for _, first := range []bool{true, false} {
		register, tree, held, err := grounds[0].begin(t, first)
		if err != nil {
			t.Fatal(err)
		}
		clean := &tracer{}
		if _, code, err := grounds[0].traceBackup(clean, register, tree, held); err != nil || code != 0 {
			t.Fatalf("clean run: exit %d, %v", code, err)
		}
		overGrounds(t, grounds, strikes(t, clean.named(), 24), func(g *ground, s strike) error {
			return g.strikeBackup(t, s, first)
		})
	}
}

func (g *ground) strikeBackup(t *testing.T, s strike, first bool) error {
	register, tree, held, err := g.begin(t, first)
	if err != nil {
		return err
	}
	x := &tracer{call: calls()[s.name], at: s.at, harm: s.harm}
	held, code, err := g.traceBackup(x, register, tree, held)
	if err != nil {
		return err
	}
	if x.struck && s.harm == kill && code != killed {
		return fmt.Errorf("was to be killed, and ended with exit %d", code)
	}
	return g.settle(register, tree, held)
}

// overGrounds works off strikes, each ground one at a time.
func overGrounds(t *testing.T, grounds []*ground, all []strike, work func(*ground, strike) error) {
	t.Helper()
	began := time.Now()
	queue := make(chan strike)
	var wait sync.WaitGroup
	for _, g := range grounds {
		wait.Go(func() {
			for s := range queue {
				if err := work(g, s); err != nil {
					t.Errorf("%v: %v", s, err)
				}
			}
		})
	}
	for _, s := range all {
		queue <- s
	}
	close(queue)
	wait.Wait()
	t.Logf("%d strikes in %v", len(all), time.Since(began).Round(time.Second))
}
