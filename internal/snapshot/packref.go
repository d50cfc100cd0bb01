package snapshot

import (
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

// MaxMembers is the most embassies that one snapshot is spread over.
const MaxMembers = 32

// PackRef names a pack and every object that it became: all that is needed to fetch it, and, with the
// register's key, to open it. Share i is at the i-th member of the head that introduced the pack; a
// share that an embassy did not get has its name all the same.
type PackRef struct {
	ID     pack.ID
	Kind   pack.Kind
	Class  pack.Class
	K, N   uint8 // any K of the N shares make the pack
	Epoch  uint32
	Shares []shard.Name // N of them
}

// Check tells whether the reference can be: known kind and class, 1 <= K <= N <= MaxMembers, N names.
func (r *PackRef) Check() error {
	what := ""
	switch {
	case r.Kind != pack.Data && r.Kind != pack.Tree && r.Kind != pack.Index:
		what = "unknown kind"
	case r.Class.Size() == 0:
		what = "unknown class"
	case r.K == 0 || r.K > r.N || r.N > MaxMembers:
		what = "impossible k of n"
	case len(r.Shares) != int(r.N):
		what = "n and the number of names differ"
	default:
		return nil
	}
	return fmt.Errorf("pack %s: %s: %w", r.ID, what, errPackRef)
}

var errPackRef = errors.New("not a pack reference")

// wireRef is a PackRef in CBOR: an array, the names as one string of 32 bytes each.
type wireRef struct {
	_      struct{} `cbor:",toarray"`
	ID     []byte
	Kind   uint8
	Class  uint8
	K      uint8
	Epoch  uint32
	Shares []byte
}

func toWireRef(r *PackRef) wireRef {
	return wireRef{
		ID: r.ID[:], Kind: uint8(r.Kind), Class: uint8(r.Class), K: r.K, Epoch: r.Epoch,
		Shares: appendNames(nil, r.Shares),
	}
}

func (w *wireRef) ref() (PackRef, error) {
	if len(w.ID) != len(pack.ID{}) || len(w.Shares)%len(shard.Name{}) != 0 || len(w.Shares) > MaxMembers*len(shard.Name{}) {
		return PackRef{}, errPackRef
	}
	r := PackRef{
		ID: pack.ID(w.ID), Kind: pack.Kind(w.Kind), Class: pack.Class(w.Class), K: w.K,
		N: uint8(len(w.Shares) / len(shard.Name{})), Epoch: w.Epoch, Shares: parseNames(w.Shares),
	}
	return r, r.Check()
}

func appendNames(dst []byte, names []shard.Name) []byte {
	for i := range names {
		dst = append(dst, names[i][:]...)
	}
	return dst
}

func parseNames(b []byte) []shard.Name {
	names := make([]shard.Name, len(b)/len(shard.Name{}))
	for i := range names {
		names[i] = shard.Name(b[i*len(shard.Name{}):])
	}
	return names
}
