package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
)

const version1 = 1

// Sizes of the pieces of a listing, in bytes before compression.
const (
	minPiece  = 64 << 10  // no content-defined cut before this
	meanPiece = 512 << 10 // one cut in so many bytes
	MaxPiece  = 4 << 20   // a piece is cut before an entry that would make it larger than this
)

// MaxListing is the most bytes a reader accepts as one piece: one entry with everything at its cap.
const MaxListing = 16 << 20

// ListingWriter turns the entries of one folder, in ascending order, into the pieces of its listing.
//
//	piece = version[1] = 1, entry, entry, ...
//
// Pieces end where the names say so, not at a fixed size: one name more or less in a large folder
// changes one piece, or seldom two. The zero value is ready; a writer is for one goroutine.
type ListingWriter struct {
	buf   []byte
	spare []byte
	last  string
	any   bool
}

// Add appends an entry and returns the piece that it completed, or nil. A piece stays valid until the
// next but one call to Add or Finish. Errors: the entry fails Check, or does not follow the last one.
func (w *ListingWriter) Add(e *Entry) (piece []byte, err error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	if w.any && e.Name <= w.last {
		return nil, fmt.Errorf("entry %q: after %q: names must ascend: %w", e.Name, w.last, ErrEntry)
	}
	w.last, w.any = e.Name, true
	if len(w.buf) == 0 {
		w.buf = append(w.buf, version1)
	}
	start := len(w.buf)
	w.buf = AppendEntry(w.buf, e)
	size := len(w.buf) - start
	if start > 1 && len(w.buf) > MaxPiece {
		// The piece ends before this entry, which opens the next one.
		next := append(append(w.spare[:0], version1), w.buf[start:]...)
		piece, w.buf, w.spare = w.buf[:start], next, w.buf
		return piece, nil
	}
	if len(w.buf) >= minPiece && cutsAfter(e.Name, size) {
		return w.take(), nil
	}
	return nil, nil
}

// Finish returns the last piece, or nil when there is none: an empty folder has no piece at all. The
// writer is then ready for another folder; the piece is valid until the next but one call.
func (w *ListingWriter) Finish() []byte {
	w.last, w.any = "", false
	if len(w.buf) == 0 {
		return nil
	}
	return w.take()
}

func (w *ListingWriter) take() []byte {
	piece := w.buf
	w.buf, w.spare = w.spare[:0], piece
	return piece
}

// cutsAfter decides by the name alone, with a chance that grows with the entry's size, so that a piece
// has meanPiece bytes on average whatever its entries are.
func cutsAfter(name string, size int) bool {
	var buf [256]byte
	sum := sha256.Sum256(append(buf[:0], name...))
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:8]), meanPiece)
	return hi < uint64(size)
}

// Entries yields the entries of one piece of a listing: canonical, strictly ascending by the bytes of
// the name. The first flaw is yielded as an error that wraps ErrEntry, and is the end. Entries do not
// share memory with b, but one that is kept keeps a copy of its piece's text: use strings.Clone on a
// name that is to live longer.
func Entries(b []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		last := ""
		eachEntry(b, &last, yield)
	}
}

// Listing yields the entries of a whole folder from its pieces, in order, and checks the order across
// their borders. An error of the pieces is passed on and is the end.
func Listing(pieces iter.Seq2[[]byte, error]) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		last := ""
		for piece, err := range pieces {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !eachEntry(piece, &last, yield) {
				return
			}
		}
	}
}

// eachEntry reports whether the caller should go on to the next piece.
func eachEntry(b []byte, last *string, yield func(Entry, error) bool) bool {
	if len(b) < 2 || len(b) > MaxListing || b[0] != version1 {
		yield(Entry{}, fmt.Errorf("listing: %d bytes without a known version and an entry: %w", len(b), ErrEntry))
		return false
	}
	r := reader{b: b[1:], text: string(b[1:])}
	for len(r.b) > 0 {
		var e Entry
		if err := r.entry(&e); err != nil {
			yield(Entry{}, err)
			return false
		}
		if e.Name <= *last {
			yield(Entry{}, fmt.Errorf("listing: %q after %q: names must ascend: %w", e.Name, *last, ErrEntry))
			return false
		}
		*last = e.Name
		if !yield(e, nil) {
			return false
		}
	}
	return true
}
