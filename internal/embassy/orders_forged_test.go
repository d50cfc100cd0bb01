package embassy

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

type forgedVectors struct {
	Now, Embassy, Seed string
	Charters           []struct{ Name, Document, Signatures, Expect string }
	Orders             []struct {
		Name, Charter, After, Document, Signatures, Expect string
		Barred                                             []string
	}
}

// Every forged order of the vectors is brought to a live embassy, as anyone can: none is taken, each answer is the same,
// and nothing of it is in the ledger. The good ones among them are taken.
func TestNoForgedOrderIsTakenOverTheNetwork(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../testdata/vectors/order/forged.json")
	if err != nil {
		t.Fatal(err)
	}
	var v forgedVectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	seed, err := hex.DecodeString(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	now, err := time.Parse(time.RFC3339, v.Now)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	tried, taken := 0, 0
	for _, c := range v.Charters {
		if c.Expect != "ok" {
			continue
		}
		s := forgedSite(t, []byte(c.Document), []byte(c.Signatures), v.Embassy, key, now)
		e := s.state().orders
		for _, o := range v.Orders {
			if o.Charter != c.Name {
				continue
			}
			tried++
			barred := &effects{}
			for _, name := range o.Barred {
				barred = barred.with(&order.Order{Kind: charter.ActSuspend, Content: order.Content{Who: order.Who{Name: name}}})
			}
			for _, first := range v.Orders {
				if first.Name == o.After {
					if err := s.forged(t, first.Document, first.Signatures); err != nil {
						t.Errorf("%s: the one before: %v", o.Name, err)
					}
				}
			}
			e.effects.Store(barred)
			next := e.next()
			err := s.forged(t, o.Document, o.Signatures)
			if o.Expect == "ok" {
				parsed, _ := order.Parse([]byte(o.Document))
				if k, _ := order.KindOf(parsed.Kind); k.Destroys || parsed.Kind == charter.ActCharter {
					continue // what travels with it is not among the vectors
				}
				taken++
				if err != nil || e.bySequence(next) == nil {
					t.Errorf("%s: a good one: %v", o.Name, err)
				}
				continue
			}
			if !errors.Is(err, ErrRefused) || err.Error() != strangersAnswer(s) {
				t.Errorf("%s: want %s, got %v", o.Name, o.Expect, err)
			}
			if _, there, err := s.state().catalog.record(orderSlot(next)); there || err != nil {
				t.Errorf("%s: it is in the ledger, %v", o.Name, err)
			}
		}
		s.stop()
	}
	if tried < 60 || taken < 8 {
		t.Errorf("%d tried, %d taken", tried, taken)
	}
}

func strangersAnswer(s *site) string {
	return "embassy https://" + s.addr + ": hand in an order: refused by the embassy: access: this key is not known here"
}

// forgedSite is an embassy with a key and a clock of the vectors.
func forgedSite(t *testing.T, doc, sigs []byte, name string, key ed25519.PrivateKey, now time.Time) *site {
	t.Helper()
	dir := t.TempDir()
	unboundFolder(t, dir, name, "LU", doc, sigs)
	if err := writeKey(filepath.Join(dir, keyFile), key); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, Options{now: func() time.Time { return now }})
	s.server.strange = newBucket(1e6)
	return s
}

func (s *site) forged(t *testing.T, doc, sigs string) error {
	t.Helper()
	data, err := (&order.Record{Version: order.Version, Document: []byte(doc), Signatures: []byte(sigs), Attachments: [][32]byte{}}).Bytes()
	if err != nil {
		data = []byte(doc) // beyond what a record holds
		if len(data) == 0 {
			data = []byte("x")
		}
	}
	c := s.dial(t, "a stranger", func(cfg *ClientConfig) { cfg.State = s.state().id })
	_, err = c.PutOrder(t.Context(), data)
	return err
}

// next is the sequence of the next order.
func (b *orders) next() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return uint64(len(b.all)) + 1
}
