package embassy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/peer"
)

// An order carries its own authority, so anyone may bring one. Whoever the state's
// charter does not name gets one answer for all that is not good, whether or not
// the state is here: what was sent is read alike, and nothing of it is answered.

const (
	maxStrangers  = 4 // who bring orders and are not known, at work at once
	strangersRate = 4 // of them a second, over all states
	ordersAtWork  = 4 // of one state's own
)

// postOrder takes an order; body is the order's record and what travels with it.
func (s *Server) postOrder(w *reply, r *http.Request) error {
	return s.bring(w, r, func(q *session, rec *order.Record, more func() ([][]byte, error)) (int, any, error) {
		x, created, err := q.state.orders.take(r.Context(), rec, more)
		if err != nil {
			return 0, nil, err
		}
		status := http.StatusOK
		if created {
			status = http.StatusCreated
		}
		return status, q.state.orders.show(x, false), nil
	})
}

// postVeto takes a veto of an order that is named by its sequence or hash.
func (s *Server) postVeto(w *reply, r *http.Request) error {
	return s.bring(w, r, func(q *session, rec *order.Record, _ func() ([][]byte, error)) (int, any, error) {
		x := q.state.orders.find(r.PathValue("order"))
		if x == nil {
			return 0, nil, against("there is no such order")
		}
		if err := q.state.orders.takeVeto(r.Context(), x, rec); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, q.state.orders.show(x, false), nil
	})
}

// bring reads what anyone brings and lets do judge it.
func (s *Server) bring(w *reply, r *http.Request, do func(*session, *order.Record, func() ([][]byte, error)) (int, any, error)) error {
	stranger := refused("this key is not known here")
	key := peer.Key(r.TLS)
	if key == nil {
		return stranger
	}
	st := s.states[r.PathValue("state")]
	known := st != nil && st.knows(key)
	slots := s.strangers
	if known {
		slots = st.bringers
	}
	if !known && !s.strange.allow() {
		return busy("too many that are not known here: come again")
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return busy("too many bring orders: come again")
	}
	q := &session{state: st, key: key, w: w, r: r, slots: slots, waits: s.waits}
	body, err := q.length(maxOrderBody)
	if err != nil && !known {
		return stranger
	}
	if err != nil {
		return err
	}
	rec, err := q.orderRecord(&body)
	if st != nil && err == nil {
		var status int
		var answer any
		if status, answer, err = do(q, rec, func() ([][]byte, error) { return q.attachments(body) }); err == nil {
			return w.json(status, answer)
		}
	}
	if !known {
		if errors.Is(err, errOrder) || err == nil {
			return stranger
		}
		var why *refusal
		if errors.As(err, &why) && why.cause == nil {
			return stranger
		}
		s.log.Error("an order failed", "err", err)
		return stranger
	}
	if errors.Is(err, errOrder) {
		return &refusal{status: http.StatusForbidden, Code: codeRefused, What: "order", Why: line(err.Error())}
	}
	return err
}

// maxOrderBody caps the body: the record, what travels with it, their lengths.
const maxOrderBody = maxRecord + MaxAttachment + 4*(1+order.MaxAttachments)

// orderRecord reads the first frame: a length of 4 bytes, big-endian, and the record.
func (q *session) orderRecord(left *int64) (*order.Record, error) {
	data, err := q.frame(left, maxRecord)
	if err != nil {
		return nil, err
	}
	rec, err := order.ParseRecord(data)
	if err != nil {
		return nil, against("%w", err)
	}
	return rec, nil
}

// attachments reads the frames after it.
func (q *session) attachments(left int64) (all [][]byte, err error) {
	for left > 0 {
		if len(all) == order.MaxAttachments {
			return nil, against("more than %d attachments", order.MaxAttachments)
		}
		data, err := q.frame(&left, MaxAttachment)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (q *session) frame(left *int64, most uint32) ([]byte, error) {
	var head [4]byte
	if *left < int64(len(head)) {
		return nil, invalid("request", "a frame is cut short")
	}
	if err := q.read(head[:]); err != nil {
		return nil, err
	}
	*left -= int64(len(head))
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > *left || n > most {
		return nil, invalid("request", "a frame is cut short or too long")
	}
	data := make([]byte, n)
	if err := q.read(data); err != nil {
		return nil, err
	}
	*left -= int64(n)
	return data, nil
}

func busy(why string) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "request", Why: why}
}

// bucket lets so many through a second, and as many at once.
type bucket struct {
	rate float64
	now  func() time.Time

	mu   sync.Mutex
	left float64
	at   time.Time
}

func newBucket(rate float64) *bucket {
	return &bucket{rate: rate, left: rate, now: time.Now}
}

// allow takes one, if there is one.
func (b *bucket) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if !b.at.IsZero() {
		b.left = min(b.rate, b.left+max(0, now.Sub(b.at).Seconds())*b.rate)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// find finds an order by its sequence or the hash of its document.
func (b *orders) find(text string) *ordered {
	if hash, err := charter.ParseDigest(text); err == nil {
		return b.byHash(hash)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil
	}
	return b.bySequence(n)
}

// OrderStatus is how one order stands at an embassy. It is the embassy's own word; the records in its ledger prove it.
type OrderStatus struct {
	Sequence    uint64    `json:"sequence"` // the embassy's own count
	Hash        string    `json:"hash"`
	Kind        string    `json:"kind"`
	Status      string    `json:"status"` // see order.Status
	Charter     uint64    `json:"charter"`
	Proposer    string    `json:"proposer"`
	Expires     time.Time `json:"expires"`
	Until       time.Time `json:"until,omitzero"` // in witnessed time; absent while no witness has seen it, or nothing waits
	Witnessed   time.Time `json:"witnessed,omitzero"`
	VetoedBy    string    `json:"vetoed_by,omitempty"`
	Why         string    `json:"why,omitempty"` // of what did not come to pass
	Objects     uint64    `json:"objects,omitempty"`
	Freed       uint64    `json:"freed,omitempty"`
	Attachments []string  `json:"attachments,omitempty"`
	Cosigned    []string  `json:"cosigned,omitempty"`   // moments of which a cosigned checkpoint is kept, see OrderMoments
	Document    []byte    `json:"document,omitempty"`   // of one order that was asked for
	Signatures  []byte    `json:"signatures,omitempty"` // likewise
}

// show says how an order stands.
func (b *orders) show(x *ordered, whole bool) OrderStatus {
	standing := b.standing(x)
	hash := x.order.Hash()
	s := OrderStatus{
		Sequence: x.sequence, Hash: hex.EncodeToString(hash[:]), Kind: string(x.order.Kind), Status: standing.Status.String(),
		Charter: x.order.Charter, Proposer: x.order.Proposer, Expires: x.order.Expires,
	}
	if standing.Status == order.Waiting {
		s.Until = standing.Until
	}
	if at, ok := b.st.clock.covered(x.leaf); ok {
		s.Witnessed = at
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if x.veto != nil {
		s.VetoedBy = x.veto.Name
	}
	if x.result != nil {
		s.Why, s.Objects, s.Freed = x.result.Why, x.result.Objects, x.result.Freed
	}
	s.Cosigned = x.moments.names()
	for _, a := range x.attached {
		s.Attachments = append(s.Attachments, charter.EncodeDigest(a))
	}
	if whole {
		s.Document, s.Signatures = x.order.Bytes(), x.sigs
	}
	return s
}

type ordersJSON struct {
	Orders []OrderStatus `json:"orders"`
}

// maxOrderPage caps a page of orders.
const maxOrderPage = 200

// listOrders lists orders above a sequence, in rising order.
func (s *Server) listOrders(q *session) error {
	limit, err := q.limit(maxOrderPage)
	if err != nil {
		return err
	}
	var after uint64
	if text := q.r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return invalid("after", "not a decimal number")
		}
	}
	answer := ordersJSON{Orders: []OrderStatus{}}
	for len(answer.Orders) < limit {
		after++
		x := q.state.orders.bySequence(after)
		if x == nil {
			break
		}
		answer.Orders = append(answer.Orders, q.state.orders.show(x, false))
	}
	return q.w.json(http.StatusOK, answer)
}

func (s *Server) getOrder(q *session) error {
	x := q.state.orders.find(q.r.PathValue("order"))
	if x == nil {
		return notFound("order")
	}
	return q.w.json(http.StatusOK, q.state.orders.show(x, true))
}

// getAttachment sends what came with an order.
func (s *Server) getAttachment(q *session) error {
	x := q.state.orders.find(q.r.PathValue("order"))
	hash, err := charter.ParseDigest(q.r.PathValue("hash"))
	if x == nil || err != nil {
		return notFound("attachment")
	}
	for i, a := range x.attached {
		if a == hash {
			data, err := q.state.orders.attachment(x, i)
			if err != nil {
				return err
			}
			return q.w.raw(http.StatusOK, "application/octet-stream", data)
		}
	}
	return notFound("attachment")
}
