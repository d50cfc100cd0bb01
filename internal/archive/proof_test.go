package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

func failedProof(why string) *snapshot.ProofResult {
	return &snapshot.ProofResult{Failed: why, Lost: -1, Behind: -1}
}

func (b *bench) proof(seq uint64, r *snapshot.ProofResult) []byte {
	b.Helper()
	p, err := archive.MakeProof(b.reg(), b.state.Agent, seq, r)
	check(b, err)
	return p.Bytes()
}

// TestAProofReachesEveryEmbassyThatAnswers: one that was down is given the earlier ones with the next, and a machine that
// has none finds them all.
func TestAProofReachesEveryEmbassyThatAnswers(t *testing.T) {
	b := newBench(t, 2, 3)
	all := map[uint64][]byte{1: b.proof(1, failedProof("no server"))}
	b.state.Embassies[2].Fail(sim.Down())
	hold, down, err := archive.PublishProofs(t.Context(), b.reg(), all)
	if err != nil || len(hold) != 2 || len(down) != 1 {
		t.Fatal(hold, down, err)
	}
	b.state.Embassies[2].Fail(sim.Faults{})
	all[3] = b.proof(3, &snapshot.ProofResult{Snapshot: 1, Position: []byte{1}, Took: 5})
	hold, _, err = archive.PublishProofs(t.Context(), b.reg(), all)
	if err != nil || len(hold) != 3 {
		t.Fatal(hold, err)
	}
	for _, e := range b.state.Embassies {
		slots := slices.DeleteFunc(e.Slots(), func(s ledger.Slot) bool { return s.Kind != ledger.ProofRecord })
		if len(slots) != 2 {
			t.Errorf("%s has %v", e.Member().Name, slots)
		}
	}
	found, err := archive.FindProofs(t.Context(), b.reg(), b.state.Agent, nil)
	if err != nil || found.Last != 3 || !maps.EqualFunc(found.Records, all, bytes.Equal) || len(found.Faults) > 0 {
		t.Fatal(found, err)
	}
	_, r, err := archive.OpenProof(b.reg(), b.state.Agent, 1, found.Records[1])
	if err != nil || r.Proven() || r.Failed != "no server" {
		t.Error(r, err)
	}
	b.state.Embassies[0].Fail(sim.Down())
	b.state.Embassies[1].Fail(sim.Down())
	if _, _, err := archive.PublishProofs(t.Context(), b.reg(), all); !errors.Is(err, register.ErrTooFew) {
		t.Error(err)
	}
}

// TestAHostLearnsNothingFromAProof: one that failed is as long as one that did not, whatever each says.
func TestAHostLearnsNothingFromAProof(t *testing.T) {
	b := newBench(t, 2, 3)
	many := failedProof("much")
	for i := range 40 {
		many.Checks = append(many.Checks, snapshot.ProofCheck{Name: fmt.Sprint("CANARY ", i), Outcome: snapshot.CheckFailed, Detail: "CANARY"})
	}
	var lengths []int
	for i, r := range []*snapshot.ProofResult{failedProof("CANARY"), many, {Snapshot: 1, Position: []byte("CANARY"), Took: 5}} {
		raw := b.proof(uint64(i+1), r)
		if bytes.Contains(raw, []byte("CANARY")) {
			t.Error("a proof says in the clear what came of it")
		}
		lengths = append(lengths, len(raw))
	}
	if len(slices.Compact(lengths)) != 1 {
		t.Error(lengths)
	}
}

// TestAProofOfAnotherCountsNot: of another register, number or agent, or changed at an embassy.
func TestAProofOfAnotherCountsNot(t *testing.T) {
	b := newBench(t, 2, 3)
	raw := b.proof(1, failedProof("x"))
	other, stranger := b.reg(), sim.NewAgent(ed25519Key(9))
	other.ID[0] ^= 1
	for what, err := range map[string]error{
		"register": third(archive.OpenProof(other, b.state.Agent, 1, raw)),
		"number":   third(archive.OpenProof(b.reg(), b.state.Agent, 2, raw)),
		"agent":    third(archive.OpenProof(b.reg(), stranger, 1, raw)),
	} {
		if !errors.Is(err, register.ErrDamaged) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if _, _, err := archive.OpenProof(b.reg(), b.state.Agent, 1, raw); err != nil {
		t.Error(err)
	}
	all := map[uint64][]byte{1: raw}
	_, _, err := archive.PublishProofs(t.Context(), b.reg(), all)
	check(t, err)
	slot := ledger.Slot{Kind: ledger.ProofRecord, Register: [16]byte(b.reg().ID), Sequence: 1}
	bad := bytes.Clone(raw)
	bad[len(bad)/2] ^= 1
	b.state.Embassies[0].DamageRecord(slot, bad)
	found, err := archive.FindProofs(t.Context(), b.reg(), b.state.Agent, nil)
	if err != nil || !bytes.Equal(found.Records[1], raw) || len(found.Faults) != 1 {
		t.Error(found, err)
	}
}

func third(_ *snapshot.Note, _ *snapshot.ProofResult, err error) error { return err }
