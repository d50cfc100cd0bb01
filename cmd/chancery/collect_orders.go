package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// attachments fetches the lists of objects that an order binds, by which it is judged whether no more was removed.
func (s *gathering) attachments(l *ledger.Leaf, doc []byte) {
	if l.Slot.Kind != ledger.OrderRecord {
		return
	}
	rec, err := order.ParseRecord(doc)
	if err != nil {
		return // whoever judges the file says so
	}
	for _, hash := range rec.Attachments {
		if s.records[hash] {
			continue
		}
		list, err := s.client.OrderAttachment(s.ctx, fmt.Sprint(l.Slot.Sequence), hex.EncodeToString(hash[:]))
		if err == nil && sha256.Sum256(list) == hash {
			s.records[hash] = true
			s.pack.Attachments = append(s.pack.Attachments, list)
		}
	}
}

// mostMoments leaves room for the other checkpoints of a ledger in a file.
const mostMoments = 4000

// moments fetches the cosigned checkpoints that the embassy kept of an order, by which it is judged when it was given and
// how long it waited. One that ends before the leaves in the file tells nothing without a proof that they continue it.
func (s *gathering) moments(l *ledger.Leaf) {
	if l.Slot.Kind != ledger.OrderRecord {
		return
	}
	v, err := ledger.NewVerifier(s.embassy.Origin, s.embassy.PublicKey())
	if err != nil {
		return
	}
	for _, moment := range embassy.OrderMoments() {
		raw, err := s.client.OrderCosigned(s.ctx, fmt.Sprint(l.Slot.Sequence), moment)
		if err != nil || len(s.out.Checkpoints) >= mostMoments {
			continue
		}
		cp, err := ledger.ParseCheckpoint(raw, v)
		if err == nil && cp.Size < s.out.From {
			proof, perr := s.client.Consistency(s.ctx, cp, s.newest)
			if perr != nil {
				continue
			}
			s.out.Joins = append(s.out.Joins, evidence.Join{Old: cp.Size, New: s.newest.Size, Proof: proof})
		}
		s.keep("live", raw)
	}
}
