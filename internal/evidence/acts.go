package evidence

import (
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// Signed is a checkpoint in the file and who put a name to it.
type Signed struct {
	Embassy  string        `json:"embassy"`
	Size     uint64        `json:"size"`
	Root     string        `json:"root"` // hex
	Sources  []string      `json:"shown_by"`
	Own      bool          `json:"signed"` // by the embassy itself
	Enough   bool          `json:"enough"` // cosigned as the newest charter asks
	Cosigned []CosignedFor `json:"cosigned"`
}

// CosignedFor is one cosignature that verifies.
type CosignedFor struct {
	Name string    `json:"name"` // of the witness in the charter
	Time time.Time `json:"time"` // by its own clock
}

// Act is one leaf, or a run of leaves of one kind.
type Act struct {
	Embassy string     `json:"embassy"`
	First   uint64     `json:"first"` // leaf
	Last    uint64     `json:"last"`
	Time    *time.Time `json:"time,omitempty"` // of the first, by the embassy's clock; nobody vouches for it
	What    string     `json:"what"`
	Who     string     `json:"who,omitempty"`      // who asked for it
	Bytes   uint64     `json:"bytes,omitempty"`    // stored
	Note    string     `json:"document,omitempty"` // what the document says, where it is in the file

	kind ledger.LeafKind // 0: withheld
}

// maxActs caps the acts that a verdict tells of.
const maxActs = 20000

func (h *history) signed(t *trust) (list []Signed) {
	for i := range h.says {
		s := &h.says[i]
		row := Signed{
			Embassy: h.name, Size: s.size, Root: hexOf(s.root[:]), Sources: s.sources, Own: s.own,
			Enough: s.judged && s.verdict.Enough, Cosigned: []CosignedFor{},
		}
		for _, x := range s.signers {
			row.Cosigned = append(row.Cosigned, CosignedFor{t.members[x.member].name, x.time})
		}
		list = append(list, row)
	}
	slices.SortStableFunc(list, func(a, b Signed) int { return int(int64(a.Size) - int64(b.Size)) })
	return list
}

// acts tells the leaves of one ledger in order. Objects that one key had stored one after the other are one act, and so
// are leaves that are withheld.
func (j *judge) acts(v *Verdict, h *history) {
	start := len(v.Acts)
	for i := range h.Leaves {
		index := h.From + uint64(i)
		if index >= h.anchored {
			return
		}
		a := j.act(h, index, &h.Leaves[i])
		if n := len(v.Acts); n > start {
			if last := &v.Acts[n-1]; last.kind == a.kind && last.What == a.What && last.Who == a.Who && runs(a.kind) {
				last.Last, last.Bytes = index, last.Bytes+a.Bytes
				continue
			}
		}
		if len(v.Acts) == maxActs {
			v.ActsLeft += h.anchored - index
			return
		}
		v.Acts = append(v.Acts, a)
	}
}

// runs tells which acts are told together.
func runs(k ledger.LeafKind) bool { return k <= ledger.ObjectStored || k == ledger.ObjectRemoved }

func (j *judge) act(h *history, index uint64, f *Leaf) Act {
	a := Act{Embassy: h.name, First: index, Last: index, What: "withheld"}
	if f.Data == nil {
		return a
	}
	leaf, err := ledger.ParseLeaf(f.Data)
	if err != nil {
		a.What, a.kind = "cannot be read", 255
		return a
	}
	at := time.Unix(0, leaf.Time).UTC().Truncate(time.Second)
	a.kind, a.Time, a.Who, a.Bytes = leaf.Kind, &at, j.t.who(leaf.Actor), leaf.Size
	switch leaf.Kind {
	case ledger.ObjectStored:
		a.What = "objects stored"
	case ledger.ObjectRemoved:
		a.What = fmt.Sprintf("objects removed by order %d", leaf.Slot.Sequence)
	case ledger.RecordRemoved:
		a.What = fmt.Sprintf("%s record %d of register %x removed", leaf.Slot.Kind, leaf.Slot.Sequence, leaf.Slot.Register)
	case ledger.CharterTaken:
		a.What = fmt.Sprintf("charter %d taken", leaf.Slot.Sequence)
	default:
		a.What, a.Note = j.record(&leaf)
	}
	return a
}

// record says what a record's leaf names, and what the document says where it is in the file.
func (j *judge) record(leaf *ledger.Leaf) (what, note string) {
	s := leaf.Slot
	note = "not in the file"
	if _, ok := j.docs.held[leaf.Name]; ok {
		note = "in the file"
	}
	switch s.Kind {
	case ledger.Head:
		what = fmt.Sprintf("head of snapshot %d of register %x", s.Sequence, s.Register)
		for _, d := range j.docs.heads[headSlot(s.Register, s.Sequence)] {
			if d.hash == leaf.Name {
				note = fmt.Sprintf("signed by agent %s under charter %d: %d packs, %d objects, %d bytes", d.agent, d.CharterVersion, d.Packs, d.Objects, d.Stored)
			}
		}
	case ledger.DeliveryRecord:
		what = fmt.Sprintf("delivery %d for snapshot %d of register %x", s.Sequence&0xffff, s.Sequence>>16, s.Register)
		if n := s.Sequence >> 16; n >= ledger.StreamDelivery {
			what = fmt.Sprintf("delivery %d for the stream of register %x up to stretch %d", s.Sequence&0xffff, s.Register, n-ledger.StreamDelivery)
		}
		for _, d := range j.docs.deliveries[s] {
			if d.hash == leaf.Name {
				note = fmt.Sprintf("signed by agent %s: %s", d.agent, plural(len(d.Objects), "object"))
			}
		}
	case ledger.StretchRecord, ledger.GatheringRecord:
		what = fmt.Sprintf("%s %d of register %x", s.Kind, s.Sequence, s.Register)
	case ledger.Audit:
		what = fmt.Sprintf("audit %d of embassy %s", s.Sequence, j.embassyName(s.Register))
		for _, r := range j.docs.reports {
			if r.hash == leaf.Name {
				note = fmt.Sprintf("signed by %s: %s, %d objects", r.auditor, r.Outcome, r.Objects)
			}
		}
	case ledger.Scrub:
		what = fmt.Sprintf("what the embassy found on its own disk, %d", s.Sequence)
	case ledger.Register:
		what = fmt.Sprintf("record %d of register %x", s.Sequence, s.Register)
	case ledger.Charter:
		what = fmt.Sprintf("charter %d kept for recovery", s.Sequence)
	default:
		var said string
		if what, said = j.orderRecord(leaf); said != "" {
			note = said
		}
	}
	return what, note
}
