package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

const (
	// MaxGathered is the most stretches of one gathering.
	MaxGathered = 4096
	// MaxGatheredTable is the most bytes of the table in a gathering.
	MaxGatheredTable = 256 << 10

	// GatheringVersion is the version of the gatherings that this program writes.
	GatheringVersion = 1

	maxGathering     = 512 << 10
	gatheringContext = "chancery gathering v1\x00" // what the signature is over starts with this
)

// Gathering is the signed, public record that the stretches First to Through also stand together in one large pack,
// each of them settled when it was signed. Its hashes tie it into the chain of stretches, so that who reads it need
// not read theirs.
type Gathering struct {
	Version  uint64 // 1
	State    [16]byte
	Register [16]byte
	Sequence uint64   // 1, 2, 3, ... in a register
	Previous [32]byte // Hash of the gathering before; zero for the first

	First, Through uint64   // stretches, at most MaxGathered
	Before         [32]byte // Hash of the stretch before First; zero where First is 1
	ThroughHash    [32]byte // Hash of the stretch Through

	Table   []byte // what AppendGathered makes, sealed under the index key (pack.SealNote)
	Pack    PackRef
	Members [][16]byte // the embassies, in share order
	K       uint8

	Agent          [32]byte
	CharterVersion uint64
	CharterHash    [32]byte
	Time           int64 // claimed by the agent, nanoseconds since 1970; proves nothing

	Signature [64]byte
}

// Check tells whether the gathering's fields fit together, but for the signature.
func (g *Gathering) Check() error {
	what := ""
	switch {
	case g.Version != GatheringVersion:
		what = fmt.Sprintf("version %d is unknown", g.Version)
	case g.Sequence == 0:
		what = "sequence numbers start at 1"
	case (g.Sequence == 1) != (g.Previous == [32]byte{}):
		what = "the first gathering and only that has none before it"
	case g.First == 0 || g.Through < g.First || g.Through-g.First >= MaxGathered:
		what = fmt.Sprintf("stretches %d to %d", g.First, g.Through)
	case (g.First == 1) != (g.Before == [32]byte{}):
		what = "the first stretch and only that has none before it"
	default:
		what = packOf(&g.Pack, g.Members, g.K)
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("gathering %d: %s: %w", g.Sequence, what, ErrStretch)
}

type wireGathering struct {
	Version        uint64   `cbor:"1,keyasint"`
	State          []byte   `cbor:"2,keyasint"`
	Register       []byte   `cbor:"3,keyasint"`
	Sequence       uint64   `cbor:"4,keyasint"`
	Previous       []byte   `cbor:"5,keyasint"`
	First          uint64   `cbor:"6,keyasint"`
	Through        uint64   `cbor:"7,keyasint"`
	Before         []byte   `cbor:"8,keyasint"`
	ThroughHash    []byte   `cbor:"9,keyasint"`
	Table          []byte   `cbor:"10,keyasint"`
	Pack           wireRef  `cbor:"11,keyasint"`
	Members        [][]byte `cbor:"12,keyasint"`
	K              uint8    `cbor:"13,keyasint"`
	Agent          []byte   `cbor:"14,keyasint"`
	CharterVersion uint64   `cbor:"15,keyasint"`
	CharterHash    []byte   `cbor:"16,keyasint"`
	Time           int64    `cbor:"17,keyasint"`
}

func (g *Gathering) unsigned() []byte {
	b, err := form.Encode(&wireGathering{
		Version: g.Version, State: g.State[:], Register: g.Register[:], Sequence: g.Sequence, Previous: g.Previous[:],
		First: g.First, Through: g.Through, Before: g.Before[:], ThroughHash: g.ThroughHash[:], Table: g.Table,
		Pack: toWireRef(&g.Pack), Members: toWireIDs(g.Members), K: g.K, Agent: g.Agent[:],
		CharterVersion: g.CharterVersion, CharterHash: g.CharterHash[:], Time: g.Time,
	})
	if err != nil {
		return nil // cannot happen: every field has an encoding
	}
	return b
}

// Bytes returns the gathering's one encoding, as of a stretch.
func (g *Gathering) Bytes() []byte { return append(g.unsigned(), g.Signature[:]...) }

// Hash returns SHA-256 of Bytes. It is also the name under which ledgers know the record.
func (g *Gathering) Hash() [32]byte { return sha256.Sum256(g.Bytes()) }

// Sign sets Agent to the key's public half and signs the gathering, whose other fields are final.
func (g *Gathering) Sign(priv ed25519.PrivateKey) {
	copy(g.Agent[:], priv[ed25519.SeedSize:])
	copy(g.Signature[:], ed25519.Sign(priv, append([]byte(gatheringContext), g.unsigned()...)))
}

// Verify checks the signature by the agent that the gathering names. Errors: ErrSignature.
func (g *Gathering) Verify() error {
	if !ed25519.Verify(g.Agent[:], append([]byte(gatheringContext), g.unsigned()...), g.Signature[:]) {
		return fmt.Errorf("gathering %d: %w", g.Sequence, ErrSignature)
	}
	return nil
}

// ParseGathering reads what Bytes wrote. It keeps no reference to b and does not check the signature: call Verify.
// Errors wrap ErrStretch.
func ParseGathering(b []byte) (*Gathering, error) {
	var w wireGathering
	sig, err := decodeSigned(b, maxGathering, &w)
	if err != nil {
		return nil, fmt.Errorf("gathering: %w: %w", err, ErrStretch)
	}
	g := &Gathering{
		Version: w.Version, Sequence: w.Sequence, First: w.First, Through: w.Through, Table: w.Table, K: w.K,
		CharterVersion: w.CharterVersion, Time: w.Time, Signature: sig,
	}
	fits := fill(g.State[:], w.State) && fill(g.Register[:], w.Register) && fill(g.Previous[:], w.Previous) &&
		fill(g.Before[:], w.Before) && fill(g.ThroughHash[:], w.ThroughHash) &&
		fill(g.Agent[:], w.Agent) && fill(g.CharterHash[:], w.CharterHash) && fillIDs(&g.Members, w.Members)
	if !fits {
		return nil, fmt.Errorf("gathering: a field of wrong length: %w", ErrStretch)
	}
	if g.Pack, err = w.Pack.ref(); err != nil {
		return nil, fmt.Errorf("gathering: %w: %w", err, ErrStretch)
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

// CheckGatheringChain tells whether next is the gathering right after prev, or the first where prev is nil: it
// gathers what comes behind. Errors: ErrForked for two of one number, otherwise ErrBroken.
func CheckGatheringChain(prev, next *Gathering) error {
	switch {
	case prev == nil && next.Sequence == 1:
		return nil
	case prev == nil:
		return fmt.Errorf("gathering %d: is not the first of its register: %w", next.Sequence, ErrBroken)
	case next.State != prev.State || next.Register != prev.Register:
		return fmt.Errorf("gathering %d: of another register: %w", next.Sequence, ErrBroken)
	case next.Sequence == prev.Sequence && next.Hash() != prev.Hash():
		return fmt.Errorf("gathering %d: %w", next.Sequence, ErrForked)
	case next.Sequence != prev.Sequence+1 || next.Previous != prev.Hash():
		return fmt.Errorf("gathering %d: does not follow gathering %d: %w", next.Sequence, prev.Sequence, ErrBroken)
	case next.First <= prev.Through:
		return fmt.Errorf("gathering %d: gathers again what gathering %d did: %w", next.Sequence, prev.Sequence, ErrBroken)
	}
	return nil
}

// Gathered is what a gathering's table says of one stretch. Its bytes lie in the gathering's pack as that pack's next
// chunk, from Offset; or, where Alone is set, only in a large pack of its own, and Offset, Stored, Raw and Compressed are zero.
type Gathered struct {
	Position   []byte
	Replaces   uint64 // as the stretch says
	Offset     uint32
	Stored     uint32
	Raw        uint32
	Compressed bool
	Alone      *PackRef
}

const minGathered = 4

// AppendGathered appends the one encoding of a table of stretches from first on. Offset need not be set: chunks follow
// each other without a gap.
//
//	table   = version[1] = 1, count, stretch * count
//	stretch = length, position[length], back, 0, stored, 2*raw+compressed
//	        | length, position[length], back, 1, id[16] class[1] epoch name[32] * n
//
// back is the stretch's own number less the one that it replaces from, or 0. Numbers without a length are uvarints.
func AppendGathered(dst []byte, first uint64, list []Gathered) []byte {
	dst = append(dst, version1)
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		g := &list[i]
		dst = binary.AppendUvarint(dst, uint64(len(g.Position)))
		dst = append(dst, g.Position...)
		back := uint64(0)
		if g.Replaces > 0 {
			back = first + uint64(i) - g.Replaces
		}
		dst = binary.AppendUvarint(dst, back)
		if r := g.Alone; r != nil {
			dst = append(append(append(dst, 1), r.ID[:]...), byte(r.Class))
			dst = appendNames(binary.AppendUvarint(dst, uint64(r.Epoch)), r.Shares)
			continue
		}
		dst = binary.AppendUvarint(append(dst, 0), uint64(g.Stored))
		raw := uint64(g.Raw) << 1
		if g.Compressed {
			raw |= 1
		}
		dst = binary.AppendUvarint(dst, raw)
	}
	return dst
}

// GatheredSize returns the most bytes that a stretch takes in a table.
func GatheredSize(g *Gathered) int {
	n := 2 + len(g.Position) + 10 + 1 + 5 + 5
	if g.Alone != nil {
		n += 16 + 1 + 32*len(g.Alone.Shares)
	}
	return n
}

// ParseGathered reads what AppendGathered wrote for the gathering g, all of b. Positions are parts of b. Errors wrap
// ErrStretch.
func ParseGathered(b []byte, g *Gathering) ([]Gathered, error) {
	bad := func(what string) error {
		return fmt.Errorf("gathering %d: table: %s: %w", g.Sequence, what, ErrStretch)
	}
	if len(b) == 0 || len(b) > MaxGatheredTable || b[0] != version1 {
		return nil, bad("without a known version")
	}
	r := reader{b: b[1:]}
	count := g.Through - g.First + 1
	if r.number(MaxGathered) != count || uint64(len(r.b)) < count*minGathered {
		return nil, bad("of other stretches")
	}
	list := make([]Gathered, count)
	end := uint64(0)
	for i := range list {
		x := &list[i]
		x.Position = r.bytes(int(r.number(MaxPosition)))
		if back := r.number(g.First + uint64(i) - 1); back > 0 {
			x.Replaces = g.First + uint64(i) - back
		}
		switch r.byte() {
		case 0:
			x.Offset, x.Stored = uint32(end), uint32(r.number(uint64(g.Pack.Class.Size())))
			raw := r.number(maxRaw<<1 | 1)
			x.Raw, x.Compressed = uint32(raw>>1), raw&1 == 1
			end += uint64(x.Stored)
			fits := x.Stored > 0 && x.Raw > 0 && end <= uint64(g.Pack.Class.Size()) &&
				(x.Compressed && x.Stored < x.Raw || !x.Compressed && x.Stored == x.Raw)
			if !fits {
				return nil, bad("impossible lengths")
			}
		case 1:
			ref := &PackRef{Kind: pack.Data, K: g.K, N: uint8(len(g.Members))}
			copy(ref.ID[:], r.bytes(len(ref.ID)))
			ref.Class, ref.Epoch = pack.Class(r.byte()), uint32(r.number(1<<32-1))
			ref.Shares = parseNames(r.bytes(len(g.Members) * len(shard.Name{})))
			if !r.bad && ref.Check() != nil {
				return nil, bad(ref.Check().Error())
			}
			x.Alone = ref
		default:
			r.fail()
		}
		if r.bad {
			return nil, bad("cut short or not canonical")
		}
	}
	if len(r.b) != 0 {
		return nil, bad("bytes behind the end")
	}
	return list, nil
}
