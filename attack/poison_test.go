package attack

import (
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

// client is an embassy's client with the stolen key.
func (x *thief) client(t *testing.T, h *host) *embassy.Client {
	t.Helper()
	e, ok := x.charter.EmbassyByName(h.name)
	if !ok {
		t.Fatal(h.name)
	}
	c := embassy.Dial(embassy.ClientConfig{URL: h.url, ServerKey: e.PublicKey(), ClientKey: x.key, State: x.record.State})
	t.Cleanup(c.Close)
	return c
}

// head is one that follows the newest, properly signed, and names an index pack that is nowhere.
func (x *thief) head(t *testing.T, time int64) []byte {
	t.Helper()
	prev := x.heads[len(x.heads)-1]
	session, err := pack.NewSession(rand.Reader, x.reg.Public, x.reg.State, x.record.ID, x.record.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	m := pack.Meta{
		State: x.reg.State, Register: x.record.ID, Epoch: x.record.Epoch, Kind: pack.Head,
		ID: pack.ID{15: byte(prev.Sequence + 1)}, K: prev.K, N: uint8(len(prev.Members)),
	}
	manifest, err := pack.SealMessage(rand.Reader, session, m, []byte("nothing"))
	if err != nil {
		t.Fatal(err)
	}
	h := *prev
	h.Sequence, h.Previous, h.Manifest, h.Time = prev.Sequence+1, prev.Hash(), manifest, prev.Time+time
	h.Index = slices.Clone(prev.Index)
	h.Index[0].Shares = []shard.Name{{1}, {2}, {3}}
	h.Index[0].ID = pack.ID{9: 9}
	h.Sign(x.key)
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	return h.Bytes()
}

func (x *thief) put(t *testing.T, h *host, head []byte) {
	t.Helper()
	slot := ledger.Slot{Kind: ledger.Head, Register: x.record.ID, Sequence: x.heads[len(x.heads)-1].Sequence + 1}
	if err := x.client(t, h).PutRecord(t.Context(), slot, head); err != nil {
		t.Fatal(err)
	}
}

// TestAThiefsSnapshotHidesNoEarlierOne has a thief with the agent's key put a well-signed head, of a snapshot that is
// nowhere, on top of the register at every embassy. The snapshots before it are restored all the same, at home and by
// custodians.
func TestAThiefsSnapshotHidesNoEarlierOne(t *testing.T) {
	t.Parallel()
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	head := x.head(t, 1)
	for _, h := range s.hosts {
		x.put(t, h, head)
	}
	first := s.in("first")
	must(t, "restore", "land@2", "--home", s.home, "--identity", s.reader(), "--to", first)
	sameTrees(t, s.in("tree"), first)
	if r := chancery("restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("none")); r.code != 6 {
		t.Errorf("the thief's own snapshot: %v", r)
	}
	if r := chancery(s.recoverArgs(s.in("recovered"))...); r.code != 3 || !strings.Contains(r.out+r.err, "snapshot 3") {
		t.Errorf("recover: %v", r)
	}
	sameTrees(t, s.in("tree"), s.in("recovered", "land"))
	chosen := append(s.recoverArgs(s.in("chosen")), "--snapshot", "land@1")
	if r := chancery(chosen...); r.code != 0 && r.code != 3 {
		t.Errorf("recover of snapshot 1: %v", r)
	}
	if same(s.in("tree"), s.in("chosen", "land")) == nil {
		t.Error("snapshot 1 was asked for, and another one came")
	}
	must(t, "backup", "land", "--home", s.home)
	must(t, "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("after"))
	sameTrees(t, s.in("tree"), s.in("after"))
}

// TestAForkIsNeverChosenFrom has the thief put two different heads of one number at two embassies. Nobody picks one of
// them: whoever asks is told of the fork and where it is, and gets nothing that could be taken for the register.
func TestAForkIsNeverChosenFrom(t *testing.T) {
	t.Parallel()
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	x.put(t, s.hosts[0], x.head(t, 1))
	x.put(t, s.hosts[1], x.head(t, 2))
	for _, args := range [][]string{
		{"restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored")},
		s.recoverArgs(s.in("recovered")),
		{"backup", "land", "--home", s.home},
		{"verify", "--home", s.home},
	} {
		r := chancery(args...)
		if r.code != 7 || !strings.Contains(r.err, "forked history") || !strings.Contains(r.err, "holds another head 3") {
			t.Errorf("%s: %v", args[0], r)
		}
	}
	for _, to := range []string{s.in("restored"), s.in("recovered", "land")} {
		if left, _ := os.ReadDir(to); len(left) > 0 {
			t.Errorf("%s holds %v", to, left)
		}
	}
	// What was before the fork has one history: nobody signed another.
	for _, args := range [][]string{
		{"restore", "land@2", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored")},
		append(s.recoverArgs(s.in("recovered")), "--snapshot", "land@2"),
	} {
		if r := chancery(args...); r.code != 0 {
			t.Errorf("%s before the fork: %v", args[0], r)
		}
	}
}
