package embassy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// bothKeys takes the ML-DSA-44 keys into a charter that its embassies tell, as whoever accredits them does.
func bothKeys(t testing.TB) func(*charter.Charter) {
	return func(c *charter.Charter) {
		for i := range c.Embassies {
			who, err := Identify(t.Context(), c.Embassies[i].URLs[0])
			if err != nil || len(who.MLDSAKey) != charter.MLDSAKeySize {
				t.Fatalf("%d bytes of an ML-DSA-44 key, %v", len(who.MLDSAKey), err)
			}
			c.Embassies[i].MLDSAKey = charter.EncodeKey(who.MLDSAKey)
		}
	}
}

// keysIn are how many keys of each embassy of the charter cosigned a checkpoint.
func (w *world) keysIn(v ledger.Verdict) (n []int) {
	w.t.Helper()
	for _, e := range w.ch.Embassies {
		keys, err := e.Keys()
		if err != nil {
			w.t.Fatal(err)
		}
		found, err := ledger.Cosignatures(v.Checkpoint, keys)
		if err != nil {
			w.t.Fatal(err)
		}
		n = append(n, len(found))
	}
	return n
}

// adopt gives the world another charter, which every embassy takes while it serves.
func (w *world) adopt(change func(*charter.Charter)) {
	w.t.Helper()
	next := w.ch.Next()
	change(&next)
	w.ch = made(w.t, next)
	for i := range w.sites {
		if err := w.client(i, "agent").PutCharter(w.t.Context(), w.ch.Bytes(), signs(w.t, charter.Namespace, w.ch.Bytes(), "mari")); err != nil {
			w.t.Fatal(err)
		}
	}
}

// An embassy whose charter names both its keys cosigns with both, and gives its own ledger its second signature. It does so
// from the moment that it takes such a charter, and after a start. Before, under an earlier charter, no ML-DSA-44
// signature is made.
func TestEmbassiesCosignWithTheKeysThatTheCharterNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	v := w.cosigned(0, w.store(0, 1, "before"))
	if n := w.keysIn(v); w.ch.Version != 3 || n[0] != 0 || slices.Max(n) != 1 || len(v.Checkpoint.Raw) > 2000 {
		t.Errorf("charter version %d: %v keys cosigned, %d bytes", w.ch.Version, n, len(v.Checkpoint.Raw))
	}
	w.adopt(bothKeys(t))
	for _, when := range []string{"taken", "after a start"} {
		v := w.cosigned(0, w.store(0, 1, when))
		n := w.keysIn(v)
		if w.ch.Version != charter.VersionMLDSA || n[0] != 1 || slices.Max(n) != 2 {
			t.Errorf("%s: charter version %d: %v keys cosigned", when, w.ch.Version, n)
		}
		for i := range w.sites {
			w.sites[i].stop()
		}
		for i := range w.sites {
			w.start(i)
		}
	}
}

// An embassy that lost its second key counts for nothing, neither of others' ledgers nor of its own, says so, and counts
// again when the key is back. Meanwhile the others are enough.
func TestAnEmbassyWithoutItsMLDSAKeyCountsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, bothKeys(t))
	group := hosts[1].country
	whole := func(log int, words ...any) {
		t.Helper()
		size := w.store(log, 1, words...)
		until(t, "all three vouch for it", func() bool {
			raw, err := w.client(log, "agent").Cosigned(t.Context())
			if err != nil {
				return false
			}
			v, err := w.policy().Judge(raw, w.log(log))
			return err == nil && v.Checkpoint.Size >= size && len(v.Groups) == 3
		})
	}
	whole(0, "first")
	seed, err := os.ReadFile(filepath.Join(w.dirs[1], seedFile))
	if err != nil {
		t.Fatal(err)
	}
	w.sites[1].stop()
	if err := os.Remove(filepath.Join(w.dirs[1], seedFile)); err != nil {
		t.Fatal(err)
	}
	w.start(1)
	st, err := w.client(1, "agent").Status(t.Context())
	if err != nil || st.Witness == nil || !st.Witness.LacksKey {
		t.Errorf("it does not say that it lacks the key: %+v, %v", st.Witness, err)
	}
	// Its own ledger: both others vouch, and it does not. Another's: it cosigns with the key that it has, and that is not enough.
	for log := range 2 {
		v := w.cosigned(log, w.store(log, 1, "without", log))
		if slices.Contains(v.Groups, group) {
			t.Errorf("ledger %d: vouched for by %v", log, v.Groups)
		}
	}
	w.sites[1].stop()
	if err := os.WriteFile(filepath.Join(w.dirs[1], seedFile), seed, filePerm); err != nil {
		t.Fatal(err)
	}
	w.start(1)
	if st, err := w.client(1, "agent").Status(t.Context()); err != nil || st.Witness.LacksKey {
		t.Errorf("with its key: %+v, %v", st.Witness, err)
	}
	whole(0, "again")
	whole(1, "again")
}

// homeAndOne is one embassy and home's witness, both needed and each with two keys, and what home cosigns with.
func homeAndOne(t *testing.T) (w *world, first, second *ledger.Cosigner) {
	t.Helper()
	name, seed := ledger.WitnessName(publicOf(keyOf("home"))), [32]byte(seeded(32, "seed"))
	first, err := ledger.NewCosigner(name, keyOf("home"))
	if err == nil {
		second, err = ledger.NewMLDSACosigner(name, &seed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, 1, func(c *charter.Charter) {
		bothKeys(t)(c)
		c.Witnesses = []charter.Witness{{
			Name: "home", Country: "UM", Cosigner: name, Key: charterKey("home"), MLDSAKey: charter.EncodeKey(second.Key().PublicKey()),
		}}
	}), first, second
}

// Of what somebody brings nothing counts that is forged, by another key than the charter's, or half.
func TestCosignaturesThatAreBroughtNeedBothKeys(t *testing.T) {
	t.Parallel()
	w, first, second := homeAndOne(t)
	other := [32]byte(seeded(32, "other"))
	foreign, err := ledger.NewMLDSACosigner(ledger.WitnessName(publicOf(keyOf("home"))), &other)
	if err != nil {
		t.Fatal(err)
	}
	size := w.store(0, 3, "x")
	home, ctx := w.client(0, "home"), t.Context()
	until(t, "a checkpoint of all", func() bool { cp, err := home.Checkpoint(ctx); return err == nil && cp.Size >= size })
	cp, err := home.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	by := func(change func([]byte), who ...*ledger.Cosigner) []byte {
		note := cp.Raw
		for _, c := range who {
			line, err := c.Cosign(cp, time.Now())
			if err == nil {
				change(line)
				note, err = ledger.AddSignatures(note, line)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return note
	}
	whole, forged := func([]byte) {}, func(line []byte) {
		at := len(line) - 300 // base64 of the signature
		line[at] = map[bool]byte{true: 'B', false: 'A'}[line[at] == 'A']
	}
	for what, note := range map[string][]byte{"forged": by(forged, second), "of another key": by(whole, foreign)} {
		if err := home.PutCosignatures(ctx, note); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, note := range map[string][]byte{"Ed25519": by(whole, first), "and another's ML-DSA-44": by(whole, first, foreign)} {
		if err := home.PutCosignatures(ctx, note); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := home.Cosigned(ctx); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s is enough: %v", what, err)
		}
	}
	if err := home.PutCosignatures(ctx, by(whole, second)); err != nil {
		t.Fatal(err)
	}
	w.cosigned(0, size)
}

// A folder of an earlier release gets its second key at the first start and keeps it; init makes it at once. A key that
// is damaged or open to others is refused, never replaced.
func TestTheMLDSAKeyIsMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	path := filepath.Join(dir, seedFile)
	made, err := Keys(dir)
	if err != nil || len(made) != 2 {
		t.Fatalf("init: %v, %v", made, err)
	}
	open := func() []ledger.WitnessKey {
		t.Helper()
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Keys()
	}
	if got := open(); !slices.Equal(got, made) {
		t.Error("the server has other keys than init made")
	}
	if err := os.Remove(path); err != nil { // as an earlier release left it
		t.Fatal(err)
	}
	if _, err := Keys(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a second key: %v", err)
	}
	first := open()
	if again := open(); !slices.Equal(first, again) || slices.Equal(first, made) || first[0] != made[0] {
		t.Error("the key that the first start made is not kept")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{"empty": {}, "short": good[1:], "no newline": good[:64], "capitals": bytes.ToUpper(append(good[:63:63], "f\n"...))} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir, Options{}); err == nil {
			t.Errorf("%s: served", what)
			_ = s.Close()
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s: the file was replaced", what)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(dir, Options{}); err == nil {
		t.Error("open to others: served")
		_ = s.Close()
	}
}

// The second signature of a ledger never says an earlier time than the one before, whatever the clock does.
func TestTheOwnSecondSignatureNeverGoesBackInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, bothKeys(t))
	size := w.store(0, 1, "x")
	v := w.cosigned(0, size)
	n := w.state(0).notary
	w.sites[0].stop() // run has ended; the rest is this test's
	second := []ledger.WitnessKey{n.pair.second.Key()}
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	for _, at := range []time.Time{later, later.Add(-2 * time.Hour)} {
		n.now = func() time.Time { return at }
		n.vote(v.Checkpoint)
		raw := n.held[len(n.held)-1].Raw
		cp, err := ledger.ParseCheckpoint(raw, n.verifier)
		if err != nil {
			t.Fatal(err)
		}
		found, err := ledger.Cosignatures(cp, second)
		if err != nil || len(found) != 1 || !found[0].Time.Equal(later) {
			t.Errorf("at %s: %+v, %v", at, found, err)
		}
	}
}

// What home cosigned counts at once, also when the embassy itself was about to go on to a later checkpoint. Of a tree smaller
// than one that it signed the embassy signs nothing.
func TestABroughtCheckpointGetsTheEmbassysOwnVote(t *testing.T) {
	t.Parallel()
	w, first, second := homeAndOne(t)
	size := w.store(0, 1, "first")
	until(t, "its own choice", func() bool { return votedBy(w.state(0).notary) >= size })
	w.sites[0].stop()
	w.opts.pace.least = time.Hour // between two checkpoints of its own choice
	w.start(0)
	until(t, "its own choice after the start", func() bool { return votedBy(w.state(0).notary) >= size })

	size = w.store(0, 1, "second")
	home, ctx := w.client(0, "home"), t.Context()
	var cp ledger.Checkpoint
	until(t, "a checkpoint of both", func() (ok bool) {
		var err error
		cp, err = home.Checkpoint(ctx)
		return err == nil && cp.Size >= size
	})
	if votedBy(w.state(0).notary) >= cp.Size {
		t.Fatal("control: the embassy chose it by itself")
	}
	note := cp.Raw
	for _, c := range []*ledger.Cosigner{first, second} {
		line, err := c.Cosign(cp, time.Now())
		if err == nil {
			note, err = ledger.AddSignatures(note, line)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := home.PutCosignatures(ctx, note); err != nil {
		t.Fatal(err)
	}
	if raw, err := home.Cosigned(ctx); err != nil {
		t.Error(err)
	} else if v, err := w.policy().Judge(raw, w.log(0)); err != nil || !v.Enough || v.Checkpoint.Size < size {
		t.Errorf("%d of %d leaves are cosigned, %v", v.Checkpoint.Size, size, err)
	}
	smaller := cp
	smaller.Size--
	if lines := w.state(0).notary.ownVote(smaller); lines != nil {
		t.Error("it signed a smaller tree after a larger one")
	}
}

// votedBy is the largest tree that a notary's second key signed.
func votedBy(n *notary) uint64 {
	n.voting.Lock()
	defer n.voting.Unlock()
	return n.voted
}
