// Package stream keeps the log of a register in several embassies: numbered stretches, each durable once any k of the
// embassies hold it and all before, and gatherings of many in one pack. It appends, lists and reads them, says how far the
// stream reaches and whether that is proven, inspects it, and tells what of it nothing needs.
//
// What it writes it can always read again: stretches and gatherings carry their version (package snapshot). What a stretch
// holds and where its position lies in its source it does not understand. Its folder at home is lost without harm but for
// one thing: a machine that does not remember the end of a stream needs every embassy once to go on.
package stream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

var (
	// ErrSize means that a stretch or its position is empty or larger than one can be.
	ErrSize = errors.New("a stretch of impossible size")
	// ErrClosed means that the stream was closed before the stretch was durable.
	ErrClosed = errors.New("the stream was closed")
	// ErrNoMemory comes with register.ErrTooFew where the embassies show records that this machine did not write or lost.
	ErrNoMemory = errors.New("this machine does not remember the end of the stream")
	// ErrHolders means that a stretch cannot be with as many embassies as was asked for, or could not be read from them.
	ErrHolders = errors.New("an impossible number of embassies that hold a stretch")
)

const (
	// streamWindow is how many stretches are on their way at once; Append waits while there are so many.
	streamWindow = 16
	// streamMemory bounds the shares on their way, those to slow embassies included. One stretch may always be.
	streamMemory = 64 << 20
	// maxSpare is how many bytes of memory for shares of one class are kept for the next packs; one piece may always be.
	maxSpare = 16 << 20
	// sessionPacks is how many packs share one session: a thief of the sender's memory opens no others.
	sessionPacks = 256
)

// MaxData is the most bytes of one stretch: what fits the largest pack however little it can be compressed.
func MaxData() int { return pack.Largest(pack.Data) - 64 }

// Stream writes a register's stream to its embassies, stretch by stretch. It is safe for concurrent use, though whoever
// appends from several sides does not know in which order.
//
//	Append ── compress; seal, split, mask ──> every embassy: its share        ┐ acknowledged by enough, and so all before:
//	       ── sign, write to disk at home ──> every embassy: the record after ┘ done(nil), and into the next gathering
//
// An embassy that fails is tried again, less and less often, with what is appended then. When it is back it gets the records
// that it missed, and the shares: in a gathering, where the stretches are in none yet, or by Options.Mend. While too few answer,
// everything waits and nothing is lost.
type Stream struct {
	reg     *register.Register
	agent   *register.Agent
	holders int // of a stretch, before it is durable
	mender  Mender
	dir     string
	coder   *shard.Coder
	unlock  func()
	view    *view
	doubt   error
	ctx     context.Context // of everything on its way
	stop    context.CancelCauseFunc
	working sync.WaitGroup

	sealing sync.Mutex // guards what follows
	session *pack.Session
	sealed  int // packs of the session
	spare   map[pack.Class][][]byte

	turn   sync.Mutex    // one Append at a time; guards what follows
	desks  chan *desk    // that are free
	before chan struct{} // closed when the stretch that was appended last has departed, or never will

	// of whose turn it is to depart
	hash    [32]byte // of the newest record
	replace uint64   // the next one says that it replaces from here on

	logging chan struct{} // holds a token while there is something to log

	disk  sync.Mutex // guards the log and the state
	log   *recordLog
	state *stateFile

	mu        sync.Mutex // guards what follows
	changed   *sync.Cond // of mu
	lanes     []*lane
	last      uint64    // the newest record
	unlogged  []*flight // of which the record is not on disk at home yet
	durable   uint64    // the newest stretch that is durable, with all before it
	kept      uint64    // the newest of which this machine has noted so
	position  []byte    // of it
	laying    []*flight // appended, and not departed yet
	flights   []*flight
	lingering []*flight // durable, and still on their way to slow embassies
	memory    int       // of both
	settled   []*flight // durable, and nobody was told yet
	broken    error     // nothing can be appended any more
	closed    bool

	gather gatherer
}

// flight is a stretch on its way.
type flight struct {
	seq      uint64
	hash     [32]byte
	replaces uint64
	position []byte
	record   []byte
	ref      snapshot.PackRef
	parts    [][]byte
	buf      []byte        // in which they are
	size     int           // bytes of all shares
	logged   chan struct{} // closed when the record is on disk at home, or never will be
	lost     error         // why it never will; written before logged is closed
	stored   []byte        // for the gathering; nil where it needs none
	entry    pack.Entry
	done     func(error)

	ctx  context.Context
	stop context.CancelFunc
	over chan struct{} // closed when it is durable

	// guarded by Stream.mu
	begun   time.Time
	acks    int
	busy    int // embassies that it is still on its way to
	durable bool
}

// Last returns the position and number of the newest stretch that is durable, with all before it; number 0 where
// there is none. Whoever opens a stream goes on behind it: what was appended later and did not become durable is
// replaced by the next stretch.
func (s *Stream) Last() (position []byte, sequence uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position, s.kept, s.broken
}

// Doubt tells why there may be a later durable stretch than Last said when the stream was opened: an embassy that
// could tell did not answer, and this machine does not remember. Nothing is wrong with going on behind Last, where the
// source still has what comes after it. Nil when there is no doubt.
func (s *Stream) Doubt() error { return s.doubt }

// Append hands over the next stretch, 1 to MaxData bytes, and its position, at most snapshot.MaxPosition bytes that
// this package does not understand. It keeps neither slice. done is called once, later, from one goroutine, in the order of
// Append: with nil when Options.Holders embassies have acknowledged share and record of this stretch and of all before, else with the
// reason why that will not happen any more. Append blocks while too much is on its way. When it returns an error, the
// stretch was not taken and done is not called.
func (s *Stream) Append(ctx context.Context, position, data []byte, done func(error)) error {
	if len(data) == 0 || len(data) > MaxData() || len(position) > snapshot.MaxPosition {
		return fmt.Errorf("%w: %d bytes, %d of position", ErrSize, len(data), len(position))
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	d, err := s.sit(ctx)
	if err != nil {
		return err
	}
	f := &flight{
		position: bytes.Clone(position), done: done, logged: make(chan struct{}), over: make(chan struct{}),
	}
	if err := s.accept(f); err != nil {
		s.leave(d)
		return err
	}
	d.data = append(d.data[:0], data...)
	before, departed := s.before, make(chan struct{})
	s.before = departed
	s.working.Go(func() {
		payload := s.lay(d, f)
		<-before
		s.send(f, payload)
		close(departed)
		s.leave(d)
	})
	return nil
}

// accept takes a stretch: from here on it is told what becomes of it.
func (s *Stream) accept(f *flight) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken != nil:
		return s.broken
	case s.closed:
		return ErrClosed
	}
	s.laying = append(s.laying, f)
	return nil
}

// send sends a stretch off when there is room, and those before it are off. What keeps it from that ends the stream.
func (s *Stream) send(f *flight, payload []byte) {
	if s.room(f.size) != nil {
		return // the stream has ended: all that was accepted is told so
	}
	if err := s.depart(f, payload); err != nil {
		s.arrive(f)
		s.mu.Lock()
		s.breakOff(err)
		s.mu.Unlock()
	}
}

// room waits until there is room for one more, and takes it. Where durable stretches that slow embassies lack take it,
// these embassies go without. It fails when the stream has ended.
func (s *Stream) room(size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.await(s.ctx, func() bool {
		if s.broken != nil || s.memory == 0 || len(s.flights) < streamWindow && s.memory+size <= streamMemory {
			return true
		}
		if len(s.lingering) > 0 && s.memory+size > streamMemory {
			s.lingering[0].stop()
		}
		return false
	})
	if err = cmp.Or(s.broken, err); err == nil {
		s.memory += size
	}
	return err
}

// depart seals a stretch, signs its record, and sends both off: the record to the local disk first, and the shares
// meanwhile to the embassies: they tell nobody what they are of.
func (s *Stream) depart(f *flight, payload []byte) error {
	var err error
	if f.parts, f.buf, err = s.seal(&f.ref, payload); err != nil {
		return err
	}
	s.mu.Lock()
	f.seq = s.last + 1
	kept := s.kept
	s.mu.Unlock()
	if err := s.sign(f, kept); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	f.ctx, f.stop = context.WithCancel(s.ctx)
	s.laying = s.laying[1:] // it is the first: they depart in order
	s.flights, s.unlogged = append(s.flights, f), append(s.unlogged, f)
	f.busy, f.begun = len(s.lanes), time.Now()
	for _, l := range s.lanes {
		s.working.Go(func() { s.carry(f, l) })
	}
	s.last, s.hash, s.replace = f.seq, f.hash, 0
	select {
	case s.logging <- struct{}{}:
	default: // it is told already
	}
	return nil
}

// seal seals, splits and masks a pack of data, and completes its reference. The shares are in borrowed memory.
func (s *Stream) seal(ref *snapshot.PackRef, payload []byte) (parts [][]byte, buf []byte, err error) {
	session, err := s.nextSession()
	if err != nil {
		return nil, nil, err
	}
	if _, err := rand.Read(ref.ID[:]); err != nil {
		return nil, nil, err
	}
	buf = s.borrow(ref.Class)
	sealed, err := session.Seal(buf, rand.Reader, s.reg.MetaOf(ref), payload)
	if err != nil {
		return nil, nil, err
	}
	parts = [][]byte{sealed}
	if len(s.lanes) > 1 {
		if parts, err = s.coder.Split(sealed, sealed); err != nil {
			return nil, nil, err
		}
	}
	ref.Shares = make([]shard.Name, len(parts))
	var all sync.WaitGroup
	for i := range parts {
		all.Go(func() { ref.Shares[i] = shard.MaskAndHash(s.lanes[i].Mask, ref.ID, i, parts[i]) })
	}
	all.Wait()
	return parts, buf, nil
}

// borrow returns memory for all shares of a pack.
func (s *Stream) borrow(class pack.Class) []byte {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if n := len(s.spare[class]); n > 0 {
		buf := s.spare[class][n-1]
		s.spare[class] = s.spare[class][:n-1]
		return buf
	}
	return make([]byte, 0, len(s.lanes)*shard.Size(class.Size(), s.reg.K))
}

// giveBack takes memory that was borrowed and that nobody reads any more.
func (s *Stream) giveBack(class pack.Class, buf []byte) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if n := len(s.spare[class]); n == 0 || (n+1)*cap(buf) <= maxSpare {
		s.spare[class] = append(s.spare[class], buf[:0])
	}
}

func (s *Stream) nextSession() (*pack.Session, error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	if s.session == nil || s.sealed >= sessionPacks {
		session, err := pack.NewSession(rand.Reader, s.reg.Public, s.reg.State, s.reg.ID, s.reg.Epoch)
		if err != nil {
			return nil, err
		}
		s.session, s.sealed = session, 0
	}
	s.sealed++
	return s.session, nil
}

// sign makes the record of a stretch.
func (s *Stream) sign(f *flight, kept uint64) error {
	note, err := pack.SealNote(rand.Reader, &s.reg.IndexKey, noteMeta(pack.Stretch, f.seq, &f.ref, s.reg.State, s.reg.ID), f.position)
	if err != nil {
		return err
	}
	r := &snapshot.Stretch{
		Version: snapshot.StretchVersion, State: s.reg.State, Register: s.reg.ID, Sequence: f.seq, Previous: s.hash,
		Position: note, Pack: f.ref, Members: s.members(), K: f.ref.K, Replaces: s.replace, Kept: kept,
		CharterVersion: s.agent.CharterNumber, CharterHash: s.agent.CharterHash, Time: time.Now().UnixNano(),
	}
	r.Sign(s.agent.Key)
	f.replaces, f.record = s.replace, r.Bytes()
	f.hash = sha256.Sum256(f.record)
	return r.Check()
}

func (s *Stream) members() (ids [][16]byte) {
	for _, m := range s.reg.Members {
		ids = append(ids, m.ID)
	}
	return ids
}

func (s *Stream) slot(seq uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.StretchRecord, Register: [16]byte(s.reg.ID), Sequence: seq}
}

// arrive gives back the room of a stretch. Its memory is nobody's any more.
func (s *Stream) arrive(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory -= f.size
	s.changed.Broadcast()
}

// breakOff ends the stream for good: s.mu is held. What is on its way fails.
func (s *Stream) breakOff(err error) {
	if s.broken == nil {
		s.broken = err
		s.stop(err)
	}
	s.changed.Broadcast()
}

// slowTime is how long a stretch may be on its way before that is said.
const slowTime = 10 * time.Second

// Healthy returns nil while enough embassies answer and stretches become durable in time. Otherwise it is ErrTooFew with
// what each of the others said last, or what ended the stream for good. Whoever protects a register with the stream
// raises an alarm when it is not nil for long.
func (s *Stream) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	down := 0
	err := error(nil)
	for _, l := range s.lanes {
		if l.why != nil {
			down++
			err = errors.Join(err, fmt.Errorf("%s: %w", l.Name, l.why))
		}
	}
	if len(s.lanes)-down < s.holders {
		return fmt.Errorf("%w: %d of %d answer, %d are to hold the log: %w", register.ErrTooFew, len(s.lanes)-down, len(s.lanes), s.holders, err)
	}
	if len(s.flights) > 0 && time.Since(s.flights[0].begun) > slowTime {
		return fmt.Errorf("%w: stretch %d is on its way for %s, and fewer than %d have acknowledged it", register.ErrTooFew,
			s.flights[0].seq, time.Since(s.flights[0].begun).Round(time.Second), s.holders)
	}
	return nil
}

// Down returns the embassies that failed when they were last tried.
func (s *Stream) Down() []register.Down {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []register.Down
	for _, l := range s.lanes {
		if l.why != nil {
			out = append(out, register.Down{Embassy: l.Name, Why: l.why.Error()})
		}
	}
	return out
}

// Faults returns what embassies gave wrong so far; a fork is among them.
func (s *Stream) Faults() []register.Fault { return s.view.faults.All() }

// await waits until ready says so; s.mu is held, also while ready is asked.
func (s *Stream) await(ctx context.Context, ready func() bool) error {
	wake := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer wake()
	for !ready() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.changed.Wait()
	}
	return nil
}

// Flush waits until everything that was appended is durable and told.
func (s *Stream) Flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.await(ctx, func() bool { return s.broken != nil || len(s.laying)+len(s.flights)+len(s.settled) == 0 })
	return cmp.Or(s.broken, err)
}

// closeTime is how long a stream that is closed waits for embassies that are slower than k others.
const closeTime = 5 * time.Second

// Close takes no more, waits until what was appended is durable or ctx ends, gathers what has come together where it
// is worth it, signs for what embassies were given, and frees everything. Stretches that did not become durable are told.
func (s *Stream) Close(ctx context.Context) error {
	s.turn.Lock()
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	s.turn.Unlock()
	if closed {
		return nil
	}
	err := s.Flush(ctx)
	if err == nil {
		slow, stop := context.WithTimeout(ctx, closeTime)
		s.mu.Lock()
		_ = s.await(slow, func() bool { return s.broken != nil || len(s.lingering) == 0 }) // the rest is for Repair
		s.mu.Unlock()
		stop()
		err = s.closing(ctx)
	}
	s.mu.Lock()
	s.breakOff(ErrClosed)
	s.mu.Unlock()
	s.working.Wait()
	s.disk.Lock()
	defer s.disk.Unlock()
	err = errors.Join(err, s.log.close(), s.state.f.Close())
	s.unlock()
	return err
}
