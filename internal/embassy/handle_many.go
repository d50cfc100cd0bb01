package embassy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"chancery.dev/chancery/internal/ledger"
)

// Caps of a batch of records; docs/spec/embassy-api.md states them. The body is held to maxBatch.
const (
	maxBatchRecords = 256
	recordHead      = 4 + 8 // size, sequence
)

// manyRecord is one record of a batch, and what has been done for it. data is a
// part of the body.
type manyRecord struct {
	slot ledger.Slot
	data []byte

	hash  [32]byte
	index uint64
	done  bool   // it was there, and index is its leaf
	undo  func() // gives back the room that it was promised
	err   error
}

// inMany tells kinds of records that may come several at once: those whose
// taking depends on nothing but their slot.
func inMany(k ledger.RecordKind) bool {
	return k == ledger.StretchRecord || k == ledger.GatheringRecord
}

// appendRecord adds a record to the body of a batch.
func appendRecord(body []byte, sequence uint64, data []byte) []byte {
	body = binary.BigEndian.AppendUint32(body, uint32(len(data)))
	body = binary.BigEndian.AppendUint64(body, sequence)
	return append(body, data...)
}

// parseMany takes the body of a batch apart; it keeps body. Sequences rise.
func parseMany(kind ledger.RecordKind, register [16]byte, body []byte) ([]manyRecord, error) {
	var records []manyRecord
	for last := uint64(0); len(body) > 0; {
		if len(records) == maxBatchRecords {
			return nil, &refusal{
				status: http.StatusRequestEntityTooLarge, Code: codeTooLarge,
				What: "request", Why: "more than " + strconv.Itoa(maxBatchRecords) + " records",
			}
		}
		if len(body) < recordHead {
			return nil, invalid("request", "a record is cut short")
		}
		size, sequence := uint64(binary.BigEndian.Uint32(body)), binary.BigEndian.Uint64(body[4:])
		body = body[recordHead:]
		if size == 0 || size > uint64(len(body)) {
			return nil, invalid("request", "a record is empty or cut short")
		}
		if sequence <= last {
			return nil, invalid("sequence", "they do not rise")
		}
		slot := ledger.Slot{Kind: kind, Register: register, Sequence: sequence}
		records = append(records, manyRecord{slot: slot, data: body[:size:size]})
		body, last = body[size:], sequence
	}
	return records, nil
}

// putRecords is putRecord for several records of one register, in order: none
// is taken before those that come before it, so that whatever a crash, a full
// disk or a taken slot leaves of a batch is its beginning.
func (s *Server) putRecords(q *session) error {
	kind, err := ledger.ParseRecordKind(q.r.PathValue("kind"))
	if err != nil {
		return invalid("kind", "not a kind of record")
	}
	register, err := parseRegister(q.r.PathValue("register"))
	if err != nil {
		return invalid("register", err.Error())
	}
	if !inMany(kind) {
		return invalid("kind", kind.String()+" records are handed in one by one")
	}
	size, err := q.length(maxBatch)
	if err != nil {
		return err
	}
	body := make([]byte, size)
	if err := q.read(body); err != nil {
		return err
	}
	records, err := parseMany(kind, register, body)
	if err != nil {
		return err
	}
	release, err := q.state.lockAll(q.r.Context(), records)
	if err != nil {
		return err
	}
	defer release()
	s.takeRecords(q.r.Context(), q.state, records, [32]byte(q.key))
	reply := batchJSON{Results: make([]resultJSON, 0, len(records))}
	for i := range records {
		reply.Results = append(reply.Results, s.resultOf(q, &records[i]))
		if records[i].err != nil {
			break
		}
	}
	return q.w.json(http.StatusOK, reply)
}

func (s *Server) resultOf(q *session, r *manyRecord) resultJSON {
	if r.err == nil {
		return resultJSON{Leaf: &r.index}
	}
	if errors.Is(r.err, errTaken) {
		return resultJSON{Error: slotTaken()}
	}
	why, cause := reason(q.r.Context(), r.err)
	if cause != nil || why.cause != nil {
		s.log.Error("record of a batch failed", "state", q.state.id.String(), "err", r.err)
	}
	return resultJSON{Error: why}
}

// lockAll waits for the turn of every slot. They rise, so that two batches never
// wait for each other.
func (st *state) lockAll(ctx context.Context, records []manyRecord) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range slices.Backward(held) {
			r()
		}
	}
	for i := range records {
		r, err := st.store.locks.take(ctx, records[i].slot)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}

// takeRecords stores records whose slots are locked, up to the first that cannot
// be, whose err says why. First all files, which share fsyncs; a crash among
// them leaves records without leaves, whose slots are still free. Then all
// leaves in order: a crash there leaves the first so many of them. (A disk that
// fails to take one group of leaves and takes the next leaves a later one in the
// ledger; nobody is told so, and the writer asks again for the one before it.)
func (s *Server) takeRecords(ctx context.Context, st *state, records []manyRecord, actor [32]byte) {
	defer func() {
		for i := range records {
			if records[i].undo != nil {
				records[i].undo() // room is held until the leaves count
			}
		}
	}()
	records = s.mayTake(ctx, st, records)
	var kept sync.WaitGroup
	for i := range records {
		if r := &records[i]; !r.done {
			kept.Go(func() { r.err = st.keepWith(r.slot, r.data, st.store.group.CreateIn) })
		}
	}
	kept.Wait()
	var leaves []*ledger.Leaf
	var of []*manyRecord
	for i := range records {
		r := &records[i]
		if r.err != nil {
			break
		}
		if r.done {
			continue
		}
		l := ledger.NewLeaf(ledger.RecordStored, st.id)
		l.Name, l.Size, l.Actor, l.Slot = r.hash, uint64(len(r.data)), actor, r.slot
		leaves, of = append(leaves, &l), append(of, r)
	}
	indexes, err := st.actAll(leaves)
	for i, r := range of {
		if i < len(indexes) {
			r.index = indexes[i]
		} else {
			r.err = s.roomOr(st, err)
		}
	}
}

// mayTake looks at records one after another and promises each its room. It
// returns those up to the first that may not be taken, which it leaves out but
// for its err.
func (s *Server) mayTake(ctx context.Context, st *state, records []manyRecord) []manyRecord {
	for i := range records {
		r := &records[i]
		if r.err = s.mayTakeOne(ctx, st, r); r.err != nil {
			return records[:i]
		}
	}
	return records
}

func (s *Server) mayTakeOne(ctx context.Context, st *state, r *manyRecord) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.hash = sha256.Sum256(r.data)
	_, leafed, err := st.catalog.recordEver(r.slot)
	if err != nil {
		return err
	}
	if leafed { // nothing new: the one way for all that is there, lost or removed
		r.index, _, err = s.heldRecord(st, r.slot, r.data, r.hash)
		r.done = err == nil
		return err
	}
	if err := st.takesRecords(r.slot, r.data); err != nil {
		return err
	}
	if err := st.catalog.room(); err != nil {
		return err
	}
	r.undo, err = s.reserve(st, int64(len(r.data)), true)
	return err
}
