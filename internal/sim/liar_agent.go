package sim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// landRegister is the one register of this world.
var landRegister = [16]byte{7, 7, 7}

// store has the agent give one pack's shares to the embassies that it reaches, and keep their receipts.
func (w *world) store() error {
	id := sha256.Sum256(fmt.Append(nil, "pack ", len(w.packs)))
	p := &packed{id: [16]byte(id[:16]), k: 1 + w.rng.IntN(len(w.hosts))}
	p.names, p.sent = make([]shard.Name, len(w.hosts)), make([][]byte, len(w.hosts))
	p.sealed = Bytes(w.rng.Uint64(), 40*p.k)
	coder, err := shard.NewCoder(p.k, len(w.hosts))
	if err != nil {
		return err
	}
	shares, err := coder.Split(nil, p.sealed)
	if err != nil {
		return err
	}
	w.packs = append(w.packs, p)
	for i, h := range w.hosts {
		data := bytes.Clone(shares[i])
		if !w.off.noMasks {
			shard.Mask(h.mask, p.id, i, data)
		}
		if w.rng.IntN(7) == 0 {
			continue // not reached
		}
		name := shard.Root(data)
		p.names[i], p.sent[i], h.packs[name] = name, data, p
		b := h.side(w.agentSide())
		at, err := h.put(b, name, data)
		if err != nil {
			return err
		}
		if err := w.acknowledge(h, b, at, ack{object: name, data: data}); err != nil {
			return err
		}
		w.fresh[i] = append(w.fresh[i], name)
	}
	for i, h := range w.hosts {
		if others := p.count(i); h.store == regenerates && p.sent[i] != nil && others >= p.k {
			w.tally.Regenerated++ // it keeps nothing that it hopes to get from them
			delete(h.objects, p.names[i])
		}
	}
	return nil
}

// count is how many embassies beside this one got their share.
func (p *packed) count(but int) (n int) {
	for i, data := range p.sent {
		if i != but && data != nil {
			n++
		}
	}
	return n
}

// acknowledge has the agent check a receipt and keep it.
func (w *world) acknowledge(h *host, b *branch, at int64, a ack) error {
	if a.host, a.index, a.leaf = h.who, at, b.book.leaves[at]; w.rng.IntN(5) > 0 {
		w.acks = append(w.acks, a) // the step's end recomputes proofs
		return nil
	}
	r, err := h.receipt(b, at)
	if err != nil {
		return err
	}
	if _, _, err := r.Verify(h.verifier); err != nil {
		return broken(kept, "receipt of log %d: %v", h.who, err)
	}
	w.acks = append(w.acks, a)
	return w.meet("agent", h, r.Checkpoint)
}

// snapshot has the agent sign a head and, for each embassy, what it was given.
func (w *world) snapshot() error {
	if w.head != nil && w.head.Sequence == 2 {
		return nil // more would only cost time
	}
	head := &snapshot.Head{
		Version: 1, State: w.charter.State.ID, Register: landRegister, Sequence: 1, Manifest: Bytes(1, 40), K: 1,
		CharterVersion: 1, CharterHash: w.charter.Hash(), Time: w.now.UnixNano(), Packs: 1,
	}
	if w.head != nil {
		head.Sequence, head.Previous = w.head.Sequence+1, w.head.Hash()
	}
	for _, h := range w.hosts {
		head.Members = append(head.Members, h.id)
	}
	head.Sign(w.agent)
	w.head = head
	w.docs = append(w.docs, evidence.Record{Kind: ledger.Head, Data: head.Bytes()})
	slot := ledger.Slot{Kind: ledger.Head, Register: landRegister, Sequence: head.Sequence}
	for i, h := range w.hosts {
		d := ledger.NewDelivery()
		d.State, d.Register, d.Head, d.Embassy, d.Parts = w.charter.State.ID, landRegister, head.Sequence, h.id, 1
		d.Salt, d.Objects = sha256.Sum256(fmt.Append(nil, i, head.Sequence)), w.fresh[i]
		slices.SortFunc(d.Objects, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
		w.fresh[i] = nil
		if err := d.Sign(w.agent); err != nil {
			return err
		}
		data, err := d.Bytes()
		if err != nil {
			return err
		}
		w.docs = append(w.docs, evidence.Record{Kind: ledger.DeliveryRecord, Data: data})
		b := h.side(w.agentSide())
		for _, r := range []struct {
			slot ledger.Slot
			data []byte
		}{{d.Slot(), data}, {slot, head.Bytes()}} {
			at, err := h.putRecord(b, r.slot, r.data)
			if err != nil {
				return err
			}
			if err := w.acknowledge(h, b, at, ack{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore reads every pack back from embassies whose shares are what they are named, as a restore does.
func (w *world) restore() error {
	for _, p := range w.packs {
		shares, have, sound := make([][]byte, len(w.hosts)), 0, 0
		for i, h := range w.hosts {
			if p.sent[i] == nil {
				continue
			}
			if h.store == honest {
				sound++
			}
			data := bytes.Clone(h.objects[p.names[i]])
			if h.store == withholds || data == nil || shard.Root(data) != p.names[i] {
				continue
			}
			if !w.off.noMasks {
				shard.Mask(h.mask, p.id, i, data)
			}
			shares[i] = data
			have++
		}
		if sound >= p.k && have < p.k {
			return broken(kept, "%d of %d embassies are honest and give %d shares", sound, p.k, have)
		}
		if have < p.k {
			w.tally.Lost++
			continue
		}
		coder, err := shard.NewCoder(p.k, len(w.hosts))
		if err != nil {
			return err
		}
		sealed, err := coder.Join(nil, shares, len(p.sealed))
		if err != nil || !bytes.Equal(sealed, p.sealed) {
			return broken(kept, "a pack comes back as another: %v", err)
		}
	}
	return nil
}
