package evidence

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// tree is what a checkpoint is about.
type tree struct {
	size uint64
	root [32]byte
}

// statement is a checkpoint in the file, and who put a name to it.
type statement struct {
	tree
	sources []string
	own     bool        // signed by the ledger's embassy
	signers []cosigning // of members of the charters
	judged  bool        // under the policy in force
	verdict ledger.Verdict
}

type cosigning struct {
	member int // of trust.members
	time   time.Time
}

// history is what the file proves of one ledger.
type history struct {
	*Ledger
	name     string // the embassy's in the charter, or with the number of an earlier ledger behind it
	embassy  charter.Embassy
	log      ledger.Log
	says     []statement
	roots    map[uint64][32]byte // of the trees that the leaves make, at the sizes that are spoken of
	joins    []joined            // consistency proofs that hold
	anchored uint64              // leaves below are in a tree that the embassy signed
	unread   int                 // leaves below anchored that are shown and cannot be read
	objects  map[[32]byte]uint64 // first leaf of each object
	newest   map[[32]byte]uint64 // last leaf that stored it
	removals []removal           // by leaf
	blind    uint64              // the first leaf that is withheld or cannot be read, or anchored
	slots    map[ledger.Slot]placed
	charters map[uint64]placed // charters taken, by number
	reach    []reach           // of cosigned trees, by rising size
	under    map[uint64][]tree // trees that hold leaves that are proven singly
	proven   []provenLeaf      // by proofs under a checkpoint of their own
	gap      string            // why the ledger is not shown completely; empty where it is
	problems []string
}

type placed struct {
	index uint64
	name  [32]byte
	twice bool // another leaf has the slot with another name
}

type joined struct{ old, new tree }

// newHistory checks one ledger. ok is false when no charter knows its embassy.
func newHistory(t *trust, p *Pack, l *Ledger) (h *history, ok bool) {
	h = &history{Ledger: l, name: l.Name, roots: map[uint64][32]byte{}, objects: map[[32]byte]uint64{}, newest: map[[32]byte]uint64{}, slots: map[ledger.Slot]placed{}, charters: map[uint64]placed{}, under: map[uint64][]tree{}}
	if h.embassy, ok = t.embassy(l.Key); !ok {
		h.problem("its key is in no charter that is trusted; nothing of it counts")
		return h, false
	}
	if h.name = Label(h.embassy, l.Origin); h.name != l.Name {
		h.problem("the file calls it %s", l.Name)
	}
	h.log = h.embassy.Log()
	h.log.Origin = l.Origin
	h.readStatements(t)
	h.rebuild()
	h.readJoins()
	h.readReach()
	h.readLeaves(p.State)
	h.gap = h.missing()
	return h, true
}

// maxProblems caps what is listed of one ledger.
const maxProblems = 1000

func (h *history) problem(format string, args ...any) {
	if len(h.problems) < maxProblems {
		h.problems = append(h.problems, "ledger of "+h.name+": "+fmt.Sprintf(format, args...))
	}
}

// parseTree reads a checkpoint's text, whoever signed it.
func parseTree(note []byte, origin string) (ledger.Checkpoint, bool) {
	text, _, err := ledger.SplitSignatures(note)
	if err != nil {
		return ledger.Checkpoint{}, false
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[0] != origin {
		return ledger.Checkpoint{}, false
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	root, rerr := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || rerr != nil || len(root) != sha256.Size || size > 1<<60 {
		return ledger.Checkpoint{}, false
	}
	return ledger.Checkpoint{Origin: origin, Size: size, Root: [32]byte(root), Raw: note}, true
}

// readStatements reads all checkpoints, also those of proofs, and verifies who signed them.
func (h *history) readStatements(t *trust) {
	for _, c := range h.Checkpoints {
		h.read(t, c.Source, c.Note)
	}
	for i := range h.Proofs {
		h.read(t, "proof", h.Proofs[i].Checkpoint)
	}
}

func (h *history) read(t *trust, source string, note []byte) {
	cp, ok := parseTree(note, h.log.Origin)
	if !ok {
		h.problem("a checkpoint from %s is not of this ledger", source)
		return
	}
	s := statement{tree: tree{cp.Size, cp.Root}, sources: []string{source}}
	if t.policy != nil {
		var err error
		s.verdict, err = t.policy.Judge(note, h.policyLog(t))
		s.judged = err == nil
	}
	s.own = s.judged || h.signedBy(note)
	for i, m := range t.members {
		if m.signs(h.log.Key) { // its other signature is the other half of its own vote, and no witness's
			continue
		}
		for _, k := range m.keys {
			found, err := ledger.Cosignatures(cp, []ledger.WitnessKey{k})
			if err != nil {
				h.problem("a checkpoint of %d leaves carries a false cosignature in the name of %s", cp.Size, m.name)
				continue
			}
			for _, c := range found {
				s.signers = append(s.signers, cosigning{i, c.Time})
			}
		}
	}
	if !s.own && len(s.signers) == 0 {
		h.problem("a checkpoint of %d leaves from %s is signed by nobody whom the charters know", cp.Size, source)
		return
	}
	for i := range h.says {
		if o := &h.says[i]; o.tree == s.tree && o.own == s.own && slices.Equal(o.signers, s.signers) {
			if !slices.Contains(o.sources, source) {
				o.sources = append(o.sources, source)
			}
			return
		}
	}
	h.says = append(h.says, s)
}

// signedBy tells whether the ledger's embassy signed a checkpoint.
func (h *history) signedBy(note []byte) bool {
	v, err := ledger.NewVerifier(h.log.Origin, h.log.Key)
	if err == nil {
		_, err = ledger.ParseCheckpoint(note, v)
	}
	return err == nil
}

// policyLog is the log as the newest charter's policy sees it: an embassy that the charter no longer names has no vote.
func (h *history) policyLog(t *trust) ledger.Log {
	log := h.log
	if _, ok := t.newest().EmbassyByID(h.embassy.ID); !ok {
		log.Group, log.Member = "", ""
	}
	return log
}

// rebuild computes the roots that the leaves make, and finds how far a checkpoint of the embassy vouches for them.
func (h *history) rebuild() {
	spoken := map[uint64]bool{}
	for _, s := range h.says {
		spoken[s.size] = true
	}
	for _, j := range h.Joins {
		spoken[j.Old], spoken[j.New] = true, true
	}
	t, err := ledger.NewTree(h.From, h.Prefix)
	if err != nil {
		h.problem("its prefix is not one of %d leaves", h.From)
		return
	}
	note := func() {
		if spoken[t.Size()] {
			h.roots[t.Size()] = t.Root()
		}
	}
	note()
	for i := range h.Leaves {
		t.Append(h.Leaves[i].Hash)
		note()
	}
	for _, s := range h.says {
		if s.own && h.follows(s.tree) {
			h.anchored = max(h.anchored, s.size)
		}
	}
	if len(h.Leaves) > 0 && h.anchored < h.To() {
		h.problem("%d of its leaves are in no tree that the embassy signed; they count for nothing", h.To()-max(h.anchored, h.From))
	}
}

// follows tells whether a tree is what the leaves make.
func (h *history) follows(t tree) bool {
	root, ok := h.roots[t.size]
	return ok && root == t.root
}

// maxTries caps how often a consistency proof is tried.
const maxTries = 100000

// readJoins keeps the consistency proofs that hold between trees that somebody signed, or that the leaves make.
func (h *history) readJoins() {
	trees := map[uint64][]tree{}
	add := func(t tree) {
		if !slices.Contains(trees[t.size], t) {
			trees[t.size] = append(trees[t.size], t)
		}
	}
	for _, s := range h.says {
		add(s.tree)
	}
	for size, root := range h.roots {
		add(tree{size, root})
	}
	tries := 0
	for _, j := range h.Joins {
		holds := false
		if tries += len(trees[j.Old]) * len(trees[j.New]); tries > maxTries {
			h.problem("too many checkpoints of one size to look at all consistency proofs")
			return
		}
		for _, old := range trees[j.Old] {
			for _, now := range trees[j.New] {
				older, newer := ledger.Checkpoint{Size: old.size, Root: old.root}, ledger.Checkpoint{Size: now.size, Root: now.root}
				if ledger.VerifyConsistency(older, newer, j.Proof) == nil {
					h.joins, holds = append(h.joins, joined{old, now}), true
				}
			}
		}
		if !holds {
			h.problem("a consistency proof from %d to %d leaves does not hold; it counts for nothing", j.Old, j.New)
		}
	}
}

// readLeaves indexes what the leaves say, as far as the embassy vouches for them.
func (h *history) readLeaves(state charter.StateID) {
	h.blind = h.anchored
	for i := range h.Leaves {
		index := h.From + uint64(i)
		if index >= h.anchored {
			break
		}
		if h.Leaves[i].Data == nil || !h.readLeaf(state, index, h.Leaves[i].Data) {
			h.blind = min(h.blind, index)
		}
	}
	v, err := ledger.NewVerifier(h.log.Origin, h.log.Key)
	if err != nil {
		return
	}
	for i := range h.Proofs {
		q := &h.Proofs[i]
		cp, err := q.Verify(q.Extra, v)
		if err != nil {
			h.problem("an inclusion proof of leaf %d does not hold; it counts for nothing", q.Index)
			continue
		}
		h.proven = append(h.proven, provenLeaf{q.Index, ledger.LeafHash(q.Extra), tree{cp.Size, cp.Root}})
		if q.Index < h.From || q.Index >= h.anchored || h.Leaves[q.Index-h.From].Data == nil {
			h.readLeaf(state, q.Index, q.Extra)
			h.under[q.Index] = append(h.under[q.Index], tree{cp.Size, cp.Root})
		}
	}
}

func (h *history) readLeaf(state charter.StateID, index uint64, data []byte) (ok bool) {
	leaf, err := ledger.ParseLeaf(data)
	if err != nil || leaf.State != [16]byte(state) {
		h.unread++
		h.problem("leaf %d cannot be read: %v", index, err)
		return false
	}
	switch leaf.Kind {
	case ledger.ObjectStored:
		if at, ok := h.objects[leaf.Name]; !ok || index < at {
			h.objects[leaf.Name] = index
		}
		h.newest[leaf.Name] = max(h.newest[leaf.Name], index)
	case ledger.ObjectRemoved, ledger.RecordRemoved:
		h.readRemoval(index, &leaf)
	case ledger.CharterTaken:
		h.charters[leaf.Slot.Sequence] = placed{index: index, name: leaf.Name}
	default:
		h.readSlot(index, &leaf)
	}
	return true
}

func (h *history) readSlot(index uint64, leaf *ledger.Leaf) {
	was, ok := h.slots[leaf.Slot]
	switch {
	case !ok || was.name == leaf.Name && index < was.index:
		h.slots[leaf.Slot] = placed{index: index, name: leaf.Name, twice: was.twice}
	case was.name != leaf.Name:
		was.twice = true
		if index < was.index {
			was.index, was.name = index, leaf.Name
		}
		h.slots[leaf.Slot] = was
	}
}

// best is the checkpoint of most leaves that is cosigned as the policy asks, of those that the leaves make first.
func (h *history) best() (best *statement) {
	for i := range h.says {
		if s := &h.says[i]; s.judged && s.verdict.Enough && (best == nil || s.size > best.size || s.size == best.size && s.verdict.Time.After(best.verdict.Time)) {
			best = s
		}
	}
	return best
}

// reach says that a cosigned tree holds the leaves shown below size, since a moment.
type reach struct {
	tree  tree
	size  uint64
	since time.Time
	// latest is when the last of all who cosigned it had; zero where only the ledger's embassy signed.
	latest time.Time
}

// readReach finds how many of the leaves shown each cosigned tree holds.
func (h *history) readReach() {
	for _, s := range h.says {
		if !s.judged || !s.verdict.Enough {
			continue
		}
		r := reach{tree: s.tree, since: s.verdict.Time}
		for _, x := range s.signers {
			if x.time.After(r.latest) {
				r.latest = x.time
			}
		}
		for t := range h.beginnings(s.tree) {
			if h.follows(t) {
				r.size = max(r.size, t.size)
			}
		}
		h.reach = append(h.reach, r)
	}
}

// beginnings collects the trees that are proven to be beginnings of a tree, itself among them: by the leaves, where it
// is what they make, and by consistency proofs. That two trees have a beginning in common does not join them.
func (h *history) beginnings(of tree) map[tree]bool {
	found, queue := map[tree]bool{of: true}, []tree{of}
	add := func(t tree) {
		if !found[t] {
			found[t], queue = true, append(queue, t)
		}
	}
	made := false // what the leaves make was added, up to the first and so largest tree
	for ; len(queue) > 0; queue = queue[1:] {
		from := queue[0]
		if h.follows(from) && !made {
			made = true
			for size, root := range h.roots {
				if size < from.size {
					add(tree{size, root})
				}
			}
		}
		for _, k := range h.joins {
			if k.new == from {
				add(k.old)
			}
		}
	}
	return found
}

// covers is the earliest moment at which a leaf was in a tree that enough witnesses cosigned.
func (h *history) covers(index uint64) (since time.Time, ok bool) {
	for _, r := range h.reach {
		if index >= r.size && !slices.Contains(h.under[index], r.tree) {
			continue
		}
		if !ok || r.since.Before(since) {
			since, ok = r.since, true
		}
	}
	return since, ok
}

// complete tells whether every leaf of the ledger is shown, up to a cosigned checkpoint and to the largest that the
// embassy signed: then what is not there is not there.
func (h *history) complete() (why string, ok bool) { return h.gap, h.gap == "" }

// missing says what keeps the ledger from being shown completely.
func (h *history) missing() string {
	best, lone := h.best(), false
	if best != nil {
		joined := h.beginnings(best.tree)
		lone = slices.ContainsFunc(h.says, func(s statement) bool { return s.own && !joined[s.tree] })
	}
	switch {
	case h.From > 0:
		return fmt.Sprintf("%s before the first one shown", leaves(h.From))
	case best == nil || best.size > h.anchored || !h.follows(best.tree):
		return "no checkpoint of the leaves shown is cosigned by enough witnesses"
	case best.size < h.largest():
		return fmt.Sprintf("a checkpoint of %s is signed, of which only %d are cosigned and shown", leaves(h.largest()), best.size)
	case lone:
		return "the embassy signed a checkpoint that does not join the leaves shown"
	case h.Withheld() > 0:
		return fmt.Sprintf("%s withheld", leaves(uint64(h.Withheld())))
	case h.unread > 0:
		return fmt.Sprintf("%s that cannot be read", leaves(uint64(h.unread)))
	}
	return ""
}

func (h *history) largest() (size uint64) {
	for _, s := range h.says {
		if s.own {
			size = max(size, s.size)
		}
	}
	return size
}
