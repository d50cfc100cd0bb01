package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// An embassy whose folder is of layout 2 serves a state only under an agreement
// that the state and the host signed, and only as it says. Agreements are records
// of the ledger; the first one is laid into the folder by the host's operator
// (Admit), the others come over the network, signed by both.

// agreementFile is the first agreement of a state, as Admit leaves it: a record.
const agreementFile = "agreement"

// compact is what two states agreed on, from the first agreement to the newest.
type compact struct {
	chain []*agreement.Agreement
	sigs  []byte // of the newest
	rate  *bucket
}

// openCompact reads the agreements of a state whose folder is of layout 2, and
// enters the first one where the ledger does not have it yet.
func (st *state) openCompact(srv *Server) error {
	ctx := context.Background()
	first, err := readFile(filepath.Join(st.dir, agreementFile), maxRecord)
	if err != nil {
		return fmt.Errorf("embassy: no agreement admits this state: %w", err)
	}
	a, _, err := readAgreement(first)
	if err != nil {
		return err
	}
	slot := ledger.Slot{Kind: ledger.AgreementRecord, Sequence: a.Number}
	if _, _, err := srv.takeRecord(ctx, st, slot, first, publicOf(srv.key), false); err != nil {
		return err
	}
	c := &compact{}
	for n := a.Number; ; n++ {
		data, _, err := st.orders.record(ledger.AgreementRecord, n)
		if err != nil {
			return err
		}
		if data == nil {
			break
		}
		a, sigs, err := readAgreement(data)
		if err != nil {
			return err
		}
		c.chain, c.sigs = append(c.chain, a), sigs
	}
	c.rate = newBucket(float64(c.chain[len(c.chain)-1].Limits.RequestsPerSecond))
	st.compact.Store(c)
	return nil
}

// readAgreement reads an agreement and its signatures out of a record, which has
// the form of an order's.
func readAgreement(data []byte) (*agreement.Agreement, []byte, error) {
	rec, err := order.ParseRecord(data)
	if err != nil {
		return nil, nil, err
	}
	a, err := agreement.Parse(rec.Document)
	return a, rec.Signatures, err
}

// day is the time by which agreements run: the witnessed one, and the own clock
// only while there is none.
func (st *state) day() time.Time {
	if now, _ := st.clock.now(); !now.IsZero() {
		return now
	}
	return st.opts.now().UTC()
}

// governing is the agreement by which the embassy acts now; nil where none does,
// and in a folder of layout 1, which knows none.
func (st *state) governing() *agreement.Agreement {
	c := st.compact.Load()
	if c == nil {
		return nil
	}
	return agreement.Governing(c.chain, st.day())
}

// terms are what the agreement demands of orders.
func (st *state) terms() terms {
	a := st.governing()
	if a == nil {
		return terms{}
	}
	return terms{minimum: a.Retention.Minimum.Duration(), cooling: a.Retention.Cooling.Duration()}
}

// quota is how many bytes the state may store; 0 is without limit.
func (st *state) quota() int64 {
	quota := st.opts.Quota
	if a := st.governing(); a != nil && (quota == 0 || int64(a.Limits.QuotaBytes) < quota) {
		quota = int64(a.Limits.QuotaBytes)
	}
	return quota
}

// phase is where the agreement in force stands; "" in a folder of layout 1.
func (st *state) phase() agreement.Phase {
	if !st.bound {
		return ""
	}
	a := st.governing()
	if a == nil {
		return agreement.NotYet
	}
	return a.PhaseAt(st.day())
}

// within fails where the agreement does not let a request be served: before it is
// in force nothing but what shows the ledger, in its return period nothing that
// stores, after it nothing but the ledger again; and not too many a second.
func (st *state) within(need access) error {
	if need == mayWrite && st.orders.broken != nil { // who may write is not known
		return failed("orders", st.orders.broken)
	}
	ok := true
	switch st.phase() {
	case "", agreement.InForce:
	case agreement.Returning:
		ok = need != mayWrite
	default:
		ok = need == mayInspect || need == mayCosign
	}
	if !ok {
		r := refused("the agreement is " + string(st.phase()))
		r.What = "agreement"
		return r
	}
	if c := st.compact.Load(); c != nil && need != mayCosign && !c.rate.allow() {
		r := busy("more requests a second than the agreement grants")
		r.after = 1 // by then as many are granted again
		return r
	}
	return nil
}

// AgreementStatus is under what a state is served.
type AgreementStatus struct {
	Number   uint64    `json:"number,omitempty"` // 0: a folder of layout 1, which knows no agreements
	Hash     string    `json:"hash,omitempty"`
	Phase    string    `json:"phase"` // see agreement.Phase; "none" in a folder of layout 1
	Until    string    `json:"until,omitempty"`
	Return   time.Time `json:"return_ends,omitzero"`
	Review   string    `json:"next_review,omitempty"`
	Quota    uint64    `json:"quota_bytes,omitempty"`
	Rate     uint64    `json:"requests_per_second,omitempty"`
	Minimum  string    `json:"minimum_retention,omitempty"`
	Cooling  string    `json:"cooling_off,omitempty"`
	Amended  uint64    `json:"amended_to,omitempty"` // an amendment that waits for its day
	HostName string    `json:"host,omitempty"`
}

func (st *state) agreementStatus() *AgreementStatus {
	if !st.bound {
		return &AgreementStatus{Phase: "none"}
	}
	s := &AgreementStatus{Phase: string(st.phase())}
	if c := st.compact.Load(); c != nil {
		s.Amended = c.chain[len(c.chain)-1].Number
	}
	a := st.governing()
	if a == nil {
		return s
	}
	if s.Amended == a.Number {
		s.Amended = 0
	}
	s.Number, s.Hash, s.Until = a.Number, charter.EncodeDigest(a.Hash()), string(a.InForce.Until)
	s.Return, s.Review, s.HostName = a.ReturnEnds(), string(a.Review.Next), a.Host.Name
	s.Quota, s.Rate = a.Limits.QuotaBytes, a.Limits.RequestsPerSecond
	s.Minimum, s.Cooling = string(a.Retention.Minimum), string(a.Retention.Cooling)
	return s
}

// getAgreement sends the newest agreement and its signatures.
func (s *Server) getAgreement(q *session) error {
	c := q.state.compact.Load()
	if c == nil {
		return notFound("agreement")
	}
	return q.w.json(http.StatusOK, charterJSON{Document: c.chain[len(c.chain)-1].Bytes(), Signature: c.sigs})
}

// putAgreement takes an amendment that both sides signed.
func (s *Server) putAgreement(q *session) error {
	var body charterJSON
	if err := q.question(&body, 3*agreement.MaxSize); err != nil {
		return err
	}
	number, err := s.amend(q.r.Context(), q.state, body.Document, body.Signature)
	if err != nil {
		return err
	}
	return q.w.json(http.StatusOK, takenJSON{number})
}

func (s *Server) amend(ctx context.Context, st *state, doc, sigs []byte) (uint64, error) {
	st.changing.Lock()
	defer st.changing.Unlock()
	c := st.compact.Load()
	if c == nil {
		return 0, notFound("agreement")
	}
	next, err := agreement.Parse(doc)
	if err != nil {
		return 0, invalid("agreement", line(err.Error()))
	}
	old := c.chain[len(c.chain)-1]
	if next.Hash() == old.Hash() {
		return old.Number, nil
	}
	refusal := func(err error) error {
		r := refused(line(err.Error()))
		r.What = "agreement"
		return r
	}
	if err := agreement.CheckAmendment(old, next, sigs, st.inForce().charter, st.day()); err != nil {
		return 0, refusal(err)
	}
	if err := st.unbarred(next, sigs); err != nil {
		return 0, refusal(err)
	}
	if err := s.roomFor(st.id, next); err != nil {
		return 0, refusal(err)
	}
	data, err := order.NewRecord(doc, sigs).Bytes()
	if err != nil {
		return 0, invalid("agreement", "beyond a cap")
	}
	// A crash before this leaves the one before, after it this one.
	slot := ledger.Slot{Kind: ledger.AgreementRecord, Sequence: next.Number}
	if _, _, err := s.takeRecord(ctx, st, slot, data, publicOf(s.key), false); err != nil {
		return 0, err
	}
	n := &compact{chain: append(c.chain[:len(c.chain):len(c.chain)], next), sigs: sigs, rate: newBucket(float64(next.Limits.RequestsPerSecond))}
	st.compact.Store(n)
	st.orders.rouse()
	return next.Number, nil
}

// unbarred checks that the state's side is complete without those who are suspended.
func (st *state) unbarred(a *agreement.Agreement, sigs []byte) error {
	barred := st.orders.effects.Load().barred()
	_, err := st.inForce().charter.Quorum(charter.ActAgreement, agreement.Namespace, a.Bytes(), sigs, st.day(), barred...)
	return err
}

// roomFor fails where the quotas of all states together would exceed the disk.
// The refusal does not say by how much: that would tell of the others.
func (s *Server) roomFor(id charter.StateID, a *agreement.Agreement) error {
	sum := a.Limits.QuotaBytes
	for _, st := range s.states {
		if c := st.compact.Load(); c != nil && st.id != id {
			sum += c.chain[len(c.chain)-1].Limits.QuotaBytes
		}
	}
	return quotasFit(s.dir, sum)
}

var errQuotas = errors.New("the embassy's disk does not have the room that the agreement grants")

func quotasFit(dir string, sum uint64) error {
	size, err := diskSize(dir)
	if err == nil && sum > size {
		err = errQuotas
	}
	return err
}

// checkPlace checks that an agreement is about this embassy.
func checkPlace(a *agreement.Agreement, set settings, fingerprint string) error {
	switch {
	case a.Embassy.Key != fingerprint:
		return fmt.Errorf("embassy: the agreement is about the embassy with key %s, this one has %s", a.Embassy.Key, fingerprint)
	case a.Embassy.Name != set.Name || a.Embassy.Country != set.Country || a.Host.Code != set.Country:
		return fmt.Errorf("embassy: the agreement is about %s in %s (host %s), this embassy is %s in %s",
			a.Embassy.Name, a.Embassy.Country, a.Host.Code, set.Name, set.Country)
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := readFile(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
