package embassy

import (
	"bytes"
	"fmt"
	"path/filepath"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// attestNamespace is the SSH signature namespace of attestations.
const attestNamespace = "attest@chancery"

// attests checks that a record is the word of that custodian whose share its slot
// counts: who has the agent's key must not take the slot from them for ever. Of
// the text only the lines are looked at that say which share it is of; all else
// the custodian signed, and whoever reads the record checks.
func (st *state) attests(slot ledger.Slot, data []byte) error {
	no := func(format string, args ...any) error {
		r := refused(fmt.Sprintf(format, args...))
		r.What = "attestation"
		return r
	}
	rec, err := order.ParseRecord(data)
	if err != nil || slot.Register != [16]byte{} || len(rec.Attachments) > 0 {
		return invalid("attestation", "not the record of one")
	}
	generation := slot.Sequence / 256
	if generation >= uint64(st.inForce().charter.Custody.Generation) {
		return no("generation %d is not over: no share of it may be destroyed", generation)
	}
	old, since := st.charterOfGeneration(generation)
	if old == nil {
		return no("no charter with generation %d was ever in force here", generation)
	}
	for _, k := range old.Custody.Custodians {
		if uint64(k.X) != slot.Sequence%256 {
			continue
		}
		share := fmt.Appendf(nil, "\ngeneration: %d\nshare: %d\ncustodian: %s\ncommitment: %s\n", generation, k.X, k.Name, k.Commitment)
		if !bytes.HasPrefix(rec.Document, []byte("chancery attestation v1\n")) || !bytes.Contains(rec.Document, share) {
			return no("it is not of share %d of generation %d, which is %s's", k.X, generation, k.Name)
		}
		votes, err := charter.Tally(rec.Document, rec.Signatures, attestNamespace, []charter.Voter{charter.VoterOf(k.Name, since...)}, false)
		if err != nil || len(votes) == 0 {
			return no("none of %s's keys signed it", k.Name)
		}
		return nil
	}
	return no("generation %d has no share %d", generation, slot.Sequence%256)
}

// charterOfGeneration is the last charter that was in force here with a generation
// of the opening key, and all of that generation and later ones.
func (st *state) charterOfGeneration(generation uint64) (last *charter.Charter, since []*charter.Charter) {
	for n := st.inForce().charter.Number; n > 0; n-- {
		c, err := loadCharterNumber(filepath.Join(st.dir, "charter"), n)
		if err != nil || uint64(c.Custody.Generation) < generation {
			break // the first charter here, or one before the generation
		}
		since = append(since, c)
		if last == nil && uint64(c.Custody.Generation) == generation {
			last = c
		}
	}
	return last, since
}
