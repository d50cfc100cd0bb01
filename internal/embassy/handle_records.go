package embassy

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

func (q *session) slot() (ledger.Slot, error) {
	seq, err := strconv.ParseUint(q.r.PathValue("sequence"), 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != q.r.PathValue("sequence") {
		return ledger.Slot{}, invalid("sequence", "not a decimal number")
	}
	slot, err := slotJSON{q.r.PathValue("kind"), q.r.PathValue("register"), seq}.slot()
	if err != nil {
		return ledger.Slot{}, invalid("slot", err.Error())
	}
	return slot, nil
}

// recordPath is records/KIND/REGISTER/SEQUENCE with 20 digits, so that a folder
// lists in order.
func (st *state) recordPath(s ledger.Slot) string {
	return filepath.Join(st.dir, "records", s.Kind.String(), hex.EncodeToString(s.Register[:]), fmt.Sprintf("%020d", s.Sequence))
}

// putRecord takes a slot once. The slot is taken when its leaf is durable; a
// file without a leaf was acknowledged to nobody and may be replaced.
func (s *Server) putRecord(q *session) error {
	slot, err := q.slot()
	if err != nil {
		return err
	}
	data, err := q.body(maxRecord)
	if err != nil {
		return err
	}
	if !slot.Kind.ByAgents() {
		return refused(slot.Kind.String() + " records are not handed in as records")
	}
	index, fresh, err := s.takeRecord(q.r.Context(), q.state, slot, data, q.key, true)
	if errors.Is(err, errTaken) {
		return slotTaken()
	}
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if !fresh {
		status = http.StatusOK
	}
	return q.w.json(status, leafJSON{index})
}

// errTaken: the slot holds other bytes.
var errTaken = errors.New("embassy: the slot holds other bytes")

func slotTaken() *refusal {
	return &refusal{status: http.StatusConflict, Code: codeConflict, What: "record", Why: "the slot holds other bytes"}
}

// takeRecord stores a record in its slot and returns its leaf's index; fresh is
// false when the same bytes were there, whole. It fails with errTaken. counted
// records are held to the state's quota.
func (s *Server) takeRecord(ctx context.Context, st *state, slot ledger.Slot, data []byte, actor ed25519.PublicKey, counted bool) (index uint64, fresh bool, err error) {
	if slot.Kind == ledger.Register { // none comes while the register is erased
		release, err := st.store.locks.take(ctx, slot.Register)
		if err != nil {
			return 0, false, err
		}
		defer release()
	}
	release, err := st.store.locks.take(ctx, slot)
	if err != nil {
		return 0, false, err
	}
	defer release()
	hash := sha256.Sum256(data)
	_, leafed, err := st.catalog.recordEver(slot)
	if err != nil {
		return 0, false, err
	}
	if leafed {
		return s.heldRecord(st, slot, data, hash)
	}
	if err := st.takesRecords(slot, data); err != nil {
		return 0, false, err
	}
	if slot.Kind == ledger.Register {
		if err := st.mayRegister(ctx, slot, data); err != nil {
			return 0, false, err
		}
	}
	if err := st.catalog.room(); err != nil {
		return 0, false, err
	}
	unclaim, err := s.reserve(st, int64(len(data)), counted) // held until its leaf counts
	if err != nil {
		return 0, false, err
	}
	defer unclaim()
	if err := s.keepRecord(st, slot, data); err != nil {
		return 0, false, err
	}
	l := ledger.NewLeaf(ledger.RecordStored, st.id)
	l.Name, l.Size, l.Actor, l.Slot = hash, uint64(len(data)), [32]byte(actor), slot
	if index, err = st.act(&l); err != nil {
		return 0, false, s.roomOr(st, err)
	}
	return index, true, nil
}

// heldRecord is takeRecord for a slot that has a leaf. Lost or damaged on disk,
// the record is written again under its first leaf.
func (s *Server) heldRecord(st *state, slot ledger.Slot, data []byte, hash [32]byte) (index uint64, fresh bool, err error) {
	at, _, err := st.catalog.recordEver(slot)
	switch {
	case err != nil:
		return 0, false, err
	case at.hash != hash:
		return 0, false, errTaken
	case at.removed:
		return 0, false, notHeld("record", true, 0)
	}
	old, err := readFile(st.recordPath(slot), maxRecord)
	if err == nil && sha256.Sum256(old) == hash {
		return at.index, false, nil
	}
	unclaim, err := s.reserve(st, int64(len(data)), false)
	if err != nil {
		return 0, false, err
	}
	defer unclaim()
	return at.index, true, s.keepRecord(st, slot, data)
}

func (s *Server) keepRecord(st *state, slot ledger.Slot, data []byte) error {
	return st.keepWith(slot, data, durable.CreateIn)
}

// keepWith writes a record's file, by itself or in a group.
func (st *state) keepWith(slot ledger.Slot, data []byte, create func(folder, path string, perm fs.FileMode) (*durable.File, error)) error {
	path := st.recordPath(slot)
	if err := durable.MkdirAll(filepath.Dir(path), folderPerm); err != nil {
		return err
	}
	f, err := create(st.store.tmp(), path, filePerm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Abort())
	}
	// A crash after this leaves a record without a leaf: the slot is still free.
	return f.Commit()
}

func (s *Server) getRecord(q *session) error {
	slot, err := q.slot()
	if err != nil {
		return err
	}
	at, ok, err := q.state.catalog.recordEver(slot)
	if err != nil {
		return err
	}
	if !ok || at.removed {
		return notHeld("record", ok, 0)
	}
	data, err := readFile(q.state.recordPath(slot), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("record")
	}
	if err != nil {
		return err
	}
	if sha256.Sum256(data) != at.hash {
		return &refusal{status: http.StatusInternalServerError, Code: codeDamaged, What: "record", Why: "damaged on the embassy's disk"}
	}
	return q.w.raw(http.StatusOK, "application/octet-stream", data)
}

// listRecords lists slots of one register, or, without one, the registers.
func (s *Server) listRecords(q *session) error {
	kind, err := ledger.ParseRecordKind(q.r.PathValue("kind"))
	if err != nil {
		return invalid("kind", "not a kind of record")
	}
	query := q.r.URL.Query()
	if err := q.state.catchUp(q.r.Context()); err != nil {
		return err
	}
	if query.Get("register") == "" {
		return s.listRegisters(q, kind)
	}
	register, err := parseRegister(query.Get("register"))
	if err != nil {
		return invalid("register", err.Error())
	}
	limit, err := q.limit(maxSlotPage)
	if err != nil {
		return err
	}
	var after uint64
	if text := query.Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return invalid("after", "not a decimal number")
		}
	}
	infos, err := q.state.catalog.listRecords(kind, register, after, limit)
	if err != nil {
		return err
	}
	reply := recordsJSON{Records: make([]recordJSON, len(infos))}
	for i, r := range infos {
		reply.Records[i] = recordJSON{Sequence: r.Slot.Sequence, Hash: hex.EncodeToString(r.Hash[:]), Size: r.Size}
	}
	return q.w.json(http.StatusOK, reply)
}

func (s *Server) listRegisters(q *session, kind ledger.RecordKind) error {
	limit, err := q.limit(maxList)
	if err != nil {
		return err
	}
	var after *[16]byte
	if text := q.r.URL.Query().Get("after"); text != "" {
		id, err := parseRegister(text)
		if err != nil {
			return invalid("after", err.Error())
		}
		after = &id
	}
	ids, err := q.state.catalog.listRegisters(kind, after, limit)
	if err != nil {
		return err
	}
	reply := registersJSON{Registers: make([]string, len(ids))}
	for i := range ids {
		reply.Registers[i] = hex.EncodeToString(ids[i][:])
	}
	return q.w.json(http.StatusOK, reply)
}

// publishTime is how long a receipt waits for a checkpoint.
const publishTime = 10 * time.Second

// receipts waits for a checkpoint that covers all that is asked for, and proves
// each thing in it.
func (s *Server) receipts(q *session) error {
	var body receiptsJSON
	if err := q.question(&body, maxJSON); err != nil {
		return err
	}
	if len(body.Objects)+len(body.Records) > maxReceipts {
		return &refusal{status: http.StatusRequestEntityTooLarge, Code: codeTooLarge, What: "request", Why: "more than " + strconv.Itoa(maxReceipts) + " things"}
	}
	wanted, err := q.indexes(&body)
	if err != nil {
		return err
	}
	need := uint64(1)
	for _, index := range wanted {
		need = max(need, index+1)
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), publishTime)
	defer cancel()
	var cp ledger.Checkpoint
	if body.Cosigned {
		err = q.aside(func() (err error) {
			cp, err = q.state.notary.covering(ctx, need)
			return err
		})
	} else {
		cp, err = q.state.journal.covering(ctx, need)
	}
	if err != nil {
		return err
	}
	batch, err := q.state.journal.prove(ctx, cp, wanted)
	if err != nil {
		return err
	}
	data, err := batch.Bytes()
	if err != nil {
		return err
	}
	return q.w.raw(http.StatusOK, "application/cbor", data)
}

// indexes looks up the leaves of objects, then of records.
func (q *session) indexes(body *receiptsJSON) ([]uint64, error) {
	names, err := parseNames(body.Objects)
	if err != nil {
		return nil, invalid("name", "not 64 lowercase hex digits")
	}
	wanted := make([]uint64, 0, len(names)+len(body.Records))
	for _, n := range names {
		at, ok, err := q.state.catalog.objectEver(n)
		if err != nil {
			return nil, err
		}
		if !ok || at.removed {
			return nil, notHeld("object "+n.String(), ok, at.by)
		}
		wanted = append(wanted, at.index)
	}
	for _, r := range body.Records {
		slot, err := r.slot()
		if err != nil {
			return nil, invalid("slot", err.Error())
		}
		at, ok, err := q.state.catalog.recordEver(slot)
		if err != nil {
			return nil, err
		}
		if !ok || at.removed {
			return nil, notHeld("record "+r.Kind+" "+strconv.FormatUint(r.Sequence, 10), ok, 0)
		}
		wanted = append(wanted, at.index)
	}
	return wanted, nil
}

// prove builds receipts in the order of indexes. It goes through them in the
// ledger's order, so that one bundle of entries at a time is in memory.
func (j *journal) prove(ctx context.Context, cp ledger.Checkpoint, indexes []uint64) (*ledger.ReceiptBatch, error) {
	prover, err := ledger.NewProver(cp.Size, j.tile(ctx))
	if err != nil {
		return nil, err
	}
	order := make([]int, len(indexes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(indexes[a], indexes[b]) })
	batch := &ledger.ReceiptBatch{Checkpoint: cp.Raw, Items: make([]ledger.BatchItem, len(indexes))}
	var entries [][]byte
	have := ^uint64(0)
	for _, at := range order {
		index := indexes[at]
		if n := index / layout.EntryBundleWidth; n != have {
			if entries, err = j.bundle(ctx, n, cp.Size); err != nil {
				return nil, err
			}
			have = n
		}
		proof, err := prover.Inclusion(index)
		if err != nil {
			return nil, err
		}
		batch.Items[at] = ledger.BatchItem{Index: index, Leaf: entries[index%layout.EntryBundleWidth], Proof: proof}
	}
	return batch, nil
}

func (s *Server) checkpoint(q *session) error {
	cp, err := q.state.journal.checkpoint(q.r.Context())
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("checkpoint")
	}
	if err != nil {
		return err
	}
	return q.w.raw(http.StatusOK, "text/plain; charset=utf-8", cp.Raw)
}

// tilePattern is the layout of C2SP tlog-tiles below tile/.
var tilePattern = regexp.MustCompile(`^(entries|[0-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/){0,6}[0-9]{3}(\.p/[1-9][0-9]{0,2})?$`)

func (s *Server) tile(q *session) error {
	path := q.r.PathValue("path")
	if !tilePattern.MatchString(path) {
		return notFound("tile")
	}
	data, err := q.state.journal.readRaw("tile/" + path)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("tile")
	}
	if err != nil {
		return err
	}
	return q.w.raw(http.StatusOK, "application/octet-stream", data)
}

func (s *Server) getCharter(q *session) error {
	now := q.state.inForce()
	return q.w.json(http.StatusOK, charterJSON{Document: now.charter.Bytes(), Signature: now.sig})
}

func (s *Server) putCharter(q *session) error {
	var body charterJSON
	if err := q.question(&body, 3*maxCharter); err != nil {
		return err
	}
	number, err := q.state.takeCharter(body.Document, body.Signature, q.key)
	if err != nil {
		return err
	}
	return q.w.json(http.StatusOK, takenJSON{number})
}
