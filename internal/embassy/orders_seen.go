package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

// An embassy shows its newest cosigned checkpoint alone, and who served when an
// order was logged, and how long it waited, can be shown by older ones only. So
// four of them stay in the order's folder, one for each of these moments. What
// removes begins only when those are on disk that prove that it waited.
const (
	seenBefore = "before" // the newest when the order was entered
	seenLogged = "logged" // the first known that covers the order's record
	seenActing = "acting" // the newest when it began to remove
	seenEnded  = "ended"  // the first known that covers its result
)

// moments are those of which a checkpoint is on disk, in the order of OrderMoments.
type moments [4]bool

func (m *moments) has(moment string) bool { return m[slices.Index(OrderMoments(), moment)] }

func (m *moments) set(moment string) { m[slices.Index(OrderMoments(), moment)] = true }

func (m *moments) names() (names []string) {
	for i, moment := range OrderMoments() {
		if m[i] {
			names = append(names, moment)
		}
	}
	return names
}

// seenSpread is how much later than others a witness may have cosigned a checkpoint, for
// an order to wait until nobody can doubt that it waited. One whose clock runs
// further ahead holds no order up; how long it waited may then not be shown.
const seenSpread = 15 * time.Minute

func (b *orders) seenFile(sequence uint64, moment string) string {
	return filepath.Join(b.folder(sequence), "cosigned-"+moment)
}

// keepSeen keeps a cosigned checkpoint for a moment of an order. A crash leaves
// the file or none.
func (b *orders) keepSeen(x *ordered, moment string, k kept) error {
	if err := durable.MkdirAll(b.folder(x.sequence), folderPerm); err != nil {
		return err
	}
	if err := durable.WriteFile(b.seenFile(x.sequence, moment), k.raw, filePerm); err != nil {
		return fmt.Errorf("embassy: order %d: the checkpoint that proves how long it waited is not on disk: %w", x.sequence, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	x.moments.set(moment)
	if moment == seenLogged {
		x.seen = b.lastCosigned(k)
	}
	return nil
}

// readSeen reads what was kept; size 0 where there is none of this ledger.
func (b *orders) readSeen(sequence uint64, moment string) kept {
	raw, err := readFile(b.seenFile(sequence, moment), maxNote)
	if err != nil {
		return kept{}
	}
	cp, err := ledger.ParseCheckpoint(raw, b.st.journal.verifier)
	if err != nil { // of the ledger before this one
		return kept{}
	}
	return kept{raw: raw, size: cp.Size}
}

// lastCosigned is when the last of the charter's witnesses cosigned a note, as
// whoever doubts one of them counts; and where that one's clock is far ahead, the
// time that enough of them vouch for.
func (b *orders) lastCosigned(k kept) time.Time {
	last := k.time
	policy, err := b.st.inForce().charter.Policy()
	if err != nil {
		return last
	}
	cp, err := ledger.ParseCheckpoint(k.raw, b.st.journal.verifier)
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
	if last.Sub(k.time) > seenSpread {
		return k.time
	}
	return last
}

// recallSeen reads, at start, what was kept of an order, and notes what is still to be.
func (b *orders) recallSeen(x *ordered) {
	for _, moment := range OrderMoments() {
		k := b.readSeen(x.sequence, moment)
		if k.size == 0 || moment == seenLogged && k.size <= x.leaf || moment == seenEnded && (x.result == nil || k.size <= x.ended) {
			continue
		}
		if moment == seenLogged && x.result == nil {
			k, err := b.st.notary.judge(ledger.Checkpoint{Raw: k.raw, Size: k.size})
			if err != nil || k.size == 0 { // the witnesses are others by now: one of theirs is kept instead
				continue
			}
			x.seen = b.lastCosigned(k)
		}
		x.moments.set(moment)
	}
	b.unseen = append(b.unseen, x)
}

// lookSeen keeps what has come to be cosigned of orders and of their results. An
// order leaves the list when both are; what fails is tried again at the next look.
func (b *orders) lookSeen() error {
	b.mu.RLock()
	list := slices.Clone(b.unseen)
	b.mu.RUnlock()
	var failed error
	for _, x := range list {
		k := b.st.notary.cosigned()
		b.mu.RLock()
		logged := !x.moments.has(seenLogged) && k.size > x.leaf
		ended := x.result != nil && !x.moments.has(seenEnded) && k.size > x.ended
		b.mu.RUnlock()
		if logged {
			failed = errors.Join(failed, b.keepSeen(x, seenLogged, k))
		}
		if ended {
			failed = errors.Join(failed, b.keepSeen(x, seenEnded, k))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unseen = slices.DeleteFunc(b.unseen, func(x *ordered) bool { return x.moments.has(seenLogged) && x.moments.has(seenEnded) })
	return failed
}

// waited makes it durable that an order that removes has waited until a moment:
// a checkpoint of its record is kept already, and now the newest one is, which
// holds no removal and was cosigned no sooner. It is false while there is none yet.
func (b *orders) waited(x *ordered, until time.Time) (bool, error) {
	b.mu.RLock()
	logged := x.moments.has(seenLogged)
	b.mu.RUnlock()
	k := b.st.notary.cosigned()
	if !logged || k.size == 0 || k.time.Before(until) {
		return false, nil
	}
	return true, b.keepSeen(x, seenActing, k)
}

// spread is how much longer an order waits, so that what is kept of its record
// proves that it waited. It is called with mu held.
func (x *ordered) spread(covered time.Time) time.Duration {
	if x.seen.IsZero() {
		return 0
	}
	return max(0, x.seen.Sub(covered))
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
