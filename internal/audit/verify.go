package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// What is wrong with the answer for one entry. Numbers are never reused.
type What uint8

// The findings.
const (
	WrongBytes What = 1 // the bytes are not the object's
	WrongEntry What = 2 // the entry is not in the embassy's own ledger
	Gone       What = 3 // the embassy says that it has no such object
	Unreadable What = 4 // the embassy says that its disk does not give it back
)

// String is the finding in words.
func (w What) String() string {
	switch w {
	case WrongBytes:
		return "wrong bytes"
	case WrongEntry:
		return "an entry that its ledger does not hold"
	case Gone:
		return "missing"
	case Unreadable:
		return "unreadable"
	}
	return "unknown"
}

// Finding is one answer that shows a loss:
//
//	CBOR array(5) [ entry's index, object bytes(32), leaf, what, hash bytes(32) ]
type Finding struct {
	_     struct{} `cbor:",toarray"`
	Index uint64   // of the entry
	Name  [32]byte // of the object; zero for WrongEntry
	Leaf  uint32   // which leaf of the object
	What  What
	Hash  [32]byte // SHA-256 of the bytes that came instead; zero where none came
}

// Exhibit is one frame of an answer and its place in what the embassy signed: by
// it anyone sees the first finding without the rest of the answer.
//
//	CBOR array(3) [ place, frame bytes, path bytes(32 n) ]
type Exhibit struct {
	_     struct{} `cbor:",toarray"`
	Place uint64
	Frame []byte
	Path  []byte // RFC 6962, to the Transcript, the lowest hash first
}

// Result is what an answer showed.
type Result struct {
	Checked    uint64    // entries that were answered
	Objects    uint64    // of them objects that should be there
	Removed    uint64    // of them objects that the ledger says were removed
	Wrong      []Finding // WrongBytes and WrongEntry, in the order of the answer
	Missing    []Finding // Gone and Unreadable
	Transcript [32]byte  // RFC 6962 root over the frames
	Signature  [64]byte  // the embassy's; zero unless the answer was whole
	First      *Exhibit  // of the first finding; nil when there is none or no signature

	whole bool // nothing is missing and the signature holds
}

// verifier reads one answer.
type verifier struct {
	r      io.Reader
	ch     *Challenge
	cp     ledger.Checkpoint
	key    ed25519.PublicKey
	todo   *draws
	frames [][32]byte // hashes of the frames
	out    Result
	buf    []byte
}

// Verify reads an answer to the challenge and checks it as it comes, with at
// most one frame in memory. log is the embassy's ledger as the auditor knows it.
//
// The result holds what was found, also together with an error. Errors: ErrCut
// with the reader's own, ErrAnswer, ErrUnsigned; or, with no result and before
// anything is read, what Challenge.Opened fails with. Deadlines are the reader's.
func Verify(r io.Reader, ch *Challenge, log ledger.Log) (*Result, error) {
	cp, err := ch.Opened(log.Key)
	if err != nil {
		return nil, err
	}
	if cp.Origin != log.Origin {
		return nil, fmt.Errorf("audit: challenge: of the ledger %s: %w", cp.Origin, ErrChallenge)
	}
	v := &verifier{r: r, ch: ch, cp: cp, key: log.Key}
	if v.todo, err = newDraws(ch, cp.Size); err != nil {
		return nil, err
	}
	for x, more := v.todo.next(); more; x, more = v.todo.next() {
		if err := v.frame(x); err != nil {
			return &v.out, err
		}
	}
	return &v.out, v.end(log.Key)
}

func (v *verifier) read(b []byte) error {
	if _, err := io.ReadFull(v.r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("audit: frame %d: %w: %w", len(v.frames), ErrCut, err)
	}
	return nil
}

func (v *verifier) frame(x drawn) error {
	var head [4]byte
	if err := v.read(head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return fmt.Errorf("audit: frame %d of %d bytes: %w", len(v.frames), n, ErrAnswer)
	}
	if cap(v.buf) < int(n) {
		v.buf = make([]byte, n)
	}
	body := v.buf[:n]
	if err := v.read(body); err != nil {
		return err
	}
	var f frame
	if err := decode(body, maxFrame, &f); err != nil {
		return fmt.Errorf("audit: frame %d: %w: %w", len(v.frames), ErrAnswer, err)
	}
	if f.Draw != x.n || f.Index != x.index {
		return fmt.Errorf("audit: frame %d: entry %d was not asked for: %w", len(v.frames), f.Index, ErrAnswer)
	}
	found, object, err := f.check(x, &v.cp, v.key)
	if err != nil {
		return fmt.Errorf("audit: frame %d: %w", len(v.frames), err)
	}
	gone := object && f.Status == removed
	v.todo.was(x, object && !gone)
	v.out.Checked++
	switch {
	case gone && found == nil:
		v.out.Removed++
	case object:
		v.out.Objects++
	}
	if found != nil {
		if err := v.found(*found, body); err != nil {
			return err
		}
	}
	v.frames = append(v.frames, ledger.LeafHash(body))
	return nil
}

func (v *verifier) found(f Finding, body []byte) error {
	if len(v.out.Wrong)+len(v.out.Missing) == 0 {
		v.out.First = &Exhibit{Place: uint64(len(v.frames)), Frame: append([]byte(nil), body...)}
	}
	if f.What == Gone || f.What == Unreadable {
		v.out.Missing = append(v.out.Missing, f)
		return nil
	}
	if len(v.out.Wrong) == MaxEntries {
		return fmt.Errorf("audit: more than %d wrong entries: %w", MaxEntries, ErrAnswer)
	}
	v.out.Wrong = append(v.out.Wrong, f)
	return nil
}

// check holds a frame against its draw. object says what the frame claims, since
// that is what the draws went on from at the embassy.
func (f *frame) check(x drawn, cp *ledger.Checkpoint, key ed25519.PublicKey) (found *Finding, object bool, err error) {
	leaf, object := objectLeaf(f.Leaf)
	switch {
	case len(f.Leaf) > ledger.MaxLeaf, f.Status > removed, object != (f.Status != notObject),
		f.Status != present && len(f.Path) > 0, f.Status != present && f.Status != removed && len(f.Data) > 0:
		return nil, object, fmt.Errorf("status %d does not fit: %w", f.Status, ErrAnswer)
	case !leads(f.Proof, cp.Size, cp.Root, x.index, ledger.LeafHash(f.Leaf)):
		return &Finding{Index: x.index, What: WrongEntry, Hash: sha256.Sum256(f.Leaf)}, object, nil
	case !object:
		return nil, false, nil
	}
	bad := &Finding{Index: x.index, Name: leaf.Name, Leaf: uint32(leafOf(&leaf, x))}
	switch f.Status {
	case missing:
		bad.What = Gone
	case unreadable:
		bad.What = Unreadable
	case removed:
		if removes(f.Data, &leaf, x.index, cp, key) {
			return nil, true, nil
		}
		bad.What = Gone // it says so itself, and that nobody told it to is what is missing
	default:
		if f.holds(&leaf, uint64(bad.Leaf)) {
			return nil, true, nil
		}
		bad.What, bad.Hash = WrongBytes, sha256.Sum256(f.Data)
	}
	return bad, true, nil
}

// holds tells whether the data is that leaf of the object.
func (f *frame) holds(leaf *ledger.Leaf, n uint64) bool {
	if uint64(len(f.Data)) != min(shard.LeafSize, leaf.Size-n*shard.LeafSize) {
		return false
	}
	hash := shard.LeafHashes(nil, f.Data)
	return leads(f.Path, leafCount(leaf), leaf.Name, n, hash[0])
}

// end reads the signature, after which nothing may come.
func (v *verifier) end(key ed25519.PublicKey) error {
	var end [4 + ed25519.SignatureSize]byte
	if err := v.read(end[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(end[:]) != 0 {
		return fmt.Errorf("audit: a frame more than was asked for: %w", ErrAnswer)
	}
	switch n, err := io.ReadFull(v.r, make([]byte, 1)); {
	case n != 0:
		return fmt.Errorf("audit: bytes after the end: %w", ErrAnswer)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("audit: after the end: %w: %w", ErrCut, err)
	}
	v.out.Transcript = root(v.frames)
	message, err := signed(v.ch, uint64(len(v.frames)), v.out.Transcript)
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, message, end[4:]) {
		v.out.First = nil
		return fmt.Errorf("audit: answer: %w", ErrUnsigned)
	}
	v.out.Signature, v.out.whole = [64]byte(end[4:]), true
	if v.out.First != nil {
		v.out.First.Path = flat(Path(v.frames, int(v.out.First.Place)))
	}
	return nil
}
