package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
)

// collector gathers an evidence file. What embassies answer goes into the file as it comes: judging is for whoever
// reads it. Only what decides how much is fetched is looked at here.
type collector struct {
	*connection
	since     time.Time
	registers [][16]byte // whose documents are wanted; nil: all
	certified bool       // of these registers the records are wanted too
	records   map[[32]byte]bool
	pack      *evidence.Pack
}

// maxEvidence is how many leaves of one ledger are fetched.
const maxEvidence = 4 << 20

// collect fetches from the embassies named, or from all.
func (x *collector) collect(ctx context.Context, registers, embassies []string) (*evidence.Pack, []downJSON, error) {
	for _, name := range registers {
		r, err := x.home.Register(name)
		if err != nil {
			return nil, nil, err
		}
		x.registers = append(x.registers, r.Record.ID)
	}
	x.records = map[[32]byte]bool{}
	x.pack = &evidence.Pack{State: x.home.Charter.State.ID, Made: time.Now()}
	charters, err := x.home.Charters()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range charters {
		x.pack.Charters = append(x.pack.Charters, evidence.Charter{Document: c.Doc, Signatures: c.Sig})
	}
	var down []downJSON
	for _, e := range x.home.Charter.Embassies {
		if len(embassies) > 0 && !slices.Contains(embassies, e.Name) {
			continue
		}
		if err := x.ledger(ctx, e); err != nil {
			if ctx.Err() != nil {
				return nil, nil, context.Cause(ctx)
			}
			down = append(down, downJSON{e.Name, err.Error()})
		}
	}
	x.pack.Made = time.Now() // after everything in it
	return x.pack, down, nil
}

// ofAnother tells whether a leaf is of a register that is not wanted.
func (x *collector) ofAnother(l *ledger.Leaf) bool {
	kind := l.Slot.Kind
	of := kind == ledger.Head || kind == ledger.Register || kind == ledger.DeliveryRecord
	return x.registers != nil && of && !slices.Contains(x.registers, l.Slot.Register)
}

// gathering is one embassy's ledger while it is collected.
type gathering struct {
	*collector
	ctx     context.Context
	embassy charter.Embassy
	client  *embassy.Client
	out     evidence.Ledger
	size    uint64 // of the tree that is fetched
	newest  ledger.Checkpoint
	bundle  [][]byte
	have    uint64
	before  []evidence.Ledger // that the embassy kept before: what others saw of them
	kept    []keptReceipt     // by home, one of each checkpoint
	wanted  map[uint64]bool   // sizes of their trees
}

// ledger collects one embassy's ledger. When the embassy does not answer, what others saw of it is kept all the same.
func (x *collector) ledger(ctx context.Context, e charter.Embassy) error {
	s := &gathering{collector: x, ctx: ctx, embassy: e, client: x.client(e), have: ^uint64(0)}
	s.out = evidence.Ledger{Name: e.Name, Key: e.PublicKey(), Origin: e.Origin}
	s.elsewhere()
	newest, failed := s.own()
	if failed == nil {
		failed = s.fetch(newest)
	}
	if failed != nil {
		s.out.From, s.out.Prefix, s.out.Leaves, s.out.Joins = 0, nil, nil, nil
	}
	if len(s.out.Checkpoints) > 0 {
		x.pack.Ledgers = append(x.pack.Ledgers, s.out)
	}
	x.pack.Ledgers = append(x.pack.Ledgers, s.before...)
	return failed
}

// keep takes a checkpoint, also one of a ledger that the embassy kept before the one in force.
func (s *gathering) keep(from string, note []byte) {
	line, _, _ := strings.Cut(string(note), "\n")
	c := evidence.Checkpoint{Source: from, Note: note}
	if _, _, err := ledger.SplitSignatures(note); err != nil || !ledger.OriginBelongs(line, [16]byte(s.pack.State), s.out.Key) {
		return
	}
	if line == s.out.Origin {
		s.out.Checkpoints = append(s.out.Checkpoints, c)
		return
	}
	i := slices.IndexFunc(s.before, func(l evidence.Ledger) bool { return l.Origin == line })
	if i < 0 {
		i = len(s.before)
		s.before = append(s.before, evidence.Ledger{Name: evidence.Label(s.embassy, line), Key: s.out.Key, Origin: line})
	}
	s.before[i].Checkpoints = append(s.before[i].Checkpoints, c)
}

// origins are those of the embassy's ledgers, by the charters.
func (s *gathering) origins() []string {
	out := []string{s.embassy.Origin}
	for _, raw := range s.pack.Charters {
		c, err := charter.Parse(raw.Document)
		if err != nil {
			continue
		}
		if e, ok := c.EmbassyByID(s.embassy.ID); ok && !slices.Contains(out, e.Origin) {
			out = append(out, e.Origin)
		}
	}
	return out
}

// elsewhere collects the checkpoints that home kept, also those it was told to forget, and that the other embassies saw.
func (s *gathering) elsewhere() {
	if raw, err := s.home.Ledger(s.embassy.Name); err == nil && raw != nil {
		s.keep("home", raw)
	}
	before, _ := filepath.Glob(s.home.LedgerFile(s.embassy.Name) + ".until-*") // the pattern is good
	for _, path := range before {
		if raw, err := os.ReadFile(path); err == nil {
			s.keep("home-before", raw)
		}
	}
	for _, e := range s.home.Charter.Embassies {
		if e.ID == s.embassy.ID {
			continue
		}
		for _, origin := range s.origins() {
			if raw, err := s.collector.client(e).Seen(s.ctx, origin); err == nil {
				s.keep(e.Name, raw)
			}
		}
	}
}

// own collects the embassy's own newest checkpoints and says how far to fetch: to the cosigned one, or, where a larger one
// is known, to all that the embassy shows, which continues that or denies it.
func (s *gathering) own() (ledger.Checkpoint, error) {
	live, err := s.client.Checkpoint(s.ctx)
	if err != nil {
		return live, err
	}
	v, err := ledger.NewVerifier(s.embassy.Origin, s.embassy.PublicKey())
	if err != nil {
		return live, err
	}
	raw, err := s.cosigned(v, live.Size)
	if errors.Is(err, embassy.ErrNotFound) {
		s.keep("live", live.Raw)
		return live, nil
	}
	if err != nil {
		return live, err
	}
	cosigned, err := ledger.ParseCheckpoint(raw, v)
	if err != nil {
		return live, err
	}
	s.keep("live", raw)
	newest := cosigned
	for _, c := range s.out.Checkpoints {
		if cp, err := ledger.ParseCheckpoint(c.Note, v); err == nil && cp.Size > newest.Size {
			newest = live
		}
	}
	if _, err := s.client.Consistency(s.ctx, cosigned, live); err != nil && live.Size > cosigned.Size {
		newest = live // it holds to another history than the one that was cosigned
	}
	if newest.Size != cosigned.Size || newest.Root != cosigned.Root {
		s.keep("live", newest.Raw)
	}
	return newest, nil
}

// cosignTime is how long an embassy is given to have its newest checkpoint cosigned, which takes it about a second, on
// machines that are busy many.
const cosignTime = 20 * time.Second

// cosigned waits a little for a cosigned checkpoint of so many leaves, and returns the newest there is.
func (s *gathering) cosigned(v note.Verifier, size uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, cosignTime)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, err := s.client.Cosigned(s.ctx)
		if err == nil {
			cp, perr := ledger.ParseCheckpoint(raw, v)
			if perr != nil || cp.Size >= size {
				return raw, perr
			}
		} else if !errors.Is(err, embassy.ErrNotFound) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return raw, err
		case <-tick.C:
		}
	}
}

// fetch collects the leaves of a tree, from the first one wanted, and the documents that they name.
func (s *gathering) fetch(newest ledger.Checkpoint) error {
	s.size, s.newest = newest.Size, newest
	s.receiptsKept()
	from, err := s.from()
	if err != nil {
		return err
	}
	if from, err = s.join(newest, from); err != nil {
		return err
	}
	s.out.From = from
	if s.out.Prefix, err = s.prefix(from); err != nil {
		return err
	}
	if s.size-from > maxEvidence {
		return &failure{err: fmt.Errorf("%d leaves, at most %d fit into a file", s.size-from, maxEvidence), code: exitUsage, hint: "name a later beginning: --since"}
	}
	tree, err := ledger.NewTree(from, s.out.Prefix)
	if err != nil {
		return err
	}
	roots := map[uint64][32]byte{from: tree.Root()}
	for i := from; i < s.size; i++ {
		data, err := s.leaf(i)
		if err != nil {
			return err
		}
		s.out.Leaves = append(s.out.Leaves, evidence.NewLeaf(data))
		tree.Append(ledger.LeafHash(data))
		if s.wanted[i+1] {
			roots[i+1] = tree.Root()
		}
		if leaf, err := ledger.ParseLeaf(data); err == nil && leaf.Kind == ledger.RecordStored {
			s.document(&leaf)
		}
	}
	s.contradicting(roots)
	return nil
}

// from finds the first leaf that is not older than wanted, by the embassy's clock.
func (s *gathering) from() (uint64, error) {
	if s.since.IsZero() {
		return 0, nil
	}
	var failed error
	n := sort.Search(int(s.size), func(i int) bool {
		data, err := s.leaf(uint64(i))
		if err != nil {
			failed = err
			return true
		}
		leaf, err := ledger.ParseLeaf(data)
		return err != nil || leaf.Time >= s.since.UnixNano()
	})
	return uint64(n), failed
}

// join proves that the checkpoints that end before the leaves wanted are of the same history. Where there is no such
// proof, leaves are fetched from there on: they tell.
func (s *gathering) join(newest ledger.Checkpoint, from uint64) (uint64, error) {
	v, err := ledger.NewVerifier(s.embassy.Origin, s.embassy.PublicKey())
	if err != nil {
		return 0, err
	}
	for _, c := range s.out.Checkpoints {
		cp, err := ledger.ParseCheckpoint(c.Note, v)
		if err != nil || cp.Size >= from || cp.Size == 0 {
			continue
		}
		proof, err := s.client.Consistency(s.ctx, cp, newest)
		if err != nil {
			from = cp.Size
			continue
		}
		s.out.Joins = append(s.out.Joins, evidence.Join{Old: cp.Size, New: newest.Size, Proof: proof})
	}
	return from, nil
}

// leaf returns one entry; a bundle of them is fetched at a time.
func (s *gathering) leaf(i uint64) ([]byte, error) {
	n := i / layout.EntryBundleWidth
	if n != s.have {
		data, err := s.client.Tile(s.ctx, layout.EntriesPath(n, layout.PartialTileSize(0, n, s.size)))
		if err != nil {
			return nil, err
		}
		if s.bundle, err = ledger.SplitBundle(data); err != nil {
			return nil, err
		}
		s.have = n
	}
	if at := i % layout.EntryBundleWidth; at < uint64(len(s.bundle)) {
		return s.bundle[at], nil
	}
	return nil, fmt.Errorf("%w: entry %d of %d is not there", embassy.ErrForged, i, s.size)
}

// prefix computes the roots of the whole trees before a leaf, the largest first, out of tiles.
func (s *gathering) prefix(from uint64) ([][32]byte, error) {
	var stack [][32]byte
	at := uint64(0)
	for level := 60; level >= 0; level-- {
		if from>>level&1 == 0 {
			continue
		}
		tile, row := uint64(level/layout.TileHeight), level%layout.TileHeight
		first := at >> (uint64(layout.TileHeight) * tile) // among the hashes of the tile's level
		n := first / layout.TileWidth
		data, err := s.client.Tile(s.ctx, layout.TilePath(tile, n, layout.PartialTileSize(tile, n, s.size)))
		if err != nil {
			return nil, err
		}
		start := int(first%layout.TileWidth) * sha256.Size
		end := start + sha256.Size<<row
		if end > len(data) {
			return nil, fmt.Errorf("%w: a tile of %d bytes", embassy.ErrForged, len(data))
		}
		var t ledger.Tree // of what the tile holds, as if these hashes were leaves
		for ; start < end; start += sha256.Size {
			t.Append([32]byte(data[start:]))
		}
		stack = append(stack, t.Root())
		at += 1 << level
	}
	return stack, nil
}

// keptReceipt is a receipt that home took, and the tree that its checkpoint is of.
type keptReceipt struct {
	proof ledger.Proof
	cp    ledger.Checkpoint
}

// maxKept is how many files of receipts, the newest of each register, are looked through.
const maxKept = 256

// receipts goes through those that home took of this embassy, unverified. They are what convicts it, should it deny later.
func (s *gathering) receipts(do func(*ledger.Receipt)) {
	files, _ := filepath.Glob(filepath.Join(s.home.Dir, "registers", "*", "receipts", s.embassy.Name, "*")) // the pattern is good
	for _, path := range files[max(0, len(files)-maxKept):] {
		data, err := os.ReadFile(path)
		for err == nil && len(data) > 4 {
			n := binary.BigEndian.Uint32(data)
			if uint64(n) > uint64(len(data)-4) {
				break
			}
			if r, rerr := ledger.ParseReceipt(data[4 : 4+n]); rerr == nil {
				do(&r)
			}
			data = data[4+n:]
		}
	}
}

// receiptsKept takes one receipt of each checkpoint.
func (s *gathering) receiptsKept() {
	s.wanted = map[uint64]bool{}
	v, err := ledger.NewVerifier(s.embassy.Origin, s.embassy.PublicKey())
	if err != nil {
		return
	}
	known := map[string]bool{}
	s.receipts(func(r *ledger.Receipt) {
		if known[string(r.Checkpoint)] {
			return
		}
		if _, cp, err := r.Verify(v); err == nil {
			known[string(r.Checkpoint)], s.wanted[cp.Size] = true, true
			s.kept = append(s.kept, keptReceipt{proofOf(r), cp})
		}
	})
}

func proofOf(r *ledger.Receipt) ledger.Proof {
	return ledger.Proof{Extra: r.Leaf, Index: r.Index, Path: r.Proof, Checkpoint: r.Checkpoint}
}

// contradicting puts those receipts into the file whose checkpoint is not of the history that the embassy shows now. Of a
// checkpoint that is larger than what it shows, the receipt of a leaf in whose place it now has another is proof.
func (s *gathering) contradicting(roots map[uint64][32]byte) {
	larger := map[string]int{} // checkpoint -> place in the file's proofs
	for _, k := range s.kept {
		root, ok := roots[k.cp.Size]
		if k.cp.Size > s.size {
			larger[string(k.proof.Checkpoint)] = len(s.out.Proofs)
		}
		if ok && root != k.cp.Root || k.cp.Size > s.size {
			s.out.Proofs = append(s.out.Proofs, k.proof)
		}
	}
	if len(larger) == 0 {
		return
	}
	s.receipts(func(r *ledger.Receipt) {
		at, ok := larger[string(r.Checkpoint)]
		if ok && r.Index >= s.out.From && r.Index < s.size && ledger.LeafHash(r.Leaf) != s.out.Leaves[r.Index-s.out.From].Hash {
			s.out.Proofs[at] = proofOf(r) // whether it holds is for whoever judges the file
		}
	})
}

// document fetches what a leaf names, once, if it proves something to others and is wanted. What cannot be had is
// absent, and whoever judges the file sees that.
func (s *gathering) document(l *ledger.Leaf) {
	switch l.Slot.Kind {
	case ledger.Head, ledger.DeliveryRecord, ledger.Audit, ledger.Scrub, ledger.OrderRecord, ledger.VetoRecord, ledger.ResultRecord,
		ledger.AgreementRecord, ledger.AttestationRecord:
	case ledger.Register:
		if !s.certified {
			return
		}
	default:
		return
	}
	if s.records[l.Name] || s.ofAnother(l) {
		return
	}
	doc, err := s.client.GetRecord(s.ctx, l.Slot)
	if err == nil && sha256.Sum256(doc) == l.Name {
		s.records[l.Name] = true
		s.pack.Records = append(s.pack.Records, evidence.Record{Kind: l.Slot.Kind, Data: doc})
		s.attachments(l, doc)
		s.moments(l)
	}
}
