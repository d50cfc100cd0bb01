package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
)

// shareSize is what an embassy holds of a pack of the smallest class when two of them are needed.
const shareSize = 32 << 10

// TestEveryFlippedByteIsMadeGood keeps a small register at three embassies, two of which are needed, and flips every
// byte of every object: a few at a time, one at a time when exhaustive, in all objects of the first or of the second
// embassy by turns, so that every pack has one wrong share. Each time every pack is fetched and opened by the code
// that a restore uses and every chunk is held against its id; nothing is lost, and exactly the wrong objects are
// blamed, on that embassy.
//
// It runs alone: a process that another test starts meanwhile would for a moment hold the locks of files open here.
func TestEveryFlippedByteIsMadeGood(t *testing.T) {
	_, x, key := flipState(t)
	whole, err := archive.Verify(t.Context(), x.reg, x.agent, archive.VerifyOptions{Key: key}, nil)
	if err != nil || len(whole.Faults) > 0 || whole.Chunks < 2 || whole.Packs < 3 {
		t.Fatalf("before anything is flipped: %+v, %v", whole, err)
	}
	began := time.Now()
	const workers = 2
	var all sync.WaitGroup
	for n := range workers {
		dir := t.TempDir()
		all.Go(func() {
			f := flipper{x: x, key: key, whole: whole, bytes: 16}
			if exhaustive() {
				f.bytes = 1
			}
			if err := f.run(dir, n, workers); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d objects of %d bytes in %v", whole.Packs, shareSize, time.Since(began).Round(time.Millisecond))
}

// flipState makes a register of one snapshot in packs of the smallest class.
func flipState(t *testing.T) (*state, *stolen, *seal.PrivateKey) {
	t.Helper()
	s := found(t, t.TempDir(), "reader", nil, "lu", "is", "pt")
	smallTree(t, s.in("tree"))
	s.add(t, "land", s.in("tree"), 2)
	must(t, "backup", "land", "--home", s.home)
	x := steal(t, s.home, "land", s.hosts)
	_, key := x.grant(t, s.reader())
	return s, x, key
}

type flipper struct {
	x     *stolen
	key   *seal.PrivateKey
	whole *archive.VerifyReport
	bytes int // flipped at a time
}

// run flips every step-th group of bytes from one on, at the first or the second embassy by turns: those are the two
// that are asked first, the third holds what makes them good.
func (f *flipper) run(dir string, from, step int) error {
	sites := []*disk{f.x.disks[0].site(), f.x.disks[1].site(), f.x.disks[2].site()}
	reg := f.x.with(dir, sites)
	for group := from; group < shareSize/f.bytes; group += step {
		turn := group / step % 2
		bad := sites[turn]
		bad.wrong, bad.offset, bad.bit = f.bytes, group*f.bytes, 1<<(group%8)
		rep, err := archive.Verify(context.Background(), reg, f.x.agent, archive.VerifyOptions{Key: f.key}, nil)
		bad.wrong = 0
		if err == nil {
			err = f.check(rep, reg.Members[turn].Name, bad)
		}
		if err != nil {
			return fmt.Errorf("%d bytes from %d: %w", f.bytes, group*f.bytes, err)
		}
	}
	return nil
}

func (f *flipper) check(rep *archive.VerifyReport, embassy string, bad *disk) error {
	if rep.Lost != 0 || rep.Chunks != f.whole.Chunks || rep.Packs != f.whole.Packs || len(rep.Faults) != len(bad.objects) {
		return fmt.Errorf("%+v", rep)
	}
	for _, x := range rep.Faults {
		name, err := shard.ParseName(x.Object)
		if _, held := bad.objects[name]; err != nil || !held || x.Embassy != embassy || x.What != "wrong bytes" {
			return fmt.Errorf("blamed: %v", x)
		}
	}
	return nil
}

// TestFlippedOnDisk does it to the files of a running embassy, with the real program: a restore is identical and
// names embassy and object, verify names it, repair mends it.
func TestFlippedOnDisk(t *testing.T) {
	t.Parallel()
	s, x, _ := flipState(t)
	for i, h := range s.hosts[:2] {
		for name, data := range x.disks[i].objects {
			path := objectPath(t, h, name)
			wrong := slices.Clone(data)
			wrong[len(wrong)/3] ^= 4
			if err := os.WriteFile(path, wrong, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		to := s.in("restored-" + h.name)
		var restored struct{ Faults []register.Fault }
		answer(t, &restored, []int{0}, "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", to)
		sameTrees(t, s.in("tree"), to)
		var verified []archive.VerifyReport
		answer(t, &verified, []int{3}, "verify", "--home", s.home, "--data")
		for name := range x.disks[i].objects {
			named := slices.ContainsFunc(verified[0].Faults, func(f register.Fault) bool {
				return f.Embassy == h.name && f.Object == name.String()
			})
			if !named {
				t.Errorf("verify does not name object %s of %s: %+v", name, h.name, verified[0])
			}
		}
		for _, f := range append(restored.Faults, verified[0].Faults...) {
			if f.Embassy != h.name {
				t.Errorf("blamed: %v", f)
			}
		}
		if len(restored.Faults) == 0 {
			t.Errorf("restore blames nobody, %s is wrong", h.name)
		}
		must(t, "repair", "--home", s.home)
		for name, data := range x.disks[i].objects {
			if now, err := os.ReadFile(objectPath(t, h, name)); err != nil || string(now) != string(data) {
				t.Errorf("object %s of %s is not repaired: %v", name, h.name, err)
			}
		}
	}
	flipTwo(t, s, x)
}

// flipTwo is the control: with one more embassy wrong than may be, the restore refuses and leaves nothing.
func flipTwo(t *testing.T, s *state, x *stolen) {
	t.Helper()
	for i, h := range s.hosts[:2] {
		for name, data := range x.disks[i].objects {
			wrong := slices.Clone(data)
			wrong[0] ^= 1
			if err := os.WriteFile(objectPath(t, h, name), wrong, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	to := s.in("refused")
	r := chancery("--json", "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", to)
	if left, _ := os.ReadDir(to); r.code != 6 || len(left) > 0 {
		t.Errorf("two of three embassies are wrong, two are needed: %v, left: %v", r, left)
	}
	if !strings.Contains(r.out+r.err, "lu") {
		said, _ := json.Marshal(r.out)
		t.Errorf("nobody is named: %s", said)
	}
}

func objectPath(t *testing.T, h *host, name shard.Name) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(h.dir, "states", "*", "objects", "*", name.String()))
	if err != nil || len(paths) != 1 {
		t.Fatalf("object %s at %s: %v %v", name, h.name, paths, err)
	}
	return paths[0]
}
