package embassy

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

func TestOneWhoComesByItselfThawsAWitness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, func(c *charter.Charter) {
		c.Witnesses = []charter.Witness{{Name: "home", Country: "UM", Cosigner: ledger.WitnessName(publicOf(keyOf("home"))), Key: charterKey("home")}}
	})
	size := w.store(1, 3, "x")
	isl := w.client(1, "home")
	cosigner, err := ledger.NewCosigner(ledger.WitnessName(publicOf(keyOf("home"))), keyOf("home"))
	if err != nil {
		t.Fatal(err)
	}
	bring := func(at time.Time) {
		t.Helper()
		var cp ledger.Checkpoint
		until(t, "a checkpoint", func() bool {
			cp, err = isl.Checkpoint(t.Context())
			return err == nil && cp.Size >= size
		})
		line, err := cosigner.Cosign(cp, at)
		if err != nil {
			t.Fatal(err)
		}
		note, err := ledger.AddSignatures(cp.Raw, line)
		if err == nil {
			err = isl.PutCosignatures(t.Context(), note)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bring(time.Now().Add(-time.Hour))
	v := w.state(0).vigil
	policy, self := w.policy(), "lux"
	ask := func() error {
		return v.ask(t.Context(), w.ch, w.log(1), self, policy, map[string]*Client{"isl": w.clientWith(1, 0)})
	}
	if err := ask(); !errors.Is(err, witness.ErrFrozen) {
		t.Errorf("control: with what home said an hour ago: %v", err)
	}
	bring(time.Now().Add(2 * time.Second))
	until(t, "lux cosigns", func() bool { return len(v.frozen()) == 0 })
	until(t, "isl is cosigned by lux", func() bool {
		verdict, err := policy.Judge(w.state(1).notary.cosigned().raw, w.log(1))
		return err == nil && len(verdict.Groups) == 3
	})
}

func TestThoseWhoWaitForCosignaturesKeepNobodyOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	w.cosigned(0, w.store(0, 1, "x"))
	w.sites[1].stop()
	w.sites[2].stop()
	name, data := object(100, "lonely")
	agent := w.client(0, "agent")
	if err := agent.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	crowd := w.sites[0].dial(t, "agent", func(c *ClientConfig) { c.Conns = maxRequests + 10 })
	for range maxRequests + 10 {
		all.Go(func() {
			if _, err := crowd.CosignedReceipts(ctx, nameList(name), nil); err == nil {
				t.Error("cosigned by nobody")
			}
		})
	}
	until(t, "all wait", func() bool { return len(w.sites[0].server.waits) == maxRequests+10 })
	other, data := object(100, "beside them")
	if err := agent.Put(t.Context(), other, data); err != nil {
		t.Errorf("a write beside those who wait: %v", err)
	}
	if len(w.sites[0].server.waits) != maxRequests+10 {
		t.Error("control: they waited no more when the write was through")
	}
	cancel()
	all.Wait()
	until(t, "all places are free", func() bool { return len(w.sites[0].server.slots) == 0 && len(w.sites[0].server.waits) == 0 })
}

func TestALedgerShorterThanItsOwnCosignedCheckpointIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil)
	size := w.store(0, 5, "x")
	w.cosigned(0, size)
	dir := w.state(0).dir
	w.sites[0].stop()
	w.start(0)
	if r := w.state(0).notary.refusedBy(); len(r) != 0 {
		t.Errorf("control: %v", r)
	}
	w.sites[0].stop()
	if err := errors.Join(os.RemoveAll(dir+"/ledger"), os.Remove(dir+"/catalog.db")); err != nil {
		t.Fatal(err)
	}
	w.start(0)
	st, err := w.client(0, "agent").Status(t.Context())
	if err != nil || len(st.Witness.RefusedBy) != 1 || !st.Witness.RefusedBy[0].Proven || st.Witness.RefusedBy[0].Size < size {
		t.Errorf("%+v, %v", st.Witness, err)
	}
}

func TestALedgerThatAlwaysGrowsIsCosignedAllTheTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	w.cosigned(0, w.store(0, 1, "begin"))
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			name, data := object(100, "always", n)
			if err := w.sites[0].putDirect(name, data); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		size, err := w.state(0).journal.size(ctx)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.cosigned(0, size+1)
		t.Logf("leaf %d cosigned after %v while the ledger grows", size, time.Since(began).Round(time.Millisecond))
	}
	cancel()
	writer.Wait()
}
