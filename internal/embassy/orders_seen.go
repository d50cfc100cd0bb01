package embassy

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// An embassy shows its newest cosigned checkpoint alone, and how long an order
// waited can be shown by older ones only. So four of them stay in the order's
// folder, one for each of these moments.
const (
	seenBefore = "before" // the newest when the order was entered
	seenLogged = "logged" // the first known that covers the order's record
	seenActing = "acting" // the newest when it began to remove
	seenEnded  = "ended"  // the first known that covers its result
)

// seenSpread is how much later than it counts a checkpoint may have been cosigned
// by others, for an order to wait until nobody can doubt that it waited.
const seenSpread = 15 * time.Minute

func (b *orders) seenFile(sequence uint64, moment string) string {
	return filepath.Join(b.folder(sequence), "cosigned-"+moment)
}

// keepSeen keeps the newest cosigned checkpoint for a moment of an order. What
// fails costs a proof and not the order. A crash leaves the file or none.
func (b *orders) keepSeen(sequence uint64, moment string) (raw []byte) {
	k := b.st.notary.cosigned()
	if k.size == 0 {
		return nil
	}
	err := durable.MkdirAll(b.folder(sequence), folderPerm)
	if err == nil {
		err = durable.WriteFile(b.seenFile(sequence, moment), k.raw, filePerm)
	}
	if err != nil {
		b.log.Error("the checkpoint that proves how long an order waited is not on disk", "order", sequence, "err", err)
		return nil
	}
	return k.raw
}

// readSeen reads what was kept; nil where there is none of this ledger.
func (b *orders) readSeen(sequence uint64, moment string) (ledger.Checkpoint, []byte) {
	raw, err := readFile(b.seenFile(sequence, moment), maxNote)
	if err != nil {
		return ledger.Checkpoint{}, nil
	}
	cp, err := ledger.ParseCheckpoint(raw, b.st.journal.verifier)
	if err != nil { // of the ledger before this one
		return ledger.Checkpoint{}, nil
	}
	return cp, raw
}

// lastCosigned is when the last of the charter's witnesses cosigned a note, as
// whoever doubts one of them counts.
func (b *orders) lastCosigned(cp ledger.Checkpoint) (last time.Time) {
	policy, err := b.st.inForce().charter.Policy()
	if err != nil {
		return last
	}
	found, err := ledger.Cosignatures(cp, keysOf(policy))
	if err != nil {
		return last
	}
	for _, c := range found {
		if c.Time.After(last) {
			last = c.Time
		}
	}
	return last
}

// recallSeen reads, at start, what was kept of an order, and what is still to be.
func (b *orders) recallSeen(x *ordered, resultLeaf uint64) {
	if x.result == nil {
		if cp, raw := b.readSeen(x.sequence, seenLogged); raw != nil {
			x.seen = b.lastCosigned(cp)
		}
		return
	}
	if k, _ := order.KindOf(x.order.Kind); k.Destroys && x.result.Outcome == order.OutcomeDone {
		if _, raw := b.readSeen(x.sequence, seenEnded); raw == nil {
			b.trailing = append(b.trailing, trailing{x.sequence, resultLeaf})
		}
	}
}

// trailing is an order that is done, and no cosigned checkpoint says so yet.
type trailing struct{ sequence, leaf uint64 }

// lookSeen keeps what has come to be cosigned of open orders and of results.
func (b *orders) lookSeen() {
	size := b.st.notary.cosigned().size
	for _, x := range b.open() {
		b.mu.RLock()
		known := !x.seen.IsZero()
		b.mu.RUnlock()
		if known || size <= x.leaf {
			continue
		}
		raw := b.keepSeen(x.sequence, seenLogged)
		if cp, err := ledger.ParseCheckpoint(raw, b.st.journal.verifier); err == nil {
			b.mu.Lock()
			x.seen = b.lastCosigned(cp)
			b.mu.Unlock()
		}
	}
	b.mu.Lock()
	waiting := b.trailing
	b.trailing = slices.DeleteFunc(slices.Clone(waiting), func(t trailing) bool { return t.leaf < size })
	b.mu.Unlock()
	for _, t := range waiting {
		if t.leaf < size {
			b.keepSeen(t.sequence, seenEnded)
		}
	}
}

// spread is how much longer an order waits, so that what is kept of its record
// proves that it waited. It is called with mu held.
func (x *ordered) spread(covered time.Time) time.Duration {
	if d := x.seen.Sub(covered); !x.seen.IsZero() && d > 0 && d <= seenSpread {
		return d
	}
	return 0
}

// getSeen sends a checkpoint that was kept of an order.
func (s *Server) getSeen(q *session) error {
	b, moment := q.state.orders, q.r.PathValue("moment")
	x := b.find(q.r.PathValue("order"))
	if x == nil || !slices.Contains(OrderMoments(), moment) {
		return notFound("checkpoint")
	}
	raw, err := readFile(b.seenFile(x.sequence, moment), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("checkpoint")
	}
	if err != nil {
		return err
	}
	return q.w.raw(http.StatusOK, "text/plain; charset=utf-8", raw)
}

// OrderMoments are the moments of an order of which an embassy keeps a cosigned checkpoint, in their order.
func OrderMoments() []string { return []string{seenBefore, seenLogged, seenActing, seenEnded} }

// OrderCosigned returns the cosigned checkpoint that the embassy kept of one moment of an order, as it is: whose it is and
// what it is worth is for the caller to judge. ErrNotFound: it has none.
func (c *Client) OrderCosigned(ctx context.Context, order, moment string) ([]byte, error) {
	var out []byte
	err := c.do(ctx, &call{
		op: "fetch a checkpoint of order " + order, method: http.MethodGet,
		path: "orders/" + url.PathEscape(order) + "/cosigned/" + url.PathEscape(moment), reply: maxNote,
		accept: func(_ *http.Response, body io.Reader) error {
			var err error
			out, err = io.ReadAll(body)
			return err
		},
	})
	return out, err
}
