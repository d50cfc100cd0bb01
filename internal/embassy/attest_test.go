package embassy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// attested is the text of a custodian's word for one share of a charter's generation.
func attested(c *charter.Charter, x int, who, commitment string) string {
	return fmt.Sprintf("chancery attestation v1\n\nI am a custodian.\n\nstate: %s\nstate name: %s\ngeneration: %d\nshare: %d\ncustodian: %s\ncommitment: %s\ndestroyed: 2026-05-12\nhow: burned\n",
		c.State.ID, c.State.Name, c.Custody.Generation, x, who, commitment)
}

// The place of an attestation is taken by the custodian's own word alone, and not before the generation is over: an agent
// whose key was stolen cannot fill it with anything else.
func TestOnlyTheCustodianAttests(t *testing.T) {
	t.Parallel()
	w := state3(t, 1, nil)
	old := w.state(0).inForce().charter
	next := old.Next()
	next.Custody.Generation = 2
	next.Custody.OpeningKey = charter.EncodeKey(seeded(charter.OpeningKeySize, "opening 2"))
	two := made(t, next)
	k := old.Custody.Custodians[0]
	text := attested(old, 1, "jaan", k.Commitment)
	slot := ledger.Slot{Kind: ledger.AttestationRecord, Sequence: 256 + 1}
	put := func(slot ledger.Slot, text, namespace string, people ...string) error {
		return w.client(0, "agent").PutRecord(t.Context(), slot, w.record([]byte(text), namespace, nil, people...))
	}
	if err := put(slot, text, attestNamespace, "jaan"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not over") {
		t.Fatalf("of the generation in force: %v", err)
	}
	sigs := signs(t, charter.Namespace, two.Bytes(), "mari", "jaan")
	if err := w.client(0, "agent").PutCharter(t.Context(), two.Bytes(), sigs); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another person signed":     put(slot, text, attestNamespace, "mari"),
		"nobody signed":             put(slot, text, attestNamespace),
		"signed as an order":        put(slot, text, "order@chancery", "jaan"),
		"of another commitment":     put(slot, attested(old, 1, "jaan", charter.EncodeDigest([32]byte{9})), attestNamespace, "jaan"),
		"in the slot of another":    put(ledger.Slot{Kind: ledger.AttestationRecord, Sequence: 256 + 2}, text, attestNamespace, "jaan"),
		"of the new generation":     put(ledger.Slot{Kind: ledger.AttestationRecord, Sequence: 512 + 1}, attested(two, 1, "jaan", k.Commitment), attestNamespace, "jaan"),
		"of no generation ever was": put(ledger.Slot{Kind: ledger.AttestationRecord, Sequence: 1}, text, attestNamespace, "jaan"),
		"not an attestation":        put(slot, strings.TrimPrefix(text, "chancery "), attestNamespace, "jaan"),
	} {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.client(0, "agent").PutRecord(t.Context(), slot, []byte("anything")); err == nil {
		t.Error("what is no record of an attestation was taken")
	}
	if err := put(slot, text, attestNamespace, "jaan"); err != nil {
		t.Fatalf("the custodian's own word: %v", err)
	}
	if _, err := w.client(0, "agent").Receipts(t.Context(), nil, []ledger.Slot{slot}); err != nil {
		t.Error(err)
	}
}
