package archive

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// maxNotes is how many notes that are new to it a machine takes from embassies at once: the newest.
const maxNotes = 64

// noteKinds are the seals and slots of notes, by what they say.
func noteKinds(kind snapshot.NoteKind) (pack.Kind, ledger.RecordKind) {
	if kind == snapshot.ProofNote {
		return pack.Proof, ledger.ProofRecord
	}
	return pack.Cut, ledger.CutRecord
}

func ownNoteMeta(r *register.Register, kind snapshot.NoteKind, seq uint64) pack.Meta {
	sealed, _ := noteKinds(kind)
	m := pack.Meta{State: r.State, Register: [16]byte(r.ID), Kind: sealed}
	binary.BigEndian.PutUint64(m.ID[8:], seq)
	return m
}

func noteSlot(r *register.Register, kind snapshot.NoteKind, seq uint64) ledger.Slot {
	_, record := noteKinds(kind)
	return ledger.Slot{Kind: record, Register: [16]byte(r.ID), Sequence: seq}
}

// makeNote seals and signs what a note says.
func makeNote(reg *register.Register, agent *register.Agent, kind snapshot.NoteKind, seq uint64, plain []byte) (*snapshot.Note, error) {
	sealed, err := pack.SealNote(rand.Reader, &reg.IndexKey, ownNoteMeta(reg, kind, seq), plain)
	if err != nil {
		return nil, err
	}
	n := &snapshot.Note{
		Kind: kind, Version: snapshot.NoteVersion, State: reg.State, Register: [16]byte(reg.ID), Sequence: seq, Content: sealed,
		CharterVersion: agent.CharterNumber, CharterHash: agent.CharterHash, Time: agent.Now().UnixNano(),
	}
	n.Sign(agent.Key)
	return n, n.Check()
}

// openNote reads a note: it must be the register's, of this kind and number, and signed by an agent that counts. It needs no
// key that opens. Errors wrap ErrDamaged.
func openNote(reg *register.Register, agent *register.Agent, kind snapshot.NoteKind, seq uint64, raw []byte) (*snapshot.Note, []byte, error) {
	n, err := snapshot.ParseNote(kind, raw)
	switch {
	case err != nil:
	case n.State != reg.State || n.Register != [16]byte(reg.ID) || n.Sequence != seq:
		err = errors.New("it is another's")
	case !slices.ContainsFunc(agent.Trusted, func(k ed25519.PublicKey) bool { return [32]byte(k) == n.Agent }):
		err = errors.New("no agent of the charter signed it")
	default:
		err = n.Verify()
	}
	var plain []byte
	if err == nil {
		plain, err = pack.OpenNote(&reg.IndexKey, ownNoteMeta(reg, kind, seq), n.Content)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s %d: %w: %w", kind, seq, register.ErrDamaged, err)
	}
	return n, plain, nil
}

// NotesFound is what embassies hold of a register's notes of one kind.
type NotesFound struct {
	Last    uint64            // the highest number that any shows
	Records map[uint64][]byte // those that were not known and count, at most the newest 64
	Faults  []register.Fault
	Down    []register.Down
}

// FindNotes asks all embassies for notes that are not known. Who does not answer is down, and fails nothing.
func FindNotes(ctx context.Context, reg *register.Register, agent *register.Agent, kind snapshot.NoteKind, known map[uint64][]byte) (*NotesFound, error) {
	sites, out := reg.Sites(), &NotesFound{Records: map[uint64][]byte{}}
	lists := listNotes(ctx, reg, kind, sites)
	numbers := map[uint64]bool{}
	for _, list := range lists {
		for seq := range list {
			out.Last = max(out.Last, seq)
			if known[seq] == nil {
				numbers[seq] = true
			}
		}
	}
	var f register.Faults
	newest := slices.SortedFunc(maps.Keys(numbers), func(a, b uint64) int { return int(int64(b) - int64(a)) })
	for _, seq := range newest[:min(len(newest), maxNotes)] {
		for i, s := range sites {
			if _, ok := lists[i][seq]; !ok || !s.Up() {
				continue
			}
			raw, err := s.Records.GetRecord(ctx, noteSlot(reg, kind, seq))
			if err == nil {
				_, _, err = openNote(reg, agent, kind, seq, raw)
			}
			if err == nil {
				out.Records[seq] = raw
				break
			}
			f.Add(register.Fault{Embassy: s.Name, Object: register.RecordName(noteSlot(reg, kind, seq)), What: err.Error()})
		}
	}
	out.Faults, out.Down = f.All(), sites.Down()
	return out, context.Cause(ctx)
}

// listNotes returns for each site the numbers of the notes that it shows, and their hashes.
func listNotes(ctx context.Context, reg *register.Register, kind snapshot.NoteKind, sites register.Sites) []map[uint64][32]byte {
	_, record := noteKinds(kind)
	lists := make([]map[uint64][32]byte, len(sites))
	var all sync.WaitGroup
	for i, s := range sites {
		all.Go(func() {
			list := map[uint64][32]byte{}
			for after := uint64(0); ; {
				page, err := s.Records.ListRecords(ctx, record, [16]byte(reg.ID), after)
				if err != nil {
					s.Fail(fmt.Errorf("listing %ss: %w", kind, err))
					return
				}
				if len(page) == 0 || page[len(page)-1].Slot.Sequence <= after {
					lists[i] = list
					return
				}
				for _, r := range page {
					list[r.Slot.Sequence] = r.Hash
				}
				after = page[len(page)-1].Slot.Sequence
			}
		})
	}
	all.Wait()
	return lists
}

// PublishNotes gives each embassy those notes of a register that it lacks, and returns who holds all of them, proven by
// receipts. Fewer than k are ErrTooFew, with those who do.
func PublishNotes(ctx context.Context, reg *register.Register, kind snapshot.NoteKind, records map[uint64][]byte) (hold []string, down []register.Down, err error) {
	sites := reg.Sites()
	lists := listNotes(ctx, reg, kind, sites)
	var all sync.WaitGroup
	for i, s := range sites {
		if !s.Up() {
			continue
		}
		all.Go(func() {
			var put []ledger.Slot
			for _, seq := range slices.Sorted(maps.Keys(records)) {
				if _, ok := lists[i][seq]; ok {
					continue
				}
				if err := s.Records.PutRecord(ctx, noteSlot(reg, kind, seq), records[seq]); err != nil {
					s.Fail(fmt.Errorf("storing %s: %w", register.RecordName(noteSlot(reg, kind, seq)), err))
					return
				}
				put = append(put, noteSlot(reg, kind, seq))
			}
			for batch := range slices.Chunk(put, register.Batch/4) {
				if _, err := s.Records.Receipts(ctx, nil, batch); err != nil {
					s.Fail(fmt.Errorf("receipts of %ss: %w", kind, err))
					return
				}
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	for _, s := range sites.Up() {
		hold = append(hold, s.Name)
	}
	return hold, sites.Down(), sites.Enough(reg.K)
}
