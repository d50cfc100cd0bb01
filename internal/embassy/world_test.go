package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// quick is a notary's pace in tests: the same, but for its patience.
func quick() pace {
	p := defaultPace()
	p.first, p.last, p.ask = 20*time.Millisecond, 200*time.Millisecond, 5*time.Second
	return p
}

// patience is how long a test waits for what comes about by itself: so long that
// only what never does fails, however busy the machine is.
const patience = 3 * time.Minute

// world is some embassies of one state that witness each other, all on this
// machine, over real connections.
type world struct {
	t     testing.TB
	opts  Options
	dirs  []string
	keys  []ed25519.PrivateKey
	addrs []string
	sites []*site
	ch    *charter.Charter
}

var hosts = []struct{ name, country string }{{"lux", "LU"}, {"isl", "IS"}, {"por", "PT"}, {"est", "EE"}}

// newWorld makes n embassies in n countries and lets change add witnesses and
// auditors to their charter.
func newWorld(t testing.TB, n int, change func(*charter.Charter)) *world {
	t.Helper()
	return newWorldOf(t, n, sampleCharter(t, "one"), change, "mari")
}

// newWorldOf begins with a charter of the caller's, which these people sign.
func newWorldOf(t testing.TB, n int, one *charter.Charter, change func(*charter.Charter), people ...string) *world {
	t.Helper()
	w := &world{t: t, opts: Options{pace: quick()}}
	next := one.Next()
	for i := range n {
		dir := filepath.Join(t.TempDir(), hosts[i].name)
		unboundFolder(t, dir, hosts[i].name, hosts[i].country, one.Bytes(), signs(t, charter.Namespace, one.Bytes(), people...))
		key, err := loadKey(filepath.Join(dir, keyFile))
		if err != nil {
			t.Fatal(err)
		}
		w.dirs, w.keys, w.sites = append(w.dirs, dir), append(w.keys, key), append(w.sites, nil)
		w.addrs = append(w.addrs, ownAddress())
		w.start(i)
		pub := publicOf(key)
		next.Embassies = append(next.Embassies, charter.Embassy{
			Name: hosts[i].name, Country: hosts[i].country, ID: charter.EmbassyIDOf(pub), Key: charter.EncodeKey(pub),
			URLs: []string{"https://" + w.addrs[i]}, Origin: ledger.Origin(one.State.ID, pub),
		})
	}
	if change != nil {
		change(&next)
	}
	next.Witnessing = next.DefaultWitnessing()
	w.ch = made(t, next)
	for i := range n {
		if err := w.client(i, "agent").PutCharter(t.Context(), w.ch.Bytes(), signs(t, charter.Namespace, w.ch.Bytes(), people...)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// ownAddress is of a loopback network of the embassy's own: while it is down no
// client's port is taken for its.
func ownAddress() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(250), rand.N(250), 1+rand.N(250))
}

// start opens and serves embassy i, at the address that it had.
func (w *world) start(i int) {
	w.t.Helper()
	s, err := Open(w.dirs[i], w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", w.addrs[i])
	if err != nil {
		w.t.Fatal(err)
	}
	w.addrs[i] = ln.Addr().String()
	w.sites[i] = serveAt(w.t, s, ln)
}

func (w *world) client(i int, who string) *Client {
	w.t.Helper()
	return w.sites[i].client(w.t, who)
}

// state is what embassy i keeps.
func (w *world) state(i int) *state { return w.sites[i].state() }

// log is embassy i's ledger as the charter has it.
func (w *world) log(i int) ledger.Log { return w.ch.Embassies[i].Log() }

func (w *world) policy() *ledger.Policy {
	w.t.Helper()
	p, err := w.ch.Policy()
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// store puts n new objects into embassy i and returns its ledger's size then.
func (w *world) store(i, n int, words ...any) uint64 {
	w.t.Helper()
	var done sync.WaitGroup
	for k := range n {
		done.Go(func() {
			name, data := object(500, append([]any{i, k}, words...)...)
			if err := w.sites[i].putDirect(name, data); err != nil {
				w.t.Error(err)
			}
		})
	}
	done.Wait()
	size, err := w.state(i).journal.size(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return size
}

// cosigned waits until embassy i has a cosigned checkpoint of size leaves, and
// returns it judged.
func (w *world) cosigned(i int, size uint64) ledger.Verdict {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if _, err := w.state(i).notary.covering(ctx, size); err != nil {
		w.t.Fatalf("embassy %d: %v; refused %v, frozen %v", i, err, w.state(i).notary.refusedBy(), w.state(i).vigil.frozen())
	}
	raw, err := w.client(i, "agent").Cosigned(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := w.policy().Judge(raw, w.log(i))
	if err != nil || !v.Enough || v.Checkpoint.Size < size {
		w.t.Fatalf("embassy %d: %d leaves, enough %v, %v:\n%s", i, v.Checkpoint.Size, v.Enough, err, raw)
	}
	return v
}

// until waits for a condition that comes about by itself.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// plainWitness is a witness that is no embassy, over plain HTTP; around changes
// its answers.
func plainWitness(t testing.TB, name string, around func(http.Handler) http.Handler) (charter.Witness, *witness.Witness) {
	t.Helper()
	key := keyOf(name)
	cosigner, err := ledger.NewCosigner(ledger.WitnessName(publicOf(key)), key)
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(t.TempDir(), []*ledger.Cosigner{cosigner}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h := w.Handler()
	if around != nil {
		h = around(h)
	}
	hs := httptest.NewServer(h)
	t.Cleanup(hs.Close)
	return charter.Witness{
		Name: name, Country: "DE", Cosigner: ledger.WitnessName(publicOf(key)), Key: charterKey(name), URL: hs.URL,
	}, w
}

// knows makes a witness of the test's cosign all ledgers of the world.
func (w *world) knows(x *witness.Witness) {
	w.t.Helper()
	if err := x.SetLogs(w.ch.Logs()); err != nil {
		w.t.Fatal(err)
	}
	for _, l := range w.ch.Logs() {
		if err := x.Thaw(l.Origin); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestACheckpointIsCosignedByThreeWitnessesWithinASecond(t *testing.T) {
	noLeaks(t)
	var berlin *witness.Witness
	w := newWorld(t, 3, func(c *charter.Charter) {
		var row charter.Witness
		row, berlin = plainWitness(t, "berlin", nil)
		home := charter.Witness{Name: "home", Country: "UM", Cosigner: ledger.WitnessName(publicOf(keyOf("home"))), Key: charterKey("home")}
		c.Witnesses = []charter.Witness{row, home}
	})
	w.knows(berlin)
	if w.ch.Witnessing.Need != 4 {
		t.Fatalf("need %d of 5", w.ch.Witnessing.Need)
	}
	w.cosigned(0, w.store(0, 1, "begin"))
	// It waits for nothing but the machine: one round within a second shows that, and a busy machine gets more rounds.
	best := time.Hour
	for round := 0; round < 5 || best > time.Second && round < 60; round++ {
		size := w.store(0, 40, "round", round)
		began := time.Now()
		v := w.cosigned(0, size)
		best = min(best, time.Since(began))
		t.Logf("%d leaves cosigned by %v %v after the last append", v.Checkpoint.Size, v.Groups, time.Since(began).Round(time.Millisecond))
	}
	if best > time.Second {
		t.Errorf("never within a second: %v", best)
	}
	// Receipts under a checkpoint that lasts.
	name, data := object(100, "with a receipt")
	agent := w.client(0, "agent")
	if err := agent.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	receipts, err := agent.CosignedReceipts(t.Context(), nameList(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := w.policy().Judge(receipts[0].Checkpoint, w.log(0)); err != nil || !v.Enough {
		t.Errorf("a receipt: enough %v, %v", v.Enough, err)
	}
	plain, err := agent.Receipts(t.Context(), nameList(name), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := w.policy().Judge(plain[0].Checkpoint, w.log(0)); err != nil || v.Enough {
		t.Errorf("control: a plain receipt: enough %v, %v", v.Enough, err)
	}
	for i := range w.sites {
		w.sites[i].stop()
	}
	if raw, err := readFile(w.state(0).notary.file, maxNote); err != nil || !bytes.Contains(raw, []byte("chancery.dev/witness/")) {
		t.Errorf("on disk: %v", err)
	}
	w.start(0)
	if k := w.state(0).notary.cosigned(); k.size < receiptsSize(t, w, receipts[0]) {
		t.Errorf("after a restart: %d leaves", k.size)
	}
	w.sites[0].stop()
}

func receiptsSize(t *testing.T, w *world, r ledger.Receipt) uint64 {
	t.Helper()
	v, err := w.policy().Judge(r.Checkpoint, w.log(0))
	if err != nil {
		t.Fatal(err)
	}
	return v.Checkpoint.Size
}

func TestHomeBringsItsCosignature(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(c *charter.Charter) {
		c.Witnesses = []charter.Witness{{Name: "home", Country: "UM", Cosigner: ledger.WitnessName(publicOf(keyOf("home"))), Key: charterKey("home")}}
	})
	size := w.store(0, 3, "x")
	home := w.client(0, "home")
	ctx := t.Context()
	if _, err := home.Cosigned(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("before home came: %v", err)
	}
	cosigner, err := ledger.NewCosigner(ledger.WitnessName(publicOf(keyOf("home"))), keyOf("home"))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a checkpoint of all", func() bool { cp, err := home.Checkpoint(ctx); return err == nil && cp.Size >= size })
	cp, err := home.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	line, err := cosigner.Cosign(cp, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	with := func(line []byte) []byte {
		note, err := ledger.AddSignatures(cp.Raw, line)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	forged := bytes.Replace(line, []byte("A"), []byte("B"), 1)
	other, err := ledger.NewCosigner("example.org/nobody", keyOf("nobody"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Cosign(cp, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for what, note := range map[string][]byte{
		"no cosignature": cp.Raw, "nobody's": with(foreign), "not a note": []byte("hello\n"), "forged": with(forged),
	} {
		if err := home.PutCosignatures(ctx, note); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := home.Cosigned(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("control: still not cosigned: %v", err)
	}
	if err := home.PutCosignatures(ctx, with(line)); err != nil {
		t.Fatal(err)
	}
	w.cosigned(0, size)
	if st, err := home.Status(ctx); err != nil || st.CosignedSize < size || st.CosignedTime.IsZero() {
		t.Errorf("status: %+v, %v", st, err)
	}
}
