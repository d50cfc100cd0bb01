package attack

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// disk is what lies on an embassy's disk, read with no server between. It answers the archive like an embassy, with
// a few bytes of each object wrong if asked to.
type disk struct {
	objects map[shard.Name][]byte
	records map[ledger.Slot][]byte

	wrong  int // so many bytes of every object are wrong
	offset int // from here on
	bit    byte
}

// readDisk reads an embassy's folder, which holds one state.
func readDisk(t *testing.T, dir string) *disk {
	t.Helper()
	d := &disk{objects: map[shard.Name][]byte{}, records: map[ledger.Slot][]byte{}}
	read := func(pattern string, keep func(path string, data []byte) error) {
		paths, err := filepath.Glob(filepath.Join(dir, "states", "*", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			data, err := os.ReadFile(p)
			if err == nil {
				err = keep(p, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	read("objects/*/*", func(path string, data []byte) error {
		name, err := shard.ParseName(filepath.Base(path))
		d.objects[name] = data
		return err
	})
	read("records/*/*/*", func(path string, data []byte) error {
		kind, err := ledger.ParseRecordKind(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return err
		}
		register, err := hex.DecodeString(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		seq, err := strconv.ParseUint(filepath.Base(path), 10, 64)
		d.records[ledger.Slot{Kind: kind, Register: [16]byte(register), Sequence: seq}] = data
		return err
	})
	return d
}

var errReadOnly = errors.New("a disk that is only read")

func (d *disk) Put(context.Context, shard.Name, []byte) error        { return errReadOnly }
func (d *disk) Repair(context.Context, shard.Name, []byte) error     { return errReadOnly }
func (d *disk) PutRecord(context.Context, ledger.Slot, []byte) error { return errReadOnly }
func (d *disk) PutRecords(context.Context, ledger.Slot, [][]byte) (int, error) {
	return 0, errReadOnly
}

func (d *disk) Get(_ context.Context, name shard.Name, dst []byte) ([]byte, error) {
	data, ok := d.objects[name]
	if !ok {
		return nil, os.ErrNotExist
	}
	at := len(dst)
	dst = append(dst, data...)
	for i := range d.wrong {
		dst[at+d.offset+i] ^= d.bit
	}
	return dst, nil
}

func (d *disk) Check(context.Context, []shard.Name, bool) ([]register.Flaw, error) { return nil, nil }

func (d *disk) GetRecord(_ context.Context, slot ledger.Slot) ([]byte, error) {
	data, ok := d.records[slot]
	if !ok {
		return nil, os.ErrNotExist
	}
	return data, nil
}

func (d *disk) ListRecords(_ context.Context, kind ledger.RecordKind, register [16]byte, after uint64) ([]ledger.RecordInfo, error) {
	var out []ledger.RecordInfo
	for slot, data := range d.records {
		if slot.Kind == kind && slot.Register == register && slot.Sequence > after {
			out = append(out, ledger.RecordInfo{Slot: slot, Hash: sha256.Sum256(data), Size: uint64(len(data))})
		}
	}
	slices.SortFunc(out, func(a, b ledger.RecordInfo) int { return int(a.Slot.Sequence) - int(b.Slot.Sequence) })
	return out, nil
}

func (d *disk) Receipts(context.Context, []shard.Name, []ledger.Slot) ([]ledger.Receipt, error) {
	return nil, errReadOnly
}

// site is one more view of a disk, with a wrong bit of its own.
func (d *disk) site() *disk { return &disk{objects: d.objects, records: d.records} }

// stolen is all that a home folder says of one register, with the embassies' disks beside it.
type stolen struct {
	charter *charter.Charter
	agent   *register.Agent
	key     ed25519.PrivateKey
	record  *charter.Register
	reg     *register.Register
	disks   []*disk // in the order of shares
	heads   []*snapshot.Head
}

// steal opens a home folder as any program could, and reads the disks of its embassies.
func steal(t *testing.T, folder, name string, hosts []*host) *stolen {
	t.Helper()
	h, err := home.Open(folder, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Register(name)
	if err != nil {
		t.Fatal(err)
	}
	x := &stolen{charter: h.Charter, record: r.Record}
	if x.key, err = h.AgentKey(); err != nil {
		t.Fatal(err)
	}
	for _, host := range hosts {
		x.disks = append(x.disks, readDisk(t, host.dir))
	}
	if x.reg, err = x.register(r.Secrets, t.TempDir(), x.disks); err != nil {
		t.Fatal(err)
	}
	x.agent = &register.Agent{Key: x.key, CharterNumber: h.Charter.Number, CharterHash: h.Charter.Hash(), Host: "thief"}
	for _, a := range h.Charter.Agents {
		x.agent.Trusted = append(x.agent.Trusted, a.PublicKey())
	}
	err = archive.Snapshots(t.Context(), x.reg, x.agent, func(h *snapshot.Head) error {
		x.heads = append(x.heads, h)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// register puts the register together over some disks.
func (x *stolen) register(s *charter.RegisterSecrets, dir string, disks []*disk) (*register.Register, error) {
	public, err := seal.ParsePublicKey(x.record.PublicKey)
	if err != nil {
		return nil, err
	}
	reg := &register.Register{
		State: x.record.State, ID: x.record.ID, Name: s.Name, Epoch: x.record.Epoch, Public: public,
		IDKey: chunk.IDKey(s.IDKey), GearKey: s.GearKey, IndexKey: seal.Key(s.IndexKey), MaskKey: shard.MaskKey(s.MaskKey),
		K: int(x.record.K), Dir: dir,
	}
	for i, id := range x.record.Members {
		e, ok := x.charter.EmbassyByID(id)
		if !ok {
			return nil, fmt.Errorf("embassy %s is not in the charter", id)
		}
		reg.Members = append(reg.Members, register.Member{ID: id, Name: e.Name, Objects: disks[i], Records: disks[i]})
	}
	return reg, nil
}

// with is the same register over other disks and with a local folder of its own.
func (x *stolen) with(dir string, disks []*disk) *register.Register {
	reg := *x.reg
	reg.Dir = dir
	reg.Members = slices.Clone(reg.Members)
	for i := range reg.Members {
		reg.Members[i].Objects, reg.Members[i].Records = disks[i], disks[i]
	}
	return &reg
}

// grant opens the register with a reader's identity file.
func (x *stolen) grant(t *testing.T, identity string) (*charter.RegisterSecrets, *seal.PrivateKey) {
	t.Helper()
	file, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	s, err := home.OpenGrant(x.record, file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.NewPrivateKey(s.Seed)
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

// share is one share of a pack with its mask taken off.
func (x *stolen) share(ref *snapshot.PackRef, n int) []byte {
	data := slices.Clone(x.disks[n].objects[ref.Shares[n]])
	shard.Mask(shard.EmbassyMaskKey(x.reg.MaskKey, x.record.Members[n]), ref.ID, n, data)
	return data
}

// sealed is a whole pack as it was sealed: its first k shares side by side.
func (x *stolen) sealed(ref *snapshot.PackRef) []byte {
	var all []byte
	for i := range int(ref.K) {
		all = append(all, x.share(ref, i)...)
	}
	return all[:min(len(all), ref.Class.Size())]
}

// meta is what a pack must have been sealed as.
func (x *stolen) meta(ref *snapshot.PackRef) pack.Meta {
	return pack.Meta{
		State: x.record.State, Register: x.record.ID, Epoch: ref.Epoch, Kind: ref.Kind, ID: ref.ID,
		K: ref.K, N: ref.N, Class: ref.Class,
	}
}

// packs are all packs of all snapshots: the index packs first, then what they say. The index key, which agents hold,
// is enough for that.
func (x *stolen) packs(t *testing.T) (index []snapshot.PackRef, rest []snapshot.IndexedPack) {
	t.Helper()
	for _, h := range x.heads {
		for i := range h.Index {
			ref := &h.Index[i]
			payload, err := pack.OpenIndex(nil, &x.reg.IndexKey, x.meta(ref), x.sealed(ref))
			if err != nil {
				t.Fatal(err)
			}
			body, err := pack.UnpadPayload(payload)
			if err != nil {
				t.Fatal(err)
			}
			packs, err := snapshot.ParseIndex(body)
			if err != nil {
				t.Fatal(err)
			}
			index, rest = append(index, *ref), append(rest, packs...)
		}
	}
	return index, rest
}
