package archive

import (
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// VerifyOptions say how deep a verification goes.
type VerifyOptions struct {
	Read bool             // every embassy reads every object on its own disk
	Data bool             // every object is fetched and held against its name
	Key  *seal.PrivateKey // and every pack is opened, and every chunk held against its id
}

// VerifyReport is what a verification found. A pack is whole when every embassy holds its share, thin when some do
// not but k do, lost when fewer than k do. After a Repair, Thin and Lost count what is still so.
type VerifyReport struct {
	Snapshots uint64 `json:"snapshots"`
	Packs     int    `json:"packs"`
	Objects   int    `json:"objects"`
	Bytes     int64  `json:"bytes_read"`
	Thin      int    `json:"packs_thin"`
	Lost      int    `json:"packs_lost"`
	Replaced  int    `json:"packs_replaced"` // lost, and stored again since
	Hidden    int    `json:"packs_hidden"`   // fewer than k embassies show a share, and the others do not answer
	Leaving   int    `json:"packs_leaving"`  // that an order removes or removed: not looked at
	Chunks    int    `json:"chunks_opened"`
	Repaired  int    `json:"objects_repaired"`
	// Of the register's stream; its packs count above.
	Stretches  int              `json:"stretches"`            // that hold something
	Gatherings int              `json:"gatherings"`           // of them
	Void       int              `json:"stretches_void"`       // replaced by later ones: not looked at
	Unfinished int              `json:"stretches_unfinished"` // at the end, and never with k embassies: no loss
	Gone       int              `json:"stretches_lost"`       // neither their own pack nor a gathering's is left
	Faults     []register.Fault `json:"faults,omitempty"`
	Down       []register.Down  `json:"embassies_down,omitempty"`
}

// Verify checks a register at every embassy that answers. It returns ErrDamaged with the report when a pack is lost.
func Verify(ctx context.Context, reg *register.Register, agent *register.Agent, opts VerifyOptions, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(v *verifier) error {
		v.Read, v.Data, v.Key = opts.Read, opts.Data, opts.Key
		if err := v.packs(ctx, v.Check); err != nil {
			return err
		}
		return v.stream(ctx, false)
	})
}

// Repair makes every share that an embassy lacks or holds damaged out of k others, with no key that opens, and gives
// embassies the heads and the records of the stream that they lack.
func Repair(ctx context.Context, reg *register.Register, agent *register.Agent, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(v *verifier) error {
		v.Read = true
		if err := v.packs(ctx, v.Inspector.Repair); err != nil {
			return err
		}
		v.Deliver(ctx)
		if err := v.stream(ctx, true); err != nil {
			return err
		}
		v.Deliver(ctx)
		return v.run.publish(ctx)
	})
}

func examine(ctx context.Context, reg *register.Register, agent *register.Agent, progress *Progress, work func(*verifier) error) (*VerifyReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	r, err := openRun(ctx, reg, agent, reg.Sites(), whole)
	if err != nil {
		return nil, err
	}
	defer r.close()
	v := newVerifier(r)
	v.Moved = &progress.Stored
	err = work(v)
	v.tallied()
	if err == nil {
		err = v.settleLost(ctx)
	}
	v.rep.Faults, v.rep.Down = r.faults.All(), r.sites.Down()
	if err == nil && v.rep.Lost+v.rep.Gone > 0 {
		err = fmt.Errorf("%w: %d of %d packs, %d of %d stretches", register.ErrDamaged, v.rep.Lost, v.rep.Packs, v.rep.Gone, v.rep.Stretches)
		if v.rep.Stretches == 0 {
			err = fmt.Errorf("%w: %d of %d packs", register.ErrDamaged, v.rep.Lost, v.rep.Packs)
		}
	}
	if err == nil && v.rep.Hidden > 0 {
		err = fmt.Errorf("%w: %d of %d packs cannot be seen", register.ErrTooFew, v.rep.Hidden, v.rep.Packs)
	}
	return v.rep, err
}

// settleLost counts lost packs, but for those that a later backup replaced, and keeps the list for the next backup.
func (v *verifier) settleLost(ctx context.Context) error {
	replaced, err := v.run.replaced(ctx, v.lost)
	if err != nil {
		return err
	}
	names := map[string]bool{} // of objects that nothing needs: that they are gone is nobody's work any more
	for _, ref := range v.lostRefs {
		if !replaced[ref.ID] {
			continue
		}
		delete(v.lost, ref.ID)
		names[ref.ID.String()] = true
		for _, n := range ref.Shares {
			names[n.String()] = true
		}
	}
	v.run.faults.Drop(names)
	v.rep.Replaced += len(replaced)
	v.rep.Lost = len(v.lost)
	return writeLost(v.run.reg.Dir, v.lost)
}

// verifier goes through a register's packs in batches, and then through its stream.
type verifier struct {
	*register.Inspector
	run      *run
	rep      *VerifyReport
	lost     lostPacks
	lostRefs []snapshot.PackRef
}

func newVerifier(r *run) *verifier {
	v := &verifier{
		Inspector: &register.Inspector{Register: r.reg, Agent: r.agent, Sites: r.sites, Faults: r.faults, Head: r.history.last},
		run:       r, rep: &VerifyReport{Snapshots: r.history.last}, lost: lostPacks{},
	}
	v.Found = v.found
	return v
}

// found counts how a pack of the snapshots stands.
func (v *verifier) found(ref *snapshot.PackRef, verdict register.Verdict) {
	switch verdict {
	case register.Lost:
		v.lost[ref.ID] = true
		v.lostRefs = append(v.lostRefs, *ref)
	case register.Hidden:
		v.rep.Hidden++
	case register.Thin:
		v.rep.Thin++
	}
}

// leaves tells whether an order removes a pack or removed it: then it is not looked at.
func (r *run) leaves(ref *snapshot.PackRef) bool { return r.orders.gone(ref) || r.orders.parting(ref) }

// stream goes through the register's stream.
func (v *verifier) stream(ctx context.Context, repair bool) error {
	s, err := stream.Inspect(ctx, v.Inspector, repair, v.run.leaves)
	v.rep.Stretches, v.rep.Gatherings, v.rep.Void, v.rep.Unfinished = s.Stretches, s.Gatherings, s.Void, s.Unfinished
	v.rep.Gone = s.Gone
	v.rep.Thin += s.Thin
	v.rep.Hidden += s.Hidden
	v.rep.Replaced += s.Replaced
	v.rep.Leaving += s.Leaving
	return err
}

// tallied takes what the inspector counted into the report.
func (v *verifier) tallied() {
	t := v.Tally()
	v.rep.Packs, v.rep.Objects, v.rep.Bytes, v.rep.Chunks, v.rep.Repaired = t.Packs, t.Objects, t.Bytes, t.Chunks, t.Repaired
}

// verifyBatch is how many packs are looked at together.
const verifyBatch = 512

// packs calls work for every pack of the register, index packs included.
func (v *verifier) packs(ctx context.Context, work func(context.Context, []snapshot.PackRef) error) error {
	var batch []snapshot.PackRef
	add := func(ref snapshot.PackRef) error {
		if v.run.leaves(&ref) {
			v.rep.Leaving++
			return nil
		}
		if batch = append(batch, ref); len(batch) < verifyBatch {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return work(ctx, batch)
	}
	for seq := uint64(1); seq <= v.run.history.last; seq++ {
		head, err := v.run.history.head(seq)
		if err != nil {
			return err
		}
		for _, ref := range slices.Concat(head.Index, head.References) {
			if err := add(ref); err != nil {
				return err
			}
		}
	}
	for ref := range v.run.index.Packs() {
		if err := add(ref); err != nil {
			return err
		}
	}
	if err := v.run.index.Err(); err != nil {
		return err
	}
	return work(ctx, batch)
}
