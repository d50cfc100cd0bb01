package evidence

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// Pack is the content of one evidence file. Nothing in it is believed before Judge: whoever made it may have left
// things out, or put anything in.
type Pack struct {
	State charter.StateID
	// Made is when whoever made the file says it was made, in whole seconds.
	Made     time.Time
	Charters []Charter
	Ledgers  []Ledger // of distinct names
	Records  []Record // documents that leaves name, and others that their signer answers for
	// Attachments are what orders bind by hash: lists of objects.
	Attachments [][]byte
}

// Charter is a charter document and its signatures.
type Charter struct {
	Document, Signatures []byte
}

// Ledger is what the file shows of one embassy's ledger.
type Ledger struct {
	// Name is what Label makes of the embassy's name in the charter and of the origin.
	Name string
	Key  ed25519.PublicKey // the embassy's, 32 bytes
	// Origin is the ledger's: one of those that the embassy with this key may keep for the state.
	Origin string
	// Checkpoints are signed notes of this ledger, with cosignatures, from anywhere.
	Checkpoints []Checkpoint
	// From is the index of the first leaf shown, and Prefix the roots of the whole trees before it, the largest first,
	// one for each set bit of From: what it takes to compute any later root.
	From   uint64
	Prefix [][32]byte
	Leaves []Leaf
	// Joins are consistency proofs between checkpoints where Leaves do not reach.
	Joins []Join
	// Proofs show single leaves (Extra is the leaf) under checkpoints of their own.
	Proofs []ledger.Proof
}

// Checkpoint is a signed note and who showed it: "live" is the embassy itself, anything else a name.
type Checkpoint struct {
	Source string
	Note   []byte
}

// Leaf is a leaf of a ledger, or its hash alone where Data is nil: withheld.
type Leaf struct {
	Data []byte
	Hash [32]byte // LeafHash of Data where that is there
}

// Join is a consistency proof between trees of two sizes of one ledger.
type Join struct {
	Old, New uint64
	Proof    [][32]byte
}

// Record is a document. Name is its SHA-256, which leaves carry.
type Record struct {
	Kind ledger.RecordKind
	Data []byte
}

// To is the size of the tree that the leaves make.
func (l *Ledger) To() uint64 { return l.From + uint64(len(l.Leaves)) }

// Withheld counts leaves of which only the hash is there.
func (l *Ledger) Withheld() int {
	n := 0
	for i := range l.Leaves {
		if l.Leaves[i].Data == nil {
			n++
		}
	}
	return n
}

// NewLeaf shows a leaf. data is kept.
func NewLeaf(data []byte) Leaf { return Leaf{Data: data, Hash: ledger.LeafHash(data)} }

// Caps of a file's content.
const (
	maxCharters    = 4096
	maxLedgers     = 64
	maxCheckpoints = 4096 // of one ledger
	maxLeaves      = 4 << 20
	maxJoins       = 4096
	maxProofs      = 65536
	maxRecords     = 262144
	maxAttachments = 4096
	maxAttachment  = 32*ledger.MaxListed + 64
)

// wordPattern is a name of a ledger, a witness or a source.
var wordPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}(\.[1-9][0-9]{0,9})?$`)

// Label names a ledger: by its embassy's name in the charter where origin is the one in force, and else with its
// number behind it, as in "lu.1": an embassy that lost its disk begins another ledger when the charter says so.
func Label(e charter.Embassy, origin string) string {
	if origin == e.Origin {
		return e.Name
	}
	number := "1"
	if parts := strings.Split(origin, "/"); len(parts) > 4 {
		number = parts[4]
	}
	return e.Name + "." + number
}

// normalize sorts what has no order of its own and drops what is there twice.
func (p *Pack) normalize() {
	p.Made = p.Made.UTC().Truncate(time.Second)
	slices.SortFunc(p.Charters, func(a, b Charter) int { return bytes.Compare(a.Document, b.Document) })
	p.Charters = slices.CompactFunc(p.Charters, func(a, b Charter) bool { return bytes.Equal(a.Document, b.Document) })
	slices.SortFunc(p.Ledgers, func(a, b Ledger) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Records, func(a, b Record) int {
		x, y := sha256.Sum256(a.Data), sha256.Sum256(b.Data)
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), bytes.Compare(x[:], y[:]))
	})
	p.Records = slices.CompactFunc(p.Records, func(a, b Record) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) })
	slices.SortFunc(p.Attachments, func(a, b []byte) int {
		x, y := sha256.Sum256(a), sha256.Sum256(b)
		return bytes.Compare(x[:], y[:])
	})
	p.Attachments = slices.CompactFunc(p.Attachments, bytes.Equal)
	for i := range p.Ledgers {
		p.Ledgers[i].normalize()
	}
}

func (l *Ledger) normalize() {
	slices.SortFunc(l.Checkpoints, func(a, b Checkpoint) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), bytes.Compare(a.Note, b.Note))
	})
	l.Checkpoints = slices.CompactFunc(l.Checkpoints, func(a, b Checkpoint) bool {
		return a.Source == b.Source && bytes.Equal(a.Note, b.Note)
	})
	slices.SortFunc(l.Joins, func(a, b Join) int {
		return cmp.Or(cmp.Compare(a.Old, b.Old), cmp.Compare(a.New, b.New), slices.CompareFunc(a.Proof, b.Proof, compareHashes))
	})
	l.Joins = slices.CompactFunc(l.Joins, func(a, b Join) bool {
		return a.Old == b.Old && a.New == b.New && slices.Equal(a.Proof, b.Proof)
	})
	slices.SortFunc(l.Proofs, func(a, b ledger.Proof) int { return bytes.Compare(a.Bytes(), b.Bytes()) })
	l.Proofs = slices.CompactFunc(l.Proofs, func(a, b ledger.Proof) bool { return bytes.Equal(a.Bytes(), b.Bytes()) })
}

func compareHashes(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }

// check holds the content to its caps, and to what can be written and read again.
func (p *Pack) check() error {
	bad := func(kind error, format string, args ...any) error {
		return fmt.Errorf("evidence: %s: %w", fmt.Sprintf(format, args...), kind)
	}
	switch {
	case p.Made.Year() < 1970 || p.Made.Year() > 9999:
		return bad(ErrFormat, "made in the year %d", p.Made.Year())
	case len(p.Charters) > maxCharters || len(p.Ledgers) > maxLedgers || len(p.Records) > maxRecords:
		return bad(ErrTooLarge, "%d charters, %d ledgers, %d records", len(p.Charters), len(p.Ledgers), len(p.Records))
	}
	for _, r := range p.Records {
		if r.Kind.String() == "unknown" || len(r.Data) == 0 || len(r.Data) > ledger.MaxRecord {
			return bad(ErrFormat, "a record of kind %d with %d bytes", r.Kind, len(r.Data))
		}
	}
	for _, a := range p.Attachments {
		if len(a) == 0 || len(a) > maxAttachment || len(p.Attachments) > maxAttachments {
			return bad(ErrTooLarge, "%d attachments, one of %d bytes", len(p.Attachments), len(a))
		}
	}
	for i, c := range p.Charters {
		if len(c.Document) == 0 || len(c.Document) > charter.MaxSize || len(c.Signatures) > charter.MaxSize {
			return bad(ErrFormat, "charter %d of the file with %d bytes", i+1, len(c.Document))
		}
	}
	taken := map[string]bool{}
	for i := range p.Ledgers {
		l := &p.Ledgers[i]
		if !wordPattern.MatchString(l.Name) || len(l.Key) != ed25519.PublicKeySize || taken[l.Name] || taken[l.Origin] ||
			!ledger.OriginBelongs(l.Origin, [16]byte(p.State), l.Key) {
			return bad(ErrFormat, "ledger %q: not a name, twice, or not one of its key", l.Name)
		}
		taken[l.Name], taken[l.Origin] = true, true
		if err := l.check(); err != nil {
			return fmt.Errorf("evidence: ledger %s: %w", l.Name, err)
		}
	}
	return nil
}

func (l *Ledger) check() error {
	switch {
	case len(l.Checkpoints) > maxCheckpoints, len(l.Leaves) > maxLeaves, len(l.Joins) > maxJoins,
		len(l.Proofs) > maxProofs:
		return ErrTooLarge
	case l.From > 1<<60 || len(l.Prefix) != bits.OnesCount64(l.From):
		return fmt.Errorf("prefix: %w", ErrFormat)
	}
	for i := range l.Leaves {
		f := &l.Leaves[i]
		if f.Data != nil && (len(f.Data) == 0 || len(f.Data) > ledger.MaxLeaf || f.Hash != ledger.LeafHash(f.Data)) {
			return fmt.Errorf("leaf %d: %w", l.From+uint64(i), ErrFormat)
		}
	}
	for _, c := range l.Checkpoints {
		if _, _, err := ledger.SplitSignatures(c.Note); err != nil || !wordPattern.MatchString(c.Source) {
			return fmt.Errorf("a checkpoint: %w", ErrFormat)
		}
	}
	for _, j := range l.Joins {
		if j.Old >= j.New || j.New > 1<<60 || len(j.Proof) > 128 {
			return fmt.Errorf("a consistency proof: %w", ErrFormat)
		}
	}
	for i := range l.Proofs {
		if _, err := ledger.ParseProof(l.Proofs[i].Bytes()); err != nil || len(l.Proofs[i].Extra) > ledger.MaxLeaf {
			return fmt.Errorf("an inclusion proof: %w", ErrFormat)
		}
	}
	return nil
}

// Withhold hides every leaf that yes picks: its hash stays, so all checks of trees go on, and what it said is gone,
// together with its documents, and the lists that these bind, where no leaf that is still shown names them. yes is asked for leaves that can be read;
// others it cannot pick. The leaves that are hidden already stay so.
func (p *Pack) Withhold(yes func(ledger string, index uint64, leaf *ledger.Leaf) bool) {
	hidden, shown := map[[32]byte]bool{}, map[[32]byte]bool{}
	for i := range p.Ledgers {
		l := &p.Ledgers[i]
		pick := func(index uint64, data []byte) bool {
			leaf, err := ledger.ParseLeaf(data)
			if err != nil {
				return false
			}
			if !yes(l.Name, index, &leaf) {
				shown[leaf.Name] = true
				return false
			}
			hidden[leaf.Name] = true
			return true
		}
		for j := range l.Leaves {
			if f := &l.Leaves[j]; f.Data != nil && pick(l.From+uint64(j), f.Data) {
				f.Data = nil
			}
		}
		l.Proofs = slices.DeleteFunc(l.Proofs, func(q ledger.Proof) bool { return pick(q.Index, q.Extra) })
	}
	gone, kept := map[[32]byte]bool{}, map[[32]byte]bool{}
	p.Records = slices.DeleteFunc(p.Records, func(r Record) bool {
		name := sha256.Sum256(r.Data)
		drop := hidden[name] && !shown[name]
		for _, list := range bound(&r) {
			if gone[list] = gone[list] || drop; !drop {
				kept[list] = true
			}
		}
		return drop
	})
	p.Attachments = slices.DeleteFunc(p.Attachments, func(a []byte) bool {
		name := sha256.Sum256(a)
		return gone[name] && !kept[name]
	})
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
