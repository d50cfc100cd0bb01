package attack

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
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
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	head := x.head(t, 1)
	for _, h := range s.hosts {
		x.put(t, h, head)
	}
	report(t, s, "poisoned")
}

func report(t *testing.T, s *state, what string) {
	r := chancery("restore", "land@2", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored"))
	t.Logf("%s: restore land@2: %v", what, r)
	if r.code == 0 {
		sameTrees(t, s.in("tree"), s.in("restored"))
	}
	r = chancery("restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored3"))
	t.Logf("%s: restore latest: %v", what, r)
	r = chancery(s.recoverArgs(s.in("recovered"))...)
	t.Logf("%s: recover: %v", what, r)
	r = chancery(append(s.recoverArgs(s.in("recovered2")), "--register", "land@2")...)
	t.Logf("%s: recover land@2: %v", what, r)
	r = chancery("backup", "land", "--home", s.home)
	t.Logf("%s: backup: %v", what, r)
	r = chancery("verify", "--home", s.home)
	t.Logf("%s: verify: %v", what, r)
}

func TestFork(t *testing.T) {
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	x.put(t, s.hosts[0], x.head(t, 1))
	x.put(t, s.hosts[1], x.head(t, 2))
	report(t, s, "forked")
}

func TestCharterLockout(t *testing.T) {
	s := theftState(t)
	x := newThief(t, s.home, s.hosts)
	signer, err := charter.ParseSSHKey(readFile(t, s.home+"/keys/signer"))
	if err != nil {
		t.Fatal(err)
	}
	next := x.charter.Next()
	next.Custody.Generation++
	var seed [32]byte
	_, _ = rand.Read(seed[:])
	private, _ := seal.NewPrivateKey(seed)
	next.Custody.OpeningKey = base64.StdEncoding.EncodeToString(private.Public().Bytes())
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	next.Custody.RecoveryKey = charter.EncodeKey(pub)
	for i := range next.Custody.Custodians {
		next.Custody.Custodians[i].Commitment = strings.Repeat("ab", 31) + string([]byte{'0', byte('1' + i)})
	}
	c, err := charter.New(next)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := charter.Sign(c.Bytes(), signer)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.hosts {
		t.Log(x.client(t, h).PutCharter(t.Context(), c.Bytes(), sig))
	}
	report(t, s, "locked out")
	_ = snapshot.MaxHead
}
