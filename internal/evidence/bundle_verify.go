package evidence

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// Proven is what a bundle proves.
type Proven struct {
	Register string       `json:"register"` // id
	Snapshot uint64       `json:"snapshot"`
	Head     string       `json:"head"`    // SHA-256
	Agent    string       `json:"agent"`   // who signed it, by the charter's name
	Charter  uint64       `json:"charter"` // that the agent signed under
	Packs    uint64       `json:"packs"`   // that the snapshot added
	Need     int          `json:"need"`    // embassies that bring it back
	Sites    []SiteProven `json:"embassies"`
	Absent   []string     `json:"embassies_absent"`  // that hold the snapshot and are not in the file
	Earlier  []*Proven    `json:"earlier,omitempty"` // snapshots before it, rising without a gap, in a file that has them
}

// SiteProven is what a bundle proves of one embassy.
type SiteProven struct {
	Embassy    string     `json:"embassy"`
	Host       string     `json:"host"`
	Deliveries int        `json:"deliveries"`
	Objects    int        `json:"objects"`
	Gone       int        `json:"objects_gone"` // of an earlier snapshot, that are not proven: released since, or left out
	Lacked     bool       `json:"lacked"`       // the head says that it lacked objects when it was made
	Size       uint64     `json:"ledger_size"`
	Cosigned   bool       `json:"cosigned"`
	Groups     []string   `json:"cosigned_by"`     // countries that vouch for the last of its checkpoints
	Since      *time.Time `json:"since,omitempty"` // when enough others had seen all of it
	Why        string     `json:"why,omitempty"`   // why it is not cosigned
}

// bundleReader checks one bundle.
type bundleReader struct {
	c       *container
	charter *charter.Charter
	policy  *ledger.Policy
	noRules error // why there is no policy
	head    *snapshot.Head
	hash    [32]byte
	size    uint64 // of the head's document
	folder  string // of an earlier snapshot; empty for the one that the bundle is of
}

// siteReader checks one embassy's part.
type siteReader struct {
	*bundleReader
	embassy charter.Embassy
	v       note.Verifier // of the ledger that its first proof is of
	log     ledger.Log
	known   map[string]ledger.Checkpoint
	roots   map[uint64][32]byte
	wanted  map[[32]byte]bool // objects of deliveries; true once proven
	out     SiteProven
	since   time.Time
}

// VerifyBundle checks everything in a bundle against the charter alone: signatures, inclusion, what each leaf says,
// that every object of every delivery is there, and the witnesses' policy. It fails with ErrFormat, ErrForged or
// ErrTooLarge; or with ErrNotCosigned and the result, when all holds but for cosignatures, or an embassy is absent, or
// objects of earlier snapshots are.
func VerifyBundle(r io.ReaderAt, size int64, c *charter.Charter) (*Proven, error) {
	box, err := open(r, size)
	if err != nil {
		return nil, err
	}
	var earlier []*Proven
	var last *bundleReader
	var lacking error
	rest := box.entries
	for len(rest) > 0 {
		r := &bundleReader{c: box, charter: c}
		n := len(rest)
		if folder := earlierFolder.FindString(rest[0].name); folder != "" {
			r.folder = folder
			for n = 0; n < len(rest) && strings.HasPrefix(rest[n].name, folder); n++ {
			}
		}
		out, err := r.verify(rest[:n])
		if err != nil && !errors.Is(err, ErrNotCosigned) {
			return nil, err
		}
		if err := r.follows(last); err != nil {
			return nil, err
		}
		if last == nil && r.folder != "" && r.head.Sequence > 1 {
			err = errors.Join(fmt.Errorf("evidence: snapshots before %d are not in the file: %w", r.head.Sequence, ErrNotCosigned), err)
		}
		lacking = errors.Join(lacking, err)
		if last, rest = r, rest[n:]; r.folder == "" {
			out.Earlier = earlier
			return out, lacking
		}
		earlier = append(earlier, out)
	}
	return nil, fmt.Errorf("evidence: no head: %w", ErrFormat)
}

var earlierFolder = regexp.MustCompile(`^[0-9]{20}/`)

// follows checks that this snapshot is the next after the one before it in the file.
func (b *bundleReader) follows(before *bundleReader) error {
	switch {
	case b.folder != "" && b.folder != fmt.Sprintf(beforeFolder, b.head.Sequence):
		return fmt.Errorf("evidence: folder %s is of snapshot %d: %w", b.folder, b.head.Sequence, ErrFormat)
	case before == nil:
		return nil
	case b.head.Register != before.head.Register || b.head.Sequence != before.head.Sequence+1 || b.head.Previous != before.hash:
		return forged("snapshot %d of the file does not follow the one before it there", b.head.Sequence)
	}
	return nil
}

// verify checks the files of one snapshot.
func (b *bundleReader) verify(entries []entry) (*Proven, error) {
	var err error
	if b.policy, err = b.charter.Policy(); err != nil {
		b.policy, b.noRules = nil, err
	}
	out, err := b.readHead()
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(entries); {
		name, _ := b.split(entries[i].name)
		n := i
		for n < len(entries) && strings.HasPrefix(entries[n].name, b.folder+name+"/") {
			n++
		}
		if n == i && entries[i].name == b.folder+headFile {
			i++
			continue
		}
		if n == i {
			return nil, fmt.Errorf("evidence: file %s belongs to nothing: %w", entries[i].name, ErrFormat)
		}
		site, err := b.site(name, entries[i:n])
		if err != nil {
			return nil, fmt.Errorf("embassy %s: %w", name, err)
		}
		out.Sites = append(out.Sites, *site)
		i = n
	}
	return out, b.finish(out)
}

// split takes a file's name apart.
func (b *bundleReader) split(name string) (site, rest string) {
	return splitSite(strings.TrimPrefix(name, b.folder))
}

func forged(format string, args ...any) error {
	return fmt.Errorf("evidence: %s: %w", fmt.Sprintf(format, args...), ErrForged)
}

func (b *bundleReader) readHead() (*Proven, error) {
	e, ok := b.c.find(b.folder + headFile)
	if !ok || e.size > snapshot.MaxHead {
		return nil, fmt.Errorf("evidence: no head: %w", ErrFormat)
	}
	doc, err := b.c.read(e)
	if err != nil {
		return nil, err
	}
	if b.head, err = snapshot.ParseHead(doc); err == nil {
		err = b.head.Verify()
	}
	if err != nil {
		return nil, forged("%v", err)
	}
	b.hash, b.size = sha256.Sum256(doc), uint64(len(doc))
	agent, ok := b.charter.AgentByKey(b.head.Agent[:])
	if !ok || b.head.State != [16]byte(b.charter.State.ID) {
		return nil, forged("the head is signed by no agent of charter %d of state %s", b.charter.Number, b.charter.State.ID)
	}
	return &Proven{
		Register: hexOf(b.head.Register[:]), Snapshot: b.head.Sequence, Head: hexOf(b.hash[:]), Agent: agent.Name,
		Charter: b.head.CharterVersion, Packs: b.head.Packs, Need: int(b.head.K), Sites: []SiteProven{}, Absent: []string{},
	}, nil
}

// finish says who is absent and whether everyone who is there is cosigned.
func (b *bundleReader) finish(out *Proven) error {
	var why []string
	for _, id := range b.head.Members {
		e, ok := b.charter.EmbassyByID(id)
		if !ok {
			return forged("the head names an embassy %x that charter %d does not", id, b.charter.Number)
		}
		if !slices.ContainsFunc(out.Sites, func(s SiteProven) bool { return s.Embassy == e.Name }) {
			out.Absent = append(out.Absent, e.Name)
			why = append(why, e.Name+" is not in the file")
		}
	}
	for _, s := range out.Sites {
		if !s.Cosigned {
			why = append(why, s.Embassy+": "+s.Why)
		}
		if s.Gone > 0 {
			why = append(why, fmt.Sprintf("%s: %d objects are not proven: released since, or left out", s.Embassy, s.Gone))
		}
	}
	for i := range why {
		if b.folder != "" {
			why[i] = fmt.Sprintf("snapshot %d: %s", out.Snapshot, why[i])
		}
	}
	if len(why) > 0 {
		return fmt.Errorf("evidence: %s: %w", strings.Join(why, "; "), ErrNotCosigned)
	}
	return nil
}

// site checks the files of one embassy, which come as deliveries, head, objects.
func (b *bundleReader) site(name string, entries []entry) (*SiteProven, error) {
	e, ok := b.charter.EmbassyByName(name)
	if !ok || !slices.Contains(b.head.Members, [16]byte(e.ID)) {
		return nil, forged("charter %d and the head name no such embassy", b.charter.Number)
	}
	s := &siteReader{
		bundleReader: b, embassy: e, log: e.Log(), known: map[string]ledger.Checkpoint{}, roots: map[uint64][32]byte{}, wanted: map[[32]byte]bool{},
		out: SiteProven{Embassy: name, Host: e.Country, Cosigned: true, Groups: []string{}, Lacked: slices.Contains(b.head.Missing, [16]byte(e.ID))},
	}
	var err error
	headSeen := false
	for i := 0; i < len(entries); i++ {
		_, file := b.split(entries[i].name)
		part := s.out.Deliveries + 1
		switch {
		case !headSeen && file == fmt.Sprintf(deliveryFile, part) && i+1 < len(entries) && strings.HasSuffix(entries[i+1].name, "/"+fmt.Sprintf(deliveryProof, part)):
			err = s.delivery(&entries[i], &entries[i+1])
			i++
		case !headSeen && file == headProof:
			headSeen = true
			err = s.checkHead(&entries[i])
		case headSeen && strings.HasPrefix(file, "objects/"):
			err = s.object(&entries[i], file)
		default:
			err = fmt.Errorf("evidence: file %s belongs to nothing: %w", entries[i].name, ErrFormat)
		}
		if err != nil {
			return nil, err
		}
	}
	if !headSeen {
		return nil, forged("no proof of the head")
	}
	return s.end()
}

// leaf verifies one proof and returns the leaf that it proves.
func (s *siteReader) leaf(e *entry) (ledger.Leaf, error) {
	data, err := s.c.read(e)
	if err != nil {
		return ledger.Leaf{}, err
	}
	p, err := ledger.ParseProof(data)
	if err != nil {
		return ledger.Leaf{}, fmt.Errorf("%s: %w: %w", e.name, ErrFormat, err)
	}
	if _, ok := s.known[string(p.Checkpoint)]; !ok {
		if err := s.checkpoint(p.Checkpoint); err != nil {
			return ledger.Leaf{}, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if _, err := p.Verify(p.Extra, s.v); err != nil {
		return ledger.Leaf{}, forged("%s: %v", e.name, err)
	}
	leaf, err := ledger.ParseLeaf(p.Extra)
	if err != nil || leaf.State != s.head.State {
		return ledger.Leaf{}, forged("%s: not a leaf of this state's ledger: %v", e.name, err)
	}
	return leaf, nil
}

// checkpoint judges a checkpoint that is new.
func (s *siteReader) checkpoint(raw []byte) error {
	if s.v == nil {
		v, err := ledger.VerifierOf(raw, s.head.State, s.embassy.PublicKey())
		if err != nil {
			return forged("%v", err)
		}
		s.v, s.log.Origin = v, v.Name()
	}
	cp, err := ledger.ParseCheckpoint(raw, s.v)
	if err != nil {
		return forged("%v", err)
	}
	if root, ok := s.roots[cp.Size]; ok && root != cp.Root {
		return forged("the embassy signed two roots of %d leaves: keep this file, it convicts it", cp.Size)
	}
	s.known[string(raw)], s.roots[cp.Size] = cp, cp.Root
	s.out.Size = max(s.out.Size, cp.Size)
	if s.policy == nil {
		s.out.Cosigned, s.out.Why = false, s.noRules.Error()
		return nil
	}
	verdict, err := s.policy.Judge(raw, s.log)
	if err != nil {
		return forged("%v", err)
	}
	s.out.Groups = verdict.Groups
	if verdict.Time.After(s.since) {
		s.since = verdict.Time
	}
	if !verdict.Enough {
		s.out.Cosigned = false
		s.out.Why = fmt.Sprintf("a checkpoint is vouched for by %d of the %d groups needed", len(verdict.Groups), s.policy.Need)
	}
	return nil
}

func (s *siteReader) checkHead(e *entry) error {
	leaf, err := s.leaf(e)
	if err != nil {
		return err
	}
	if leaf.Kind != ledger.RecordStored || leaf.Slot != headSlot(s.head.Register, s.head.Sequence) || leaf.Name != s.hash || leaf.Size != s.size {
		return forged("%s: the leaf is not of this head", e.name)
	}
	return nil
}

func (s *siteReader) delivery(document, proof *entry) error {
	doc, err := s.c.read(document)
	if err != nil {
		return err
	}
	d, err := ledger.ParseDelivery(doc)
	if err == nil {
		err = d.Verify()
	}
	if err != nil {
		return forged("%s: %v", document.name, err)
	}
	_, ok := s.charter.AgentByKey(d.Agent[:])
	if !ok || d.State != s.head.State || d.Register != s.head.Register || d.Head != s.head.Sequence ||
		d.Embassy != [16]byte(s.embassy.ID) || int(d.Part) != s.out.Deliveries {
		return forged("%s: not this agent's delivery %d of this snapshot to this embassy", document.name, s.out.Deliveries+1)
	}
	leaf, err := s.leaf(proof)
	if err != nil {
		return err
	}
	if leaf.Kind != ledger.RecordStored || leaf.Slot != d.Slot() || leaf.Name != sha256.Sum256(doc) || leaf.Size != uint64(len(doc)) {
		return forged("%s: the leaf is not of this delivery", proof.name)
	}
	s.out.Deliveries++
	for _, o := range d.Objects {
		s.wanted[o] = false
	}
	return nil
}

func (s *siteReader) object(e *entry, file string) error {
	leaf, err := s.leaf(e)
	if err != nil {
		return err
	}
	proven, ok := s.wanted[leaf.Name]
	if leaf.Kind != ledger.ObjectStored || file != fmt.Sprintf(objectProof, leaf.Name) || !ok || proven {
		return forged("%s: the leaf is not of an object that a delivery names", e.name)
	}
	s.wanted[leaf.Name] = true
	s.out.Objects++
	return nil
}

// end sees that nothing is left out: each object of a delivery is proven, and the deliveries name an object of each
// pack that the snapshot added, unless the head says that this embassy lacked some.
func (s *siteReader) end() (*SiteProven, error) {
	if n := len(s.wanted) - s.out.Objects; n > 0 && s.folder != "" {
		s.out.Gone = n
	} else if n > 0 {
		return nil, forged("%d of %d objects that the deliveries name are not proven", n, len(s.wanted))
	}
	if !s.out.Lacked {
		if uint64(len(s.wanted)) < s.head.Packs {
			return nil, forged("the snapshot added %d packs, and the deliveries name %d objects", s.head.Packs, len(s.wanted))
		}
		share := slices.Index(s.head.Members, [16]byte(s.embassy.ID))
		for i := range s.head.Index {
			names := s.head.Index[i].Shares
			if share >= len(names) {
				return nil, forged("an index pack that the head names has no object for this embassy")
			}
			if _, named := s.wanted[names[share]]; !named {
				return nil, forged("an index pack that the head names is in no delivery")
			}
		}
	}
	if s.out.Cosigned && !s.since.IsZero() {
		since := s.since.UTC()
		s.out.Since = &since
	}
	return &s.out, nil
}
