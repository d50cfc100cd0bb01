package stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// walkBlock is how many stretches walk holds at once.
const walkBlock = 1024

// walk calls each for the stretches behind number after, whose hash is prev where that is known, up to through or as
// far as anybody shows. What does not follow is a fork; a number that nobody gives ends the walk with a hole noted,
// unless nothing is shown behind it either. local, if not nil, returns the records that this machine holds behind a
// number, up to another.
func (v *view) walk(ctx context.Context, after, through uint64, prev *[32]byte, local func(after, through uint64) ([][]byte, error),
	each func(*snapshot.Stretch, []byte) error,
) (last uint64, hash *[32]byte, err error) {
	for after < through && v.hole == nil {
		list, known, err := v.whole(ctx, after, through, local)
		if err != nil {
			return after, prev, err
		}
		if len(list) == 0 {
			return after, prev, nil
		}
		raw, rerr := v.readAll(ctx, list, known, func(seq uint64, b []byte) error {
			_, err := v.stretch(b, seq)
			return err
		})
		for i, b := range raw {
			s, err := v.stretch(b, list[i].slot.Sequence)
			if err != nil {
				return after, prev, err
			}
			if prev != nil && s.Previous != *prev {
				return after, prev, v.dispute(list[i].slot, list[i].holder(), b)
			}
			if err := each(s, b); err != nil {
				return after, prev, err
			}
			v.tellLacking(&list[i], b)
			sum := sha256.Sum256(b)
			after, prev = s.Sequence, &sum
		}
		if errors.Is(rerr, register.ErrTooFew) && ctx.Err() == nil {
			v.hole, rerr = rerr, nil
		}
		if rerr != nil {
			return after, prev, rerr
		}
	}
	return after, prev, nil
}

// unseen is what it means that nobody shows a record: that it is lost, or, while some are silent, that it cannot be told.
func (v *view) unseen() error {
	if len(v.sites.Up()) < len(v.sites) {
		return register.ErrTooFew
	}
	return register.ErrDamaged
}

func (v *view) tellLacking(x *shown, b []byte) {
	if v.lacks == nil {
		return
	}
	hash := sha256.Sum256(b)
	var lacking register.Sites
	for _, s := range v.sites {
		has := slices.ContainsFunc(x.versions, func(ver version) bool { return ver.hash == hash && slices.Contains(ver.sites, s) })
		if s.Up() && !has {
			lacking = append(lacking, s)
		}
	}
	if len(lacking) > 0 {
		v.lacks(x.slot, b, lacking)
	}
}

// whole is the block behind a number as far as it has no hole, and notes one that stays. What is written just now comes to one
// embassy out of order, while others were asked before it came to them: it is asked for again.
func (v *view) whole(ctx context.Context, after, through uint64, local func(after, through uint64) ([][]byte, error)) (list []shown, known [][]byte, err error) {
	n, settled := 0, false
	err = again(ctx, func() (bool, error) {
		if list, known, err = v.block(ctx, after, min(through, after+min(walkBlock, through-after)), local); err != nil {
			return false, err
		}
		n = contiguous(list, after)
		settled = n == len(list) && (n > 0 || !v.shownBehind(ctx, after, through))
		return settled, nil
	})
	if settled || err != nil {
		return list, known, err
	}
	v.hole = fmt.Errorf("%w: stretch %d is shown by nobody, and later ones are", v.unseen(), after+uint64(n)+1)
	return list[:n], known, nil
}

// block is what is shown and known of the stretches behind after.
func (v *view) block(ctx context.Context, after, through uint64, local func(after, through uint64) ([][]byte, error)) (list []shown, known [][]byte, err error) {
	if list, err = v.list(ctx, ledger.StretchRecord, after, through); err != nil || local == nil {
		return list, nil, err
	}
	if known, err = local(after, through); err != nil {
		return nil, nil, err
	}
	for i := range known {
		if seq := after + uint64(i) + 1; i == len(list) || list[i].slot.Sequence != seq {
			list = slices.Insert(list, i, shown{slot: v.slot(ledger.StretchRecord, seq)})
		}
	}
	return list, known, nil
}

// contiguous returns how many of a list follow after without a gap.
func contiguous(list []shown, after uint64) int {
	for i := range list {
		if list[i].slot.Sequence != after+uint64(i)+1 {
			return i
		}
	}
	return len(list)
}

// shownBehind tells whether some site shows a stretch behind an empty block.
func (v *view) shownBehind(ctx context.Context, after, through uint64) bool {
	for _, s := range v.sites {
		if !s.Up() {
			continue
		}
		page, err := s.Records.ListRecords(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), after)
		if err == nil && len(page) > 0 && page[0].Slot.Sequence <= through {
			return true
		}
	}
	return false
}
