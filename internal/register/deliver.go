package register

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// A delivery tells over the agent's signature which objects an embassy was given for a register, and until which head.
// It is a record at that embassy, so that both sides hold what the other signed: the embassy cannot have been given
// other objects than it says, the state cannot deny that it gave them, and an auditor without any key sees which
// objects a snapshot rests on. The names say nothing that the embassy does not know already.

// deliveryBatch is how many names one delivery holds at most: 512 KiB.
const deliveryBatch = ledger.MaxDelivered

// Deliverer writes one embassy's deliveries of one run. Its parts follow those that an interrupted run left. It is for
// one goroutine.
type Deliverer struct {
	reg   *Register
	agent *Agent
	site  *Site
	head  uint64
	part  uint32
	parts uint32 // as far as is known
	names [][32]byte
}

// NewDeliverer begins the deliveries to a site that belong to the head of that number: of so many objects, or of as many
// as will come where that is not known (0). It asks the site which parts there are already.
func NewDeliverer(ctx context.Context, reg *Register, agent *Agent, s *Site, head uint64, objects int) (*Deliverer, error) {
	d := &Deliverer{reg: reg, agent: agent, site: s, head: head}
	before := ledger.DeliverySlot(reg.ID, head, 0).Sequence - 1
	for {
		page, err := s.Records.ListRecords(ctx, ledger.DeliveryRecord, [16]byte(reg.ID), before)
		if err != nil {
			return nil, err
		}
		for _, info := range page {
			if info.Slot.Sequence != ledger.DeliverySlot(reg.ID, head, d.part).Sequence {
				page = nil
				break
			}
			d.part, before = d.part+1, info.Slot.Sequence
		}
		if len(page) == 0 {
			d.parts = d.part + uint32((objects+deliveryBatch-1)/deliveryBatch)
			return d, nil
		}
	}
}

// Add takes one name, and sends what has come together when that is as much as one delivery holds.
func (d *Deliverer) Add(ctx context.Context, name shard.Name) error {
	if d.names = append(d.names, name); len(d.names) < deliveryBatch {
		return nil
	}
	return d.Flush(ctx)
}

// Flush sends what has come together. A crash leaves a delivery of objects that the embassy holds, which is true
// whether or not their head follows.
func (d *Deliverer) Flush(ctx context.Context) error {
	if len(d.names) == 0 {
		return nil
	}
	return d.send(ctx)
}

// Finish sends what has come together. A head with which nothing new was stored has a delivery of nothing, so that
// nobody need wonder whether one is kept back.
func (d *Deliverer) Finish(ctx context.Context) error {
	if len(d.names) == 0 && d.part > 0 {
		return nil
	}
	return d.send(ctx)
}

func (d *Deliverer) send(ctx context.Context) error {
	slices.SortFunc(d.names, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	doc := ledger.NewDelivery()
	doc.State, doc.Register, doc.Embassy = d.reg.State, d.reg.ID, d.site.ID
	doc.Head, doc.Part, doc.Parts, doc.Objects = d.head, d.part, max(d.parts, d.part+1), slices.Compact(d.names)
	if _, err := rand.Read(doc.Salt[:]); err != nil {
		return err
	}
	if err := doc.Sign(d.agent.Key); err != nil {
		return err
	}
	b, err := doc.Bytes()
	if err != nil {
		return err
	}
	if err := d.site.Records.PutRecord(ctx, ledger.DeliverySlot(d.reg.ID, d.head, d.part), b); err != nil {
		return fmt.Errorf("delivery %d of head %d: %w", d.part, d.head, err)
	}
	d.part, d.names = d.part+1, d.names[:0]
	return nil
}
