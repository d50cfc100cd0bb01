package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
)

// followEvery is how often a witness asks whether a state has another charter: each question is small.
const followEvery = 15 * time.Second

// successor reads the charter that an embassy says follows one, and takes it only where the usual quorum signed it: that
// one given by succession waited as it must, and nobody objected, stands in the ledgers, which a witness does not read.
func successor(old *charter.Charter, rec []byte) (*charter.Charter, error) {
	next, sig, err := parseCharterRecord(rec)
	if err != nil {
		return nil, err
	}
	if err := charter.CheckSuccession(old, next, sig); err != nil {
		return nil, err
	}
	if _, err := old.Quorum(charter.ActCharter, charter.Namespace, next.Bytes(), sig, time.Time{}); err != nil {
		return nil, fmt.Errorf("it is given by succession, which a person looks at: start the witness with it: %w", err)
	}
	return next, nil
}

// next asks the embassies for the charter that follows the ward's; nil where none has one.
func (w *ward) next(ctx context.Context) (next *charter.Charter, rec []byte, err error) {
	var why error
	for _, e := range w.charter.Embassies {
		rec, err := w.clients[e.Name].GetRecord(ctx, charterSlot(w.charter.Number+1))
		switch {
		case errors.Is(err, embassy.ErrNotFound), errors.Is(err, embassy.ErrUnreachable):
			continue // a charter that is known elsewhere comes from there
		case err == nil:
			next, err = successor(w.charter, rec)
		}
		if err == nil {
			return next, rec, nil
		}
		// One embassy's word must not keep the others' from being heard.
		why = errors.Join(why, fmt.Errorf("charter %d at %s: %w", w.charter.Number+1, e.Name, err))
	}
	return nil, nil, why
}

// newest is the newest charter of a state that the witness has: the one that it was started with, or the one to which it
// followed that one before.
func (s *vigil) newest(given *charter.Charter) *charter.Charter {
	rec, err := s.folder.Charter(given.State.ID.String())
	if err != nil || rec == nil {
		return given
	}
	kept, sig, err := parseCharterRecord(rec)
	if err == nil {
		err = kept.Verify(sig)
	}
	switch {
	case err != nil || kept.State.ID != given.State.ID:
		s.log.Warn("the charter in the witness's folder is not one: it is passed over", "err", err)
	case kept.Number > given.Number:
		return kept
	}
	return given
}

// follow takes over each charter that follows, until ctx ends.
func (s *vigil) follow(ctx context.Context, wait *sync.WaitGroup) {
	told := map[charter.StateID]string{}
	for {
		for i := range s.states {
			for s.step(ctx, i, told, wait) {
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(followEvery):
		}
	}
}

// step takes over the next charter of one state, if there is one. What is not taken is told once.
func (s *vigil) step(ctx context.Context, i int, told map[charter.StateID]string, wait *sync.WaitGroup) bool {
	w := s.states[i]
	id := w.charter.State.ID
	next, rec, err := w.next(ctx)
	if err == nil && next != nil {
		err = s.adopt(ctx, i, next, rec, wait)
	}
	if err != nil && ctx.Err() == nil && w.self != "" && told[id] != err.Error() { // who is not named there is not answered
		told[id] = err.Error()
		s.log.Warn("a newer charter is not taken", "state", id.String(), "err", err)
	}
	return err == nil && next != nil
}

// adopt puts a charter in the place of the one before it: its ledgers are cosigned, others of the state are not any more.
func (s *vigil) adopt(ctx context.Context, i int, next *charter.Charter, rec []byte, wait *sync.WaitGroup) error {
	w, err := newWard(next, s.folder.Key)
	if err != nil {
		return err
	}
	// A crash before this leaves the charter before, from which this one is followed again.
	if err := s.folder.KeepCharter(next.State.ID.String(), rec); err != nil {
		return err
	}
	old := s.states[i]
	s.states[i] = w
	if err := s.witness.SetLogs(s.logs()); err != nil {
		s.log.Error("a log is not cosigned: its file in the folder is unreadable", "err", err)
	}
	old.end()
	s.log.Info("a newer charter is in force", "state", next.State.ID.String(), "charter", next.Number, "self", w.self)
	s.rouseWard(ctx, w, wait)
	return nil
}

// logs are all logs that are cosigned.
func (s *vigil) logs() []ledger.Log {
	logs := append([]ledger.Log(nil), s.foreign...)
	for _, w := range s.states {
		logs = append(logs, w.charter.Logs()...)
	}
	return logs
}

// end ends the questions that are asked under a ward's charter.
func (w *ward) end() {
	if w.cancel != nil {
		w.cancel()
	}
	for _, c := range w.clients {
		c.Close()
	}
}
