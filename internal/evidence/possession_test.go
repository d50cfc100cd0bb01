package evidence

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

func ledgerName(doc []byte) [32]byte { return sha256.Sum256(doc) }

// shelf is an embassy's disk: objects of one leaf.
type shelf struct {
	*log
	objects map[shard.Name][]byte
}

func (s *shelf) Entry(i uint64) ([]byte, error) { return s.leaves[i], nil }

func (s *shelf) Inclusion(i, size uint64) (path [][32]byte, err error) {
	proof, err := tlog.ProveRecord(int64(size), int64(i), s.log)
	for _, h := range proof {
		path = append(path, h)
	}
	return path, err
}

func (s *shelf) Leaf(name shard.Name, _ uint64, _ int) ([]byte, [][32]byte, error) {
	data, ok := s.objects[name]
	if !ok {
		return nil, nil, fs.ErrNotExist
	}
	return data, nil, nil
}

// Removed shows the leaf of an object that remove took away.
func (s *shelf) Removed(name shard.Name, size uint64) (*audit.Removal, error) {
	for i := len(s.leaves) - 1; i >= 0; i-- {
		leaf := first(ledger.ParseLeaf(s.leaves[i]))
		if leaf.Kind == ledger.ObjectRemoved && leaf.Name == name && uint64(i) < size {
			proof, err := s.Inclusion(uint64(i), size)
			return &audit.Removal{Index: uint64(i), Leaf: s.leaves[i], Proof: proof}, err
		}
	}
	return nil, nil
}

func (s *shelf) put(data []byte) shard.Name {
	name := shard.Root(data)
	leaf := s.w.leaf(ledger.ObjectStored)
	leaf.Name, leaf.Size = name, uint64(len(data))
	s.add(leaf)
	s.objects[name] = data
	return name
}

// auditBy audits everything, as package audit does it, and keeps the report in the ledger of fi.
func (s *shelf) auditBy(t *testing.T, auditor uint64) {
	t.Helper()
	id := [16]byte(s.w.charter.Embassies[0].ID)
	ch := audit.NewRange([16]byte(s.w.charter.State.ID), id, s.cosigned(), hash32(auditor), 0, uint64(len(s.leaves)))
	var answer bytes.Buffer
	if err := audit.Respond(&answer, ch, s, s.key); err != nil {
		t.Fatal(err)
	}
	res, err := audit.Verify(&answer, ch, s.w.charter.Embassies[0].Log())
	s.w.now = s.w.now.Add(time.Minute)
	run := &audit.Run{State: ch.State, Embassy: id, Challenge: ch, Started: s.w.now, Took: time.Second, Result: res, Outcome: audit.Judge(res, err, time.Second, time.Hour)}
	r := first(audit.NewReport(run, hash32(auditor+uint64(len(s.leaves)))))
	if err := r.Sign(key(auditor)); err != nil {
		t.Fatal(err)
	}
	doc := first(r.Bytes())
	s.w.docs = append(s.w.docs, Record{ledger.Audit, doc})
	fi := s.w.logs["fi"]
	fi.record(ledger.Slot{Kind: ledger.Audit, Register: id, Sequence: uint64(len(fi.leaves))}, doc)
}

func newShelf(t *testing.T) (*world, *shelf, shard.Name) {
	w := newWorld(t)
	s := &shelf{w.logs["lu"], map[shard.Name][]byte{}}
	name := s.put([]byte("one"))
	s.put([]byte("two"))
	return w, s, name
}

func TestPossession(t *testing.T) {
	w, s, name := newShelf(t)
	file := func() *Pack { return w.pack(s.show(0, s.cosigned()), w.logs["fi"].show(0, w.logs["fi"].cosigned())) }
	lost := fmt.Sprintf("lost:%s:lu", name)
	expect(t, w.judge(file(), "possession:lu"), Unknown)
	s.auditBy(t, auditorKey)
	expect(t, w.judge(file(), "possession:lu"), Held)
	expect(t, w.judge(file(), lost), Unknown)

	// What could be an audit that found otherwise is withheld.
	p := file()
	p.Withhold(func(l string, i uint64, _ *ledger.Leaf) bool { return l == "fi" && i == 0 })
	expect(t, w.judge(p, "possession:lu"), Unknown)

	// A report by somebody whom no charter lets audit counts for nothing when it is good.
	w, s, name = newShelf(t)
	s.auditBy(t, strangerKey)
	expect(t, w.judge(file(), "possession:lu"), Unknown)

	// What the embassy signed convicts it, whoever asked; and it convicts nobody else.
	delete(s.objects, name)
	s.auditBy(t, strangerKey)
	expect(t, w.judge(file(), "possession:lu"), Broken, "embassy lu")
	lost = fmt.Sprintf("lost:%s:lu", name)
	expect(t, w.judge(file(), lost), Held, "embassy lu")
	if b := blamed(w.judge(file())); len(b) != 1 || b[0] != "embassy lu" {
		t.Errorf("blamed: %q", b)
	}
	// A later good one does not take it back.
	s.objects[name] = []byte("one")
	s.auditBy(t, auditorKey)
	expect(t, w.judge(file(), "possession:lu"), Broken, "embassy lu")

	// An auditor's word without the embassy's signature convicts nobody.
	w, s, name = newShelf(t)
	delete(s.objects, name)
	s.auditBy(t, auditorKey)
	r := first(audit.ParseReport(w.docs[0].Data))
	r.Answer, r.First = [64]byte{}, audit.Exhibit{}
	if err := r.Sign(key(auditorKey)); err != nil {
		t.Fatal(err)
	}
	w.docs[0].Data = first(r.Bytes())
	expect(t, w.judge(file(), "possession:lu"), Unknown)
	// Nor does one of which a byte was changed.
	r.Signature[0] ^= 1
	w.docs[0].Data = first(r.Bytes())
	expect(t, w.judge(file(), "possession:lu"), Unknown)
}
