package snapshot

import (
	"errors"
	"fmt"
	"strings"
)

// Caps of a payload.
const (
	MaxPayload          = 256 << 10 // bytes of an encoded payload
	MaxOtherFileSystems = 256       // names kept; the rest is not listed
	MaxTags             = 64
	maxPath             = 64 << 10
	maxHost             = 255
	maxTag              = 255
)

const payloadVersion = 1

// ErrPayload is wrapped by every refusal of a payload.
var ErrPayload = errors.New("not a canonical payload")

// Payload is the sealed part of a head: where the tree begins, and what the backup has to say.
type Payload struct {
	Root Entry  // the folder (or file) backed up; it has no name: Name is written as empty
	Path string // of the source, on Host; any bytes
	Host string // name of the machine

	Stats    Stats
	Started  int64 // of the backup, nanoseconds since 1970, the agent's clock
	Finished int64

	Problems         []Extent // where the list of problems is, as a file's content
	ProblemCount     uint64
	Excluded         Excluded
	OtherFileSystems []string // paths below the source where another file system was left out
	Tags             []string // ascending, distinct
}

// Stats counts what a snapshot holds.
type Stats struct {
	Files, Folders, Links, Others uint64
	Bytes                         uint64 // of all files
	Unchanged                     uint64 // files not read again
	NewBytes                      uint64 // bytes of chunks that were not known before, not compressed
}

// Excluded counts what the register's rules left out.
type Excluded struct {
	Count, Bytes uint64
}

// wirePayload is a Payload in CBOR. Paths and names are byte strings, for they may not be UTF-8.
type wirePayload struct {
	Version          uint64   `cbor:"1,keyasint"`
	Root             []byte   `cbor:"2,keyasint"`
	Path             []byte   `cbor:"3,keyasint"`
	Host             []byte   `cbor:"4,keyasint"`
	Stats            []uint64 `cbor:"5,keyasint"` // in the order of Stats
	Started          int64    `cbor:"6,keyasint"`
	Finished         int64    `cbor:"7,keyasint"`
	Problems         []byte   `cbor:"8,keyasint"` // AppendExtents
	ProblemCount     uint64   `cbor:"9,keyasint"`
	Excluded         []uint64 `cbor:"10,keyasint"`
	OtherFileSystems [][]byte `cbor:"11,keyasint"`
	Tags             [][]byte `cbor:"12,keyasint"`
}

// Check tells whether the payload can be written: the root an entry, everything within its cap.
func (p *Payload) Check() error {
	what := ""
	switch {
	case len(p.Path) > maxPath || strings.IndexByte(p.Path, 0) >= 0:
		what = "the path is too long or holds a NUL"
	case len(p.Host) > maxHost:
		what = "the host's name is too long"
	case len(p.Problems) > maxArray:
		what = "the list of problems has too many pieces"
	case len(p.OtherFileSystems) > MaxOtherFileSystems:
		what = "too many other file systems"
	case len(p.Tags) > MaxTags:
		what = "too many tags"
	}
	for i := range p.Problems {
		if !p.Problems[i].valid() || p.Problems[i].Hole {
			what = "the list of problems has a malformed extent"
		}
	}
	for _, path := range p.OtherFileSystems {
		if path == "" || len(path) > maxPath || strings.IndexByte(path, 0) >= 0 {
			what = "the path of another file system is malformed"
		}
	}
	for i, tag := range p.Tags {
		if tag == "" || len(tag) > maxTag || i > 0 && p.Tags[i-1] >= tag {
			what = "tags must be short, ascending and distinct"
		}
	}
	if what != "" {
		return fmt.Errorf("payload: %s: %w", what, ErrPayload)
	}
	if err := p.Root.checkNamed(); err != nil {
		return fmt.Errorf("payload: root: %w: %w", err, ErrPayload)
	}
	return nil
}

// Bytes returns the payload's one encoding, deterministic CBOR of at most MaxPayload bytes. Errors: what
// Check says, or the payload is too large (the root has too many extents or attributes).
func (p *Payload) Bytes() ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	s, x := &p.Stats, &p.Excluded
	b, err := form.Encode(&wirePayload{
		Version:          payloadVersion,
		Root:             appendEntry(nil, &p.Root, ""),
		Path:             []byte(p.Path),
		Host:             []byte(p.Host),
		Stats:            []uint64{s.Files, s.Folders, s.Links, s.Others, s.Bytes, s.Unchanged, s.NewBytes},
		Started:          p.Started,
		Finished:         p.Finished,
		Problems:         AppendExtents(nil, p.Problems),
		ProblemCount:     p.ProblemCount,
		Excluded:         []uint64{x.Count, x.Bytes},
		OtherFileSystems: toWireStrings(p.OtherFileSystems),
		Tags:             toWireStrings(p.Tags),
	})
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if len(b) > MaxPayload {
		return nil, fmt.Errorf("payload: %d bytes, the most is %d: %w", len(b), MaxPayload, ErrPayload)
	}
	return b, nil
}

func toWireStrings(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = []byte(list[i])
	}
	return out
}

func fromWireStrings(list [][]byte) []string {
	var out []string
	for i := range list {
		out = append(out, string(list[i]))
	}
	return out
}

// ParsePayload reads what Bytes wrote. It keeps no reference to b. Errors wrap ErrPayload.
func ParsePayload(b []byte) (*Payload, error) {
	if len(b) > MaxPayload {
		return nil, fmt.Errorf("payload of %d bytes: %w", len(b), ErrPayload)
	}
	var w wirePayload
	if err := form.Decode(b, MaxPayload, &w); err != nil {
		return nil, fmt.Errorf("payload: %w: %w", err, ErrPayload)
	}
	if w.Version != payloadVersion || len(w.Stats) != 7 || len(w.Excluded) != 2 {
		return nil, fmt.Errorf("payload: version %d, %d and %d counts: %w", w.Version, len(w.Stats), len(w.Excluded), ErrPayload)
	}
	p := &Payload{
		Path: string(w.Path), Host: string(w.Host),
		Stats: Stats{
			Files: w.Stats[0], Folders: w.Stats[1], Links: w.Stats[2], Others: w.Stats[3],
			Bytes: w.Stats[4], Unchanged: w.Stats[5], NewBytes: w.Stats[6],
		},
		Started: w.Started, Finished: w.Finished, ProblemCount: w.ProblemCount,
		Excluded:         Excluded{Count: w.Excluded[0], Bytes: w.Excluded[1]},
		OtherFileSystems: fromWireStrings(w.OtherFileSystems),
		Tags:             fromWireStrings(w.Tags),
	}
	r := reader{b: w.Root}
	if r.string(0) != "" || r.afterName(&p.Root) != nil || r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("payload: root: %w", ErrPayload)
	}
	problems, err := ParseExtents(w.Problems)
	if err != nil {
		return nil, fmt.Errorf("payload: problems: %w: %w", err, ErrPayload)
	}
	p.Problems = problems
	if err := p.Check(); err != nil {
		return nil, err
	}
	return p, nil
}
