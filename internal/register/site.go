package register

import (
	"fmt"
	"sync/atomic"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Batch is how many names one question to an embassy holds.
const Batch = 2048

// Site is a member as one run sees it: up until a call to it fails for good. It is safe for concurrent use.
type Site struct {
	Member
	Share int           // its number, from 0: its place in Register.Members
	Mask  shard.MaskKey // of its shares
	down  atomic.Pointer[error]

	strikes atomic.Int32 // reads that failed since the last one that did not
}

// Sites are the members of a register as one run sees them, each at the place of its share.
type Sites []*Site

// Sites returns the members for a new run: all of them count as up.
func (r *Register) Sites() Sites {
	sites := make(Sites, len(r.Members))
	for i, m := range r.Members {
		sites[i] = &Site{Member: m, Share: i, Mask: shard.EmbassyMaskKey(r.MaskKey, m.ID)}
	}
	return sites
}

// Fail marks the site as down for the rest of the run; the first reason stays.
func (s *Site) Fail(err error) { s.down.CompareAndSwap(nil, &err) }

// maxStrikes is how many reads in a row may fail before a site counts as down. One object on a bad spot of a disk
// must not cost all the others; an embassy that is gone must not be waited for with each of them.
const maxStrikes = 3

// Strike notes a read that failed for another reason than that the object is missing or wrong. Three in a row are
// taken for the site's end: it then is down.
func (s *Site) Strike(err error) {
	if s.strikes.Add(1) >= maxStrikes {
		s.Fail(err)
	}
}

// Answered notes a read that did not fail.
func (s *Site) Answered() { s.strikes.Store(0) }

// Again gives a site that was down another chance: of a run that takes hours.
func (s *Site) Again() {
	s.strikes.Store(0)
	s.down.Store(nil)
}

// Up tells whether the site counts as one that answers.
func (s *Site) Up() bool { return s.down.Load() == nil }

// Reason returns why the site is down; nil while it is up.
func (s *Site) Reason() error {
	if p := s.down.Load(); p != nil {
		return *p
	}
	return nil
}

// Up returns those that are up, in a list of the caller's own.
func (all Sites) Up() Sites {
	var out Sites
	for _, s := range all {
		if s.Up() {
			out = append(out, s)
		}
	}
	return out
}

// Enough returns ErrTooFew, naming each embassy that failed and why, when fewer than k sites are up.
func (all Sites) Enough(k int) error {
	n := len(all.Up())
	if n >= k {
		return nil
	}
	err := fmt.Errorf("%w: %d of %d answer, %d are needed", ErrTooFew, n, len(all), k)
	for _, s := range all {
		if why := s.Reason(); why != nil {
			err = fmt.Errorf("%w; %s: %w", err, s.Name, why)
		}
	}
	return err
}

// Down returns those that are down, and why.
func (all Sites) Down() []Down {
	var out []Down
	for _, s := range all {
		if why := s.Reason(); why != nil {
			out = append(out, Down{s.Name, why.Error()})
		}
	}
	return out
}

// RecordName is how faults and errors name a record.
func RecordName(slot ledger.Slot) string { return fmt.Sprintf("%s %d", slot.Kind, slot.Sequence) }
