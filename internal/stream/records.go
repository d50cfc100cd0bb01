package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

// recordBatch is how many records of stretches go to an embassy at once.
const recordBatch = 64

// keepRecords writes records to the local log until the stream ends, those that come while the disk is busy together. An
// embassy is sent none before.
func (s *Stream) keepRecords() {
	for {
		select {
		case <-s.logging:
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		batch, err := s.unlogged, s.broken
		s.unlogged = nil
		s.mu.Unlock()
		ended := err != nil
		if !ended {
			err = s.logAll(batch)
		}
		for _, f := range batch {
			f.lost = err
			close(f.logged)
		}
		if ended {
			return
		}
	}
}

// logAll writes records to the local log. A crash before its end leaves records that nobody was sent, or the first of them;
// one after it leaves stretches that are completed or replaced by who opens the stream next.
func (s *Stream) logAll(batch []*flight) (err error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	for _, f := range batch {
		if err = s.log.add(f.seq, f.record); err != nil {
			break
		}
	}
	if err == nil {
		err = s.log.sync()
	}
	if err != nil {
		err = fmt.Errorf("local records of the stream: %w", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.breakOff(err)
	}
	return err
}

// bring returns when an embassy has the record of a stretch. It is sent with those behind it that are ready: a record
// costs a way there and back and an fsync however many go together, and none is taken before the one before it.
func (s *Stream) bring(f *flight, l *lane) error {
	batch, err := s.awaitTurn(f, l)
	if err != nil || len(batch) == 0 {
		return err
	}
	n, err := s.putRecords(f.ctx, l, batch)
	s.mu.Lock()
	for i, x := range batch {
		delete(l.under, x.seq)
		if i < n {
			l.took(x.seq)
		}
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if n > 0 {
		return nil // why another was not taken, its own stretch asks when its turn comes, which is now
	}
	return err
}

// awaitTurn waits until an embassy has the record of a stretch, which another sent with its own, or until the record may be
// sent; then it returns what goes, from this record on.
//
// It may be sent when the one before is at the same embassy, or with so many that it will be found. Otherwise the
// loss of home could leave a record of which nobody has the one before: the chain could neither be read on nor gone on with.
func (s *Stream) awaitTurn(f *flight, l *lane) (batch []*flight, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.await(f.ctx, func() bool {
		switch {
		case l.holds(f.seq):
			return true
		case l.under[f.seq]:
			return false
		case s.follows(f.seq, l):
			batch = s.ready(f, l)
			return true
		}
		s.mayFill(l)
		return false
	})
	return batch, err
}

// follows reports whether the record before one is where it must be: s.mu is held.
func (s *Stream) follows(seq uint64, l *lane) bool {
	before := seq - 1
	if l.holds(before) || before <= s.durable {
		return true
	}
	holders := 0
	for _, other := range s.lanes {
		if other.holds(before) {
			holders++
		}
	}
	return holders > len(s.lanes)-s.reg.K
}

// ready takes the records that can go to an embassy with one whose turn it is: those next to it that are on disk at home,
// and neither there nor on their way. s.mu is held.
func (s *Stream) ready(f *flight, l *lane) []*flight {
	batch := []*flight{f}
	l.under[f.seq] = true
	for _, x := range slices.Concat(s.lingering, s.flights) {
		next := f.seq + uint64(len(batch))
		if x.seq < next {
			continue
		}
		if x.seq > next || len(batch) == recordBatch || !x.isLogged() || l.holds(next) || l.under[next] {
			break
		}
		batch = append(batch, x)
		l.under[next] = true
	}
	return batch
}

// isLogged reports whether the record is on disk at home.
func (f *flight) isLogged() bool {
	select {
	case <-f.logged:
		return f.lost == nil
	default:
		return false
	}
}

func (l *lane) holds(seq uint64) bool { return seq <= l.has || l.beyond[seq] }

// putRecords stores the records of stretches that follow each other. It returns how many an embassy took, and why not the
// first, if that is so.
func (s *Stream) putRecords(ctx context.Context, l *lane, batch []*flight) (int, error) {
	first := batch[0]
	if len(batch) > 1 {
		records := make([][]byte, len(batch))
		for i, x := range batch {
			records[i] = x.record
		}
		n, err := l.Records.PutRecords(ctx, s.slot(first.seq), records)
		if n > 0 || !errors.Is(err, fs.ErrExist) {
			return n, err
		}
	}
	if err := s.putRecord(ctx, l, s.slot(first.seq), first.record); err != nil {
		return 0, err
	}
	return 1, nil
}

// putRecord stores a record. Where its slot is taken by another that an agent signed, the register's stream has two
// histories, and this one ends.
func (s *Stream) putRecord(ctx context.Context, l *lane, slot ledger.Slot, b []byte) error {
	err := l.Records.PutRecord(ctx, slot, b)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("storing %s: %w", register.RecordName(slot), err)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	other, gerr := l.Records.GetRecord(ctx, slot)
	if gerr != nil {
		return errors.Join(err, gerr)
	}
	if slot.Kind == ledger.GatheringRecord {
		_, gerr = s.view.gathering(other, slot.Sequence)
	} else {
		_, gerr = s.view.stretch(other, slot.Sequence)
	}
	if gerr != nil {
		s.view.blame(l.Site, slot, gerr.Error())
		return errors.Join(err, gerr)
	}
	err = s.view.dispute(slot, l.Name, other)
	s.keepForks()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakOff(err)
	return err
}

// keepForks writes the records of a fork beside the stream's own: together they convict whoever signed both.
func (s *Stream) keepForks() {
	s.view.mu.Lock()
	defer s.view.mu.Unlock()
	for name, b := range s.view.other {
		if err := durable.WriteFile(filepath.Join(s.dir, "forked-"+name), b, 0o600); err != nil {
			s.view.faults.Add(register.Fault{Object: name, What: "could not be kept: " + err.Error()})
		}
	}
}
