package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/witness"
)

// Where the end of a stream must be proven, what an embassy lists is held against its ledger: the newest tree that the
// witnesses let it show, from shortly before the last stretch on.

const (
	treeTime = time.Minute     // to learn how far others saw a ledger
	tailTime = 5 * time.Minute // to read its end
	maxTail  = 1 << 20         // leaves that are read of one ledger: 200 MiB at most as honest embassies write them
)

// withheldFolder is beside a register's other files: proofs that an embassy holds what it does not show.
const withheldFolder = "withheld"

// holdLedgers has a register's embassies held against their ledgers. Proofs are kept in dir. With stale a ledger counts
// also where nobody vouches for it.
func holdLedgers(reg *register.Register, ch *charter.Charter, client func(charter.Embassy) *embassy.Client, key ed25519.PrivateKey, stale bool, dir string) {
	clients := map[charter.EmbassyID]*embassy.Client{} // used from several sides, so all are made before
	for _, e := range ch.Embassies {
		clients[e.ID] = client(e)
	}
	v := &vantage{charter: ch, client: func(e charter.Embassy) *embassy.Client { return clients[e.ID] }, key: key}
	for i := range reg.Members {
		if e, ok := ch.EmbassyByID(reg.Members[i].ID); ok {
			reg.Members[i].Ledger = &openTail{
				vantage: v, embassy: e, stale: stale, register: reg.Name, dir: dir, read: map[tailOf]tailRead{},
			}
		}
	}
}

// staleFlag gives a command --accept-stale, for the newest snapshot and for what a cluster's log ends with.
func staleFlag(c *cobra.Command, stale *bool) {
	c.Flags().BoolVar(stale, "accept-stale", false,
		"take what embassies show for the newest, and the end of a cluster's log for its end, although their ledgers say more or nobody vouches for them")
}

// openTail is an embassy's ledger for the archive.
type openTail struct {
	vantage  *vantage
	embassy  charter.Embassy
	stale    bool
	register string
	dir      string // for proofs

	mu   sync.Mutex
	read map[tailOf]tailRead
}

// tailOf is what of a ledger is looked at.
type tailOf struct {
	kind     ledger.RecordKind
	register [16]byte
}

// tailRead is what was read of it: from a leaf up to a checkpoint there is no record of a higher number, and these of the
// objects that were looked for.
type tailRead struct {
	from    uint64
	last    uint64
	cp      ledger.Checkpoint
	objects map[shard.Name]bool
}

// covers reports whether what was read is a beginning of what is to be read from a leaf up to a checkpoint.
func (r *tailRead) covers(from uint64, look *register.Look, cp *ledger.Checkpoint) bool {
	for _, name := range look.Objects {
		if _, asked := r.objects[name]; !asked {
			return false
		}
	}
	return r.cp.Size > 0 && r.from <= from && r.last <= look.Last && r.cp.Size <= cp.Size
}

// seen is what was read, as the answer to a look.
func (r *tailRead) seen(look *register.Look) *register.Seen {
	s := &register.Seen{Stored: make([]bool, len(look.Objects))}
	for i, name := range look.Objects {
		s.Stored[i] = r.objects[name]
	}
	return s
}

// Tree is register.Ledger. A ledger that was never cosigned may just have begun, and is waited for a little.
func (o *openTail) Tree(ctx context.Context) (register.Tree, error) {
	ctx, cancel := context.WithTimeout(ctx, treeTime)
	defer cancel()
	policy, err := o.vantage.charter.Policy()
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); ; {
		f, cp, err := o.vantage.look(ctx, o.embassy, policy)
		if err != nil {
			return nil, err
		}
		unvouched := f.Outcome == witness.Uncosigned || f.Outcome == witness.Stale
		if f.Outcome == witness.Fresh || o.stale || unvouched && o.vantage.charter.Version < 2 {
			return &tailTree{o, cp}, nil
		}
		if f.Outcome != witness.Uncosigned || time.Since(begun) > cosignTime {
			return nil, fmt.Errorf("%w: %s", errStale, f.Why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s", errStale, f.Why)
		}
	}
}

// tailTree is one state of the ledger.
type tailTree struct {
	*openTail
	cp ledger.Checkpoint
}

// Beyond is register.Tree. What was read for an earlier answer is not read again: the ledger is shown to continue it.
func (t *tailTree) Beyond(ctx context.Context, look register.Look) (*register.Seen, error) {
	ctx, cancel := context.WithTimeout(ctx, tailTime)
	defer cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	var from uint64
	since := look.Since != ledger.Slot{}
	if since {
		receipts, err := t.client().Receipts(ctx, nil, []ledger.Slot{look.Since})
		if err != nil {
			return nil, err
		}
		if from = receipts[0].Index; from >= t.cp.Size {
			return nil, errors.New("it was given the records only now")
		}
	}
	what := tailOf{look.Kind, look.Of}
	known, start := t.read[what], from
	if known.covers(from, &look, &t.cp) {
		start = known.cp.Size
	} else {
		known = tailRead{from: from, objects: map[shard.Name]bool{}}
		for _, name := range look.Objects {
			known.objects[name] = false
		}
	}
	if n := t.cp.Size - start; n > maxTail {
		return nil, fmt.Errorf("%d leaves would have to be read, and at most %d are", n, uint64(maxTail))
	}
	var found *register.Entered
	stored := maps.Clone(known.objects) // an answer that fails leaves what was read before as it was
	err := auditor.Tail(ctx, t.source(ctx), t.cp, known.cp, start, func(index uint64, leaf *ledger.Leaf, _ []byte) error {
		if since && index == from && (leaf == nil || leaf.Kind != ledger.RecordStored || leaf.Slot != look.Since) {
			return fmt.Errorf("leaf %d is another than its receipt says: %w", index, ledger.ErrForked)
		}
		if leaf != nil && leaf.Kind == ledger.ObjectStored {
			if name := shard.Name(leaf.Name); !stored[name] {
				if _, asked := stored[name]; asked {
					stored[name] = true
				}
			}
		}
		if leaf == nil || leaf.Kind != ledger.RecordStored || leaf.Slot.Kind != look.Kind || leaf.Slot.Register != look.Of || leaf.Slot.Sequence <= look.Last {
			return nil
		}
		found = &register.Entered{Slot: leaf.Slot, Hash: leaf.Name, Leaf: index}
		return errFound
	})
	next := tailRead{known.from, look.Last, t.cp, stored}
	seen := next.seen(&look)
	if errors.Is(err, errFound) {
		seen.Record = found
		return seen, nil
	}
	if err != nil {
		return nil, err
	}
	t.read[what] = next
	return seen, nil
}

// errFound ends a look that found something.
var errFound = errors.New("found")

// Keep is register.Tree: it writes a C2SP tlog-proof, with the leaf as its extra data.
func (t *tailTree) Keep(ctx context.Context, e *register.Entered) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, treeTime)
	defer cancel()
	entry, err := auditor.Show(ctx, t.source(ctx), t.embassy.Log(), e.Leaf)
	if err != nil {
		return "", err
	}
	if err := durable.MkdirAll(t.dir, 0o700); err != nil {
		return "", err
	}
	r := &entry.Receipt
	proof := ledger.Proof{Extra: r.Leaf, Index: r.Index, Path: r.Proof, Checkpoint: r.Checkpoint}
	path := filepath.Join(t.dir, fmt.Sprintf("%s-%s-%s-%d.tlog-proof", t.register, t.embassy.Name, e.Slot.Kind, e.Slot.Sequence))
	return path, durable.WriteFile(path, proof.Bytes(), 0o600) // a crash leaves the file whole or not there
}

func (t *tailTree) client() *embassy.Client { return t.vantage.client(t.embassy) }

func (t *tailTree) source(ctx context.Context) auditor.Source {
	return treeSource{liveLedger{ctx, t.client()}, t.cp.Raw}
}

// treeSource is a live ledger at one of its checkpoints.
type treeSource struct {
	liveLedger
	checkpoint []byte
}

// Checkpoint is auditor.Source.
func (s treeSource) Checkpoint() ([]byte, error) { return s.checkpoint, nil }
