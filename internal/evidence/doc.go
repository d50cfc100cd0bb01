// Package evidence is the one file from which an auditor or a court, offline, with no key and no network, rebuilds what
// happened at a state's embassies: the acts in order, the checkpoints and who cosigned them, the charters, and the
// documents that acts name. It packs, withholds, checks and judges; it fetches nothing, and whoever made the file is
// believed in nothing. Its second kind of file, the receipt bundle, proves one snapshot.
//
// A finding is held, broken or unknown. Someone is blamed only by what that party itself signed, and nothing that is
// withheld or absent can make a finding worse for anyone: it can only make it unknown.
//
// Old data: a file says its version. A reader for every released version stays, and a version that this program does
// not know is refused. docs/spec/evidence.md draws the bytes.
package evidence

import "errors"

// Errors that a caller tells apart.
var (
	// ErrFormat: bytes that are not the canonical form of an evidence file or receipt bundle.
	ErrFormat = errors.New("not in canonical form")
	// ErrUnknown: a version that this program does not know.
	ErrUnknown = errors.New("unknown version")
	// ErrTooLarge: more than this format takes.
	ErrTooLarge = errors.New("too large")
	// ErrTrust: no charter in the file follows from the one that is trusted, or none is there.
	ErrTrust = errors.New("no charter to trust")
	// ErrForged: a proof, signature or document in a receipt bundle is not what it must be.
	ErrForged = errors.New("does not prove what it should")
	// ErrNotCosigned: proven by the embassy's own signature alone, because too few others saw it; or not everything is there.
	ErrNotCosigned = errors.New("not all of it is there and cosigned")
	// ErrClaim: text that is no claim.
	ErrClaim = errors.New("not a claim")
)
