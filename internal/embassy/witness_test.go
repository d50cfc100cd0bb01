package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

func TestOneWitnessIsDownAndComesBack(t *testing.T) {
	t.Parallel()
	var berlin *witness.Witness
	w := newWorld(t, 3, func(c *charter.Charter) {
		var row charter.Witness
		row, berlin = plainWitness(t, "berlin", nil)
		c.Witnesses = []charter.Witness{row}
	})
	w.knows(berlin)
	w.cosigned(0, w.store(0, 5, "all"))
	w.sites[2].stop()
	began := time.Now()
	v := w.cosigned(0, w.store(0, 5, "without por"))
	t.Logf("cosigned by %v after %v with one down", v.Groups, time.Since(began).Round(time.Millisecond))
	if slices.Contains(v.Groups, "PT") {
		t.Errorf("cosigned by one that is down: %v", v.Groups)
	}
	w.start(2)
	until(t, "por cosigns again", func() bool {
		v, err := w.policy().Judge(w.state(0).notary.cosigned().raw, w.log(0))
		return err == nil && slices.Contains(v.Groups, "PT")
	})
	if got := w.state(2).vigil.frozen(); len(got) != 0 {
		t.Errorf("por is frozen for %v", got)
	}
}

func TestTheTimeStaysFreshWithoutGrowth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	first := w.cosigned(0, w.store(0, 1, "x"))
	for i := range w.sites {
		w.sites[i].stop()
	}
	// Later, and quicker: a witness answers out of memory for some seconds.
	w.opts.pace.refresh = 50 * time.Millisecond
	w.opts.now = func() time.Time { return time.Now().Add(time.Hour) }
	for i := range w.sites {
		w.start(i)
	}
	until(t, "a later cosignature of the same tree", func() bool {
		v, err := w.policy().Judge(w.state(0).notary.cosigned().raw, w.log(0))
		return err == nil && v.Checkpoint.Size == first.Checkpoint.Size && v.Time.After(first.Time.Add(50*time.Minute))
	})
}

func TestLyingWitnessesChangeNothing(t *testing.T) {
	t.Parallel()
	says := func(status int, kind, text string) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", kind)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, text) // the embassy may have gone
			})
		}
	}
	var loop atomic.Int32
	const sizes = "text/x.tlog.size"
	liars := map[string]func(http.Handler) http.Handler{
		"forged-line": says(200, "text/plain", "\u2014 "+ledger.WitnessName(publicOf(keyOf("forged-line")))+" "+strings.Repeat("A", 104)+"\n"),
		"nonsense":    says(200, "text/plain", "hello\n"),
		"nothing":     says(200, "text/plain", ""),
		"huge":        says(200, "text/plain", strings.Repeat("\u2014 a "+strings.Repeat("A", 104)+"\n", 10_000)),
		"endless": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 1000)); err != nil {
						return
					}
				}
			})
		},
		"silent": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server would not see the embassy go
				<-r.Context().Done()
			})
		},
		"loops": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n := loop.Add(1)
				w.Header().Set("Content-Type", sizes)
				w.WriteHeader(http.StatusConflict)
				_, _ = fmt.Fprintf(w, "%d\n", n%2)
			})
		},
		"size-beyond-all": says(409, sizes, "1000000\n"),
		"no-proof":        says(422, "text/plain", "no"),
	}
	asked := map[string]*atomic.Int32{}
	w := newWorld(t, 3, func(c *charter.Charter) {
		for name, around := range liars {
			n := new(atomic.Int32)
			asked[name] = n
			row, _ := plainWitness(t, name, func(h http.Handler) http.Handler {
				h = around(h)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.Add(1); h.ServeHTTP(w, r) })
			})
			c.Witnesses = append(c.Witnesses, row)
		}
	})
	for _, word := range []string{"x", "y"} {
		v := w.cosigned(0, w.store(0, 20, word))
		if slices.Contains(v.Groups, "DE") {
			t.Errorf("the liars count: %v", v.Groups)
		}
	}
	refused := func() (by []string) {
		for _, r := range w.state(0).notary.refusedBy() {
			if r.Proven {
				t.Errorf("its word alone: %+v", r)
			}
			by = append(by, r.By)
		}
		slices.Sort(by)
		return by
	}
	until(t, "the refusals are told", func() bool { return slices.Equal(refused(), []string{"no-proof", "size-beyond-all"}) })
	for name, n := range asked {
		until(t, name+" was asked", func() bool { return n.Load() > 0 })
	}
}

func TestManyQuestionsAreNotAskedInVain(t *testing.T) {
	t.Parallel()
	began := time.Now() // it is asked from the first charter on that names it
	asked := make(chan struct{}, 10_000)
	w := newWorld(t, 3, func(c *charter.Charter) {
		row, _ := plainWitness(t, "berlin", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked <- struct{}{}
				http.Error(w, "no", http.StatusInternalServerError)
			})
		})
		c.Witnesses = []charter.Witness{row}
	})
	for i := range 20 {
		w.store(0, 5, i)
	}
	w.cosigned(0, w.store(0, 1, "last"))
	// Three embassies; each one's pause grows to 200 ms within five questions.
	n, most := len(asked), 3*(5+int(time.Since(began)/w.opts.pace.last)+1)
	if n == 0 || n > max(most, 40) {
		t.Errorf("a witness that fails was asked %d times, at most %d were due", n, most)
	}
}

// copyTree is a backup of an embassy's folder.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{keyFile, seedFile} {
		if err := os.Chmod(to+"/"+secret, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestYesterdaysFolderIsRefusedAndSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	w.cosigned(0, w.store(0, 3, "before"))
	w.cosigned(1, w.store(1, 3, "before"))
	w.sites[0].stop()
	yesterday := t.TempDir() + "/copy"
	copyTree(t, w.dirs[0], yesterday)
	w.start(0)
	w.cosigned(0, w.store(0, 10, "after"))
	seen := w.cosigned(1, w.store(1, 10, "after")).Checkpoint.Size
	until(t, "lux saw it", func() bool { return sizeSeen(t, w, 0, 1) >= seen })

	// Control: its own folder, as it was.
	w.sites[0].stop()
	w.start(0)
	w.cosigned(0, w.store(0, 1, "control"))
	if r := w.state(0).notary.refusedBy(); len(r) != 0 {
		t.Fatalf("control: refused by %v", r)
	}

	for i := range w.sites {
		w.sites[i].stop()
	}
	copyTree(t, yesterday, w.dirs[0])
	w.start(0)
	// Alone it hears nothing, and cosigns nothing.
	agent := w.client(0, "agent")
	st, err := agent.Status(t.Context())
	if err != nil || len(st.Witness.Frozen) != 2 {
		t.Fatalf("alone: %+v, %v", st.Witness, err)
	}
	old := sizeSeen(t, w, 0, 1)
	if old >= seen {
		t.Fatalf("control: yesterday's folder knows %d of %d leaves", old, seen)
	}
	remote := w.client(0, "por-key").WitnessRemote()
	remote.HTTP = w.clientWith(0, 2).http
	if _, err := remote.Add(t.Context(), &ledger.AddCheckpoint{Old: old, Checkpoint: checkpointOf(t, w, 1)}); !errors.Is(err, witness.ErrFrozen) {
		t.Errorf("a frozen witness: %v", err)
	}
	w.start(1)
	w.start(2)
	until(t, "lux is told", func() bool { return len(w.state(0).vigil.frozen()) == 0 })
	if got := sizeSeen(t, w, 0, 1); got < seen {
		t.Errorf("thawed with %d of %d leaves", got, seen)
	}
	// Its own ledger: nobody cosigns, also when it grows beyond what it was.
	for _, grow := range []int{0, 30} {
		if grow > 0 {
			w.store(0, grow, "another history")
		}
		var last []Refused
		t.Cleanup(func() { t.Logf("grown by %d, refused by %+v", grow, last) })
		until(t, "both refuse, with proof", func() bool {
			st, err := agent.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last = st.Witness.RefusedBy
			return len(last) == 2 && last[0].Proven && last[1].Proven && last[0].Size >= 13 && last[0].Why != ""
		})
	}
	size, err := w.state(0).journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k := w.state(0).notary.cosigned(); k.size >= size {
		t.Errorf("another history is cosigned: %d of %d leaves", k.size, size)
	}
	// The others go on without it.
	w.cosigned(1, w.store(1, 3, "still"))
}

// clientWith speaks to embassy i with the key of embassy k.
func (w *world) clientWith(i, k int) *Client {
	return w.sites[i].dial(w.t, "agent", func(c *ClientConfig) { c.ClientKey = w.keys[k] })
}

// sizeSeen is how far embassy i saw the ledger of embassy k.
func sizeSeen(t *testing.T, w *world, i, k int) uint64 {
	t.Helper()
	raw, err := w.client(i, "agent").Seen(t.Context(), w.log(k).Origin)
	if err != nil {
		t.Fatal(err)
	}
	if raw == nil {
		return 0
	}
	v, err := w.policy().Judge(raw, w.log(k))
	if err != nil {
		t.Fatal(err)
	}
	return v.Checkpoint.Size
}

// checkpointOf is the cosigned checkpoint on a stopped embassy's disk.
func checkpointOf(t *testing.T, w *world, k int) []byte {
	t.Helper()
	raw, err := readFile(w.state(k).notary.file, maxNote)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.OwnSignatures(raw)
}

func TestWhoMayBringAndAskWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, func(c *charter.Charter) {
		row, _ := plainWitness(t, "berlin", nil)
		c.Witnesses = []charter.Witness{row}
		c.Auditors = []charter.Auditor{{Name: "court", Key: charterKey("court")}}
	})
	name, data := object(1000, "secret")
	if err := w.client(0, "agent").Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	w.cosigned(0, 3)
	slot := ledger.Slot{Kind: ledger.Charter, Sequence: 9}
	if err := w.client(0, "agent").PutRecord(t.Context(), slot, []byte("record")); err != nil {
		t.Fatal(err)
	}
	inspect := map[string]func(context.Context, *Client) error{
		"checkpoint": func(ctx context.Context, c *Client) error { _, err := c.Checkpoint(ctx); return err },
		"cosigned":   func(ctx context.Context, c *Client) error { _, err := c.Cosigned(ctx); return err },
		"tile":       func(ctx context.Context, c *Client) error { _, err := c.Tile(ctx, "tile/entries/000.p/1"); return err },
		"seen":       func(ctx context.Context, c *Client) error { _, err := c.Seen(ctx, w.log(1).Origin); return err },
		"record":     func(ctx context.Context, c *Client) error { _, err := c.GetRecord(ctx, slot); return err },
		"status":     func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
	}
	read := map[string]func(context.Context, *Client) error{
		"object":   func(ctx context.Context, c *Client) error { _, err := c.Get(ctx, name, nil); return err },
		"leaves":   func(ctx context.Context, c *Client) error { _, err := c.Leaves(ctx, name); return err },
		"receipts": func(ctx context.Context, c *Client) error { _, err := c.Receipts(ctx, nameList(name), nil); return err },
	}
	write := map[string]func(context.Context, *Client) error{
		"put":    func(ctx context.Context, c *Client) error { return c.Put(ctx, name, data) },
		"record": func(ctx context.Context, c *Client) error { return c.PutRecord(ctx, slot, []byte("record")) },
	}
	bring := func(ctx context.Context, c *Client) error {
		err := c.PutCosignatures(ctx, []byte("x"))
		if errors.Is(err, ErrInvalid) {
			return nil // let in, and not understood
		}
		return err
	}
	clients := map[string]*Client{"an embassy": w.clientWith(0, 1)}
	for _, who := range []string{"agent", "recovery", "berlin", "court", "stranger"} {
		clients[who] = w.client(0, who)
	}
	check := func(who, what string, err error, ok bool) {
		t.Helper()
		if ok != (err == nil) || (!ok && !errors.Is(err, ErrRefused) && what != "seen") {
			t.Errorf("%s, %s: %v", who, what, err)
		}
	}
	for who, c := range clients {
		for what, ask := range inspect {
			check(who, what, ask(t.Context(), c), who != "stranger")
		}
		for what, ask := range read {
			check(who, what, ask(t.Context(), c), who == "agent" || who == "recovery")
		}
		for what, ask := range write {
			check(who, what, ask(t.Context(), c), who == "agent")
		}
		check(who, "bring", bring(t.Context(), c), who == "agent" || who == "an embassy" || who == "berlin")
	}
	own := ledger.Slot{Kind: ledger.Scrub, Sequence: 1}
	if err := w.client(0, "agent").PutRecord(t.Context(), own, []byte("mine")); !errors.Is(err, ErrRefused) {
		t.Errorf("an agent writes a scrub record: %v", err)
	}
}

func TestConsistencyIsProvenFromTiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil)
	ctx := t.Context()
	c := w.client(0, "agent")
	var all []ledger.Checkpoint
	for i := range 3 {
		size := w.store(0, 150, i)
		var cp ledger.Checkpoint
		until(t, "a checkpoint", func() bool {
			var err error
			cp, err = c.Checkpoint(ctx)
			return err == nil && cp.Size >= size
		})
		all = append(all, cp)
	}
	for i := range all {
		for k := i; k < len(all); k++ {
			proof, err := c.Consistency(ctx, all[i], all[k])
			if err != nil || ledger.VerifyConsistency(all[i], all[k], proof) != nil {
				t.Errorf("%d to %d: %v", all[i].Size, all[k].Size, err)
			}
		}
	}
	forked := all[0]
	forked.Root[0] ^= 1
	if _, err := c.Consistency(ctx, forked, all[2]); !errors.Is(err, ErrForged) || !errors.Is(err, ledger.ErrForked) {
		t.Errorf("a fork: %v", err)
	}
	if _, err := c.Consistency(ctx, all[2], all[0]); !errors.Is(err, ledger.ErrShorter) {
		t.Errorf("backwards: %v", err)
	}
	if _, err := c.Tile(ctx, "tile/../charter"); !errors.Is(err, ErrInvalid) {
		t.Errorf("another path: %v", err)
	}
	whole, err := c.Tile(ctx, "tile/0/000")
	if err != nil || len(whole) != 256*32 {
		t.Fatalf("a whole tile: %d, %v", len(whole), err)
	}
	if part, err := c.Tile(ctx, "tile/0/000.p/77"); err != nil || !bytes.HasPrefix(whole, part[:32]) {
		t.Errorf("a part that is gone: %v", err)
	}
}
