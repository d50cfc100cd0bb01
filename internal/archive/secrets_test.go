package archive_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/sim"
)

// blocks are the 16-byte pieces of data at every offset that is a multiple of step.
func blocks(data []byte, step int) map[[16]byte]bool {
	out := map[[16]byte]bool{}
	for at := 0; at+16 <= len(data); at += step {
		out[[16]byte(data[at:])] = true
	}
	return out
}

// hits counts the 16-byte blocks, at any offset, of what the embassies hold that are in a set.
func hits(s *sim.State, set map[[16]byte]bool) (n int) {
	for _, e := range s.Embassies {
		e.Each(func(_ string, data []byte) {
			for at := 0; at+16 <= len(data); at++ {
				if set[[16]byte(data[at:])] {
					n++
				}
			}
		})
	}
	return n
}

func TestNothingOfTheTreeIsSeenAtAnEmbassy(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(func(g *sim.Grower) {
		for i := range 3 {
			g.File(fmt.Sprintf("the-name-of-a-secret-folder-%d/and-the-name-of-a-secret-file-%d", i, i), sim.Bytes(uint64(i), 20000))
		}
		g.File("text", sim.Text(1, 30000))
		g.Do(func() error { return os.Symlink("the/target/of/a/secret/link", g.Path("l")) })
	})
	b.backup()
	b.dir = sim.FastDir(t)
	b.backup()
	canaries := map[[16]byte]bool{}
	check(t, filepath.WalkDir(b.tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(b.tree, path)
		check(t, err)
		data, _ := os.ReadFile(path) // of the link there is none
		for block := range blocks(append([]byte(rel+"\x00"), data...), 1) {
			canaries[block] = true
		}
		return nil
	}))
	for block := range blocks([]byte("the/target/of/a/secret/link"), 1) {
		canaries[block] = true
	}
	reg := b.reg()
	for _, key := range [][]byte{reg.IDKey[:], reg.GearKey[:], reg.IndexKey[:], reg.MaskKey[:]} {
		canaries[[16]byte(key[:16])] = true
		canaries[[16]byte(key[16:])] = true
	}
	if n := hits(b.state, canaries); n > 0 {
		t.Errorf("%d blocks of names or contents are at embassies", n)
	}
	// The control: what is there is found.
	e := b.state.Embassies[0]
	name := e.Objects()[0]
	e.Damage(name, append(bytes.Clone(e.Object(name)), "a secret file"+"/and-the-name-of-a-secret-file-1"...))
	if hits(b.state, canaries) == 0 {
		t.Error("control: a canary was not found")
	}
}

func TestTwoBackupsOfOneTreeShareNoBlock(t *testing.T) {
	t.Parallel()
	a := newBench(t, 2, 3)
	a.grow(small)
	a.backup()
	b := newBench(t, 2, 3)
	b.tree = a.tree
	b.backup() // the same keys even: what differs is drawn for each backup
	seen := map[[16]byte]int{}
	twice := 0
	for i, s := range []*sim.State{a.state, b.state} {
		for _, e := range s.Embassies {
			for _, name := range e.Objects() {
				for block := range blocks(e.Object(name), 16) {
					if was, ok := seen[block]; ok && was != 10*i+int(name[0])*100 {
						twice++
					}
					seen[block] = 10*i + int(name[0])*100
				}
			}
		}
	}
	if twice > 0 {
		t.Errorf("%d blocks are there twice", twice)
	}
}

func TestSaltsAndIdsAreNeverUsedTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(several)
	b.backup()
	for i := range 5 {
		b.grow(func(g *sim.Grower) { g.File(fmt.Sprintf("n%d/f", i), sim.Bytes(uint64(200+i), 30000)) })
		b.backup()
	}
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	refs := r.Packs()
	for seq := range 6 {
		head, err := r.Find(archive.SnapshotName(uint64(seq + 1)))
		check(t, err)
		refs = append(refs, head.Index...)
	}
	salts, ids, sessions := map[[24]byte]bool{}, map[pack.ID]bool{}, map[[32]byte]bool{}
	for i := range refs {
		sealed := archive.Unmask(b.reg(), &refs[i], b.state.Embassies[0].Object(refs[i].Shares[0]))
		at := pack.WrappedSize
		if refs[i].Kind == pack.Index {
			at = 0
		} else {
			sessions[[32]byte(sealed[8:])] = true
		}
		salts[[24]byte(sealed[at:at+seal.Prefix])] = true
		ids[refs[i].ID] = true
	}
	if len(salts) != len(refs) || len(ids) != len(refs) || len(sessions) != 6 {
		t.Errorf("%d packs: %d salts, %d ids, %d sessions of 6", len(refs), len(salts), len(ids), len(sessions))
	}
}
