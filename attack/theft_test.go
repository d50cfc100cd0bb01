package attack

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// thief has every file of a home folder, and the embassies' disks as well.
type thief struct {
	*stolen
	files map[string][]byte
	packs []snapshot.IndexedPack

	first, context []byte // the first pack as it was sealed, without its session, and its meaning
}

// loot is what a thief could open.
type loot struct{ registers, packs, heads, kits int }

func (l loot) any() bool { return l != loot{} }

func newThief(t *testing.T, folder string, hosts []*host) *thief {
	t.Helper()
	x := &thief{stolen: steal(t, folder, "land", hosts), files: map[string][]byte{}}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		x.files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, x.packs = x.stolen.packs(t)
	ref := &x.packs[0].Ref
	x.first, x.context = x.sealed(ref)[pack.WrappedSize:], x.meta(ref).Context()
	return x
}

// try takes every file for a private key file of every kind, every 32 bytes of every file for the key of a session or
// a pack, and those of files of keys for a seed too, and counts what opens.
func (x *thief) try(t *testing.T) (l loot) {
	t.Helper()
	for _, file := range x.files {
		if s, err := home.OpenGrant(x.record, file); err == nil {
			l.registers++
			key, err := seal.NewPrivateKey(s.Seed)
			if err != nil {
				t.Fatal(err)
			}
			l.open(x, key)
		}
		for path, kit := range x.files {
			if filepath.Base(path) == custody.KitShare {
				if _, err := custody.OpenShare(kit, string(file)); err == nil {
					l.kits++
				}
			}
		}
	}
	seen := map[[32]byte]bool{}
	for path, file := range x.files {
		switch filepath.Ext(path) {
		case ".yaml", ".sig", ".txt": // what everyone may read: charters, and the words in kits
			continue
		}
		// Where keys are kept a seed may lie; everything is tried as what packs are sealed with.
		seeds := strings.Contains(path, "/keys") || filepath.Base(path) == "record"
		for i := range max(0, len(file)-31) {
			candidate := [32]byte(file[i:])
			if !seen[candidate] {
				seen[candidate] = true
				l.key(t, x, candidate, seeds)
			}
		}
	}
	return l
}

// key tries 32 bytes as the key of packs and heads, and as the seed of the register's or the opening key.
func (l *loot) key(t *testing.T, x *thief, candidate [32]byte, seed bool) {
	key := seal.Key(candidate)
	if _, err := seal.Open(nil, &key, x.context, x.first); err == nil {
		l.packs++
	}
	if !seed {
		return
	}
	private, err := seal.NewPrivateKey(candidate)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(private.Public().Bytes(), x.record.PublicKey) {
		l.open(x, private)
	}
	if _, err := home.OpenSecrets(x.record, private, x.charter.Custody.Generation); err == nil {
		l.registers++
	}
}

// open counts the packs and heads that a private key opens.
func (l *loot) open(x *thief, key *seal.PrivateKey) {
	opener := pack.NewOpener(key)
	for i := range x.packs {
		ref := &x.packs[i].Ref
		if _, err := opener.Open(nil, x.meta(ref), x.sealed(ref)); err == nil {
			l.packs++
		}
	}
	for _, h := range x.heads {
		id := pack.ID{15: byte(h.Sequence)}
		m := pack.Meta{State: h.State, Register: h.Register, Epoch: x.record.Epoch, Kind: pack.Head, ID: id, K: h.K, N: uint8(len(h.Members))}
		if _, err := opener.OpenMessage(m, h.Manifest); err == nil {
			l.heads++
		}
	}
}

// TestHomeTheftOpensNothing gives a thief the whole home folder and the embassies' disks. Nothing that is sealed to a
// key opens. Control: the same attempts open everything once the reader's file, or the bare seed, lies in the folder.
func TestHomeTheftOpensNothing(t *testing.T) {
	t.Parallel()
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	if l := x.try(t); l.any() {
		t.Errorf("the thief opens %+v", l)
	}
	packs, heads := len(x.packs), len(x.heads)
	if packs < 4 || heads != 2 {
		t.Fatalf("%d packs, %d heads", packs, heads)
	}
	secrets, _ := x.grant(t, s.reader())
	for what, file := range map[string][]byte{"the seed": slices.Concat(noise(5, 77), secrets.Seed[:], noise(6, 77)), "the reader's file": readFile(t, s.reader())} {
		x.files = map[string][]byte{"home/keys/found": file}
		if l := x.try(t); l.packs != packs || l.heads != heads {
			t.Errorf("control: with %s only this opens: %+v", what, l)
		}
	}
	for _, path := range []string{s.in("mari.key"), filepath.Join(s.home, "kits", "mari", custody.KitShare)} {
		x.files[path] = readFile(t, path)
	}
	if l := x.try(t); l.kits != 1 {
		t.Errorf("control: with a custodian's file %d kits open", l.kits)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func theftState(t *testing.T) *state {
	t.Helper()
	s := found(t, t.TempDir(), "reader", nil, "lu", "is", "pt")
	smallTree(t, s.in("tree"))
	s.add(t, "land", s.in("tree"), 2)
	must(t, "backup", "land", "--home", s.home)
	write(t, s.in("tree", "deeds", "3"), noise(3, 4000))
	must(t, "backup", "land", "--home", s.home)
	return s
}

// TestHomeTheftDestroysNothing lets a thief with the home's keys send every request that could change or delete what
// embassies hold. None does, and the register comes back whole, from readers and from custodians.
func TestHomeTheftDestroysNothing(t *testing.T) {
	t.Parallel()
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	before := map[string][32]byte{}
	for _, h := range s.hosts {
		kept(t, h, before)
	}
	for i, h := range s.hosts {
		c := rawClient(t, clientTLS(x.key))
		for _, r := range x.vandalism(t, i, c, h) {
			if r.status < 300 && !r.harmless {
				t.Errorf("%s: %s %s: %d", h.name, r.method, r.path, r.status)
			}
		}
	}
	after := map[string][32]byte{}
	for _, h := range s.hosts {
		kept(t, h, after)
	}
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("changed or gone: %s", path)
		}
	}
	must(t, "verify", "--home", s.home, "--data")
	must(t, "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored"))
	sameTrees(t, s.in("tree"), s.in("restored"))
	must(t, s.recoverArgs(s.in("recovered"))...)
	sameTrees(t, s.in("tree"), s.in("recovered", "land"))
}

// kept are the sums of all that an embassy has promised to keep.
func kept(t *testing.T, h *host, sums map[string][32]byte) {
	t.Helper()
	for _, pattern := range []string{"objects/*/*", "records/*/*/*", "charter/*"} {
		paths, err := filepath.Glob(filepath.Join(h.dir, "states", "*", pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s of %s: %v", pattern, h.name, err)
		}
		for _, p := range paths {
			sums[p] = sha256.Sum256(readFile(t, p))
		}
	}
}

// request is one that was made, and how it was answered.
type request struct {
	method, path string
	status       int
	harmless     bool // may be answered with success: it asks for what is so already
}

// vandalism sends all that a thief could try at one embassy.
func (x *thief) vandalism(t *testing.T, n int, c *http.Client, h *host) (all []request) {
	t.Helper()
	base := "/v1/states/" + x.record.State.String()
	send := func(method, path string, body []byte, harmless bool, header ...string) {
		status, err := ask(c, method, h.url+base+path, body, header...)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		all = append(all, request{method, path, status, harmless})
	}
	var names []shard.Name
	for name := range x.disks[n].objects {
		names = append(names, name)
	}
	paths := []string{"", "/objects", "/records/head", "/charter", "/checkpoint", "/status", "/objects/" + names[0].String()}
	for slot := range x.disks[n].records {
		paths = append(paths, fmt.Sprintf("/records/%s/%x/%d", slot.Kind, slot.Register, slot.Sequence))
	}
	for _, path := range paths {
		for _, method := range []string{"DELETE", "PATCH", "POST", "MOVE", "PROPFIND"} {
			send(method, path, []byte("{}"), false)
		}
	}
	for _, name := range names {
		whole := x.disks[n].objects[name]
		wrong := slices.Clone(whole)
		wrong[7] ^= 1
		send("PUT", "/objects/"+name.String(), wrong, true) // not read: it has the object
		send("PUT", "/objects/"+name.String(), wrong[:100], true)
		send("PUT", "/objects/"+name.String(), wrong, true, "Chancery-Repair", "1") // finds its own copy whole
	}
	send("PUT", "/objects/"+shard.Root([]byte("one")).String(), []byte("two"), false)
	for slot, data := range x.disks[n].records {
		send("PUT", fmt.Sprintf("/records/%s/%x/%d", slot.Kind, slot.Register, slot.Sequence), append(slices.Clone(data), 0), false)
	}
	old := fmt.Appendf(nil, `{"document":%q,"signature":""}`, "dmVyc2lvbjogMQo=")
	send("PUT", "/charter", old, false)
	return all
}
