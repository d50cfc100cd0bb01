package archive

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/index"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// headMeta is the meaning that the payload of a head is sealed with: its place in the chain is part of it.
func headMeta(r *register.Register, seq uint64) pack.Meta {
	var id pack.ID
	binary.BigEndian.PutUint64(id[8:], seq)
	return r.Meta(pack.Head, id, 0)
}

// sourceMeta is the meaning that a head's source position is sealed with, under the index key: agents read it, too.
func sourceMeta(r *register.Register, seq uint64) pack.Meta {
	m := headMeta(r, seq)
	m.Kind = pack.Source
	return m
}

// Position opens the position of its source that a head bears; nothing where it bears none. It needs no key that opens.
// Errors wrap ErrDamaged.
func Position(r *register.Register, head *snapshot.Head) ([]byte, error) {
	if len(head.Source) == 0 {
		return nil, nil
	}
	m := sourceMeta(r, head.Sequence)
	m.K, m.N = head.K, uint8(len(head.Members))
	p, err := pack.OpenNote(&r.IndexKey, m, head.Source)
	if err != nil {
		return nil, fmt.Errorf("head %d: position: %w: %w", head.Sequence, register.ErrDamaged, err)
	}
	return p, nil
}

// commit makes what a writer stored a snapshot. In this order, so that each step only refers to what is durable:
//
//	index packs and references at k embassies
//	receipts of every object from every embassy that is up, and deliveries to it
//	the head on the local disk
//	the head at every embassy that is up, and its receipts
//	(then settle: index and journal)
//
// A crash before the local head leaves the journal: the next run resumes. A crash after it leaves a head that the
// next run publishes together with its own.
func commit(ctx context.Context, r *run, w *writer, payload *snapshot.Payload, m *moving) (*snapshot.Head, error) {
	refs, err := storeIndex(w)
	if err != nil {
		return nil, err
	}
	references, err := r.reference(ctx, w, m)
	if err != nil {
		return nil, err
	}
	takeReceipts(ctx, r, w.known, slices.Concat(refs, references))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := r.sites.Enough(r.reg.K); err != nil {
		return nil, err
	}
	if err := r.stays(ctx, w.known, m != nil); err != nil {
		return nil, err
	}
	head, err := r.makeHead(w, payload, refs, references)
	if err != nil {
		return nil, err
	}
	b := head.Bytes()
	if _, err := r.history.accept(b); err != nil {
		return nil, err
	}
	if err := r.publish(ctx); err != nil {
		return nil, err
	}
	return head, nil
}

// storeIndex sends the index of the run's packs.
func storeIndex(w *writer) ([]snapshot.PackRef, error) {
	room := pack.Largest(pack.Index) - 64
	var refs []snapshot.PackRef
	var batch []snapshot.IndexedPack
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		ref, err := w.putIndex(snapshot.AppendIndex(nil, batch))
		refs = append(refs, ref)
		batch, size = nil, 0
		return err
	}
	err := w.known.whole(func(p snapshot.IndexedPack) error {
		if n := snapshot.IndexSize(&p); size+n > room {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, p), size+snapshot.IndexSize(&p)
		return nil
	})
	if err == nil {
		err = flush()
	}
	return refs, err
}

// takeReceipts asks every site for the receipts of what it was sent, keeps them, and leaves it the deliveries. A site
// that cannot give receipts has not stored it.
func takeReceipts(ctx context.Context, r *run, k *known, index []snapshot.PackRef) {
	var all sync.WaitGroup
	for _, s := range r.sites {
		if !s.Up() {
			continue
		}
		all.Go(func() {
			if err := r.receiptsOf(ctx, s, k, index); err != nil {
				s.Fail(fmt.Errorf("receipts: %w", err))
			}
		})
	}
	all.Wait()
}

// receiptsOf takes one site's receipts of its objects, in batches, and signs for each that it was sent.
func (r *run) receiptsOf(ctx context.Context, s *register.Site, k *known, index []snapshot.PackRef) error {
	n, err := objectsOf(s, k)
	if err != nil {
		return err
	}
	sent, err := register.NewDeliverer(ctx, r.reg, r.agent, s, r.history.last+1, n+len(index))
	if err != nil {
		return err
	}
	part := 0
	var names []shard.Name
	flush := func() error {
		if len(names) == 0 {
			return nil
		}
		receipts, err := s.Records.Receipts(ctx, names, nil)
		if err == nil && len(receipts) != len(names) {
			err = fmt.Errorf("%d receipts for %d objects", len(receipts), len(names))
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := sent.Add(ctx, n); err != nil {
				return err
			}
		}
		names = names[:0]
		part++
		return r.keepReceipts(s, part, receipts)
	}
	add := func(ref *snapshot.PackRef) error {
		if name := ref.Shares[s.Share]; !k.absent[name] {
			names = append(names, name)
		}
		if len(names) < register.Batch {
			return nil
		}
		return flush()
	}
	if err := k.whole(func(p snapshot.IndexedPack) error { return add(&p.Ref) }); err != nil {
		return err
	}
	for i := range index {
		if err := add(&index[i]); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return sent.Finish(ctx)
}

// objectsOf counts the packs of which a site has its share.
func objectsOf(s *register.Site, k *known) (n int, err error) {
	if len(k.absent) == 0 {
		return k.packs, nil
	}
	err = k.whole(func(p snapshot.IndexedPack) error {
		if !k.absent[p.Ref.Shares[s.Share]] {
			n++
		}
		return nil
	})
	return n, err
}

// keepReceipts writes receipts beside the heads: they are what convicts an embassy that denies later. part is 0 for
// the head's own.
func (r *run) keepReceipts(s *register.Site, part int, receipts []ledger.Receipt) error {
	dir := filepath.Join(r.reg.Dir, "receipts", s.Name)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var data []byte
	for i := range receipts {
		b, err := receipts[i].Bytes()
		if err != nil {
			return err
		}
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(b))), b...)
	}
	seq := r.history.last
	if part > 0 {
		seq++ // the head that is being made
	}
	return durable.WriteFile(filepath.Join(dir, fmt.Sprintf("%012d-%03d", seq, part)), data, 0o600)
}

func (r *run) makeHead(w *writer, payload *snapshot.Payload, refs, references []snapshot.PackRef) (*snapshot.Head, error) {
	seq := r.history.last + 1
	plain, err := payload.Bytes()
	if err != nil {
		return nil, err
	}
	manifest, err := pack.SealMessage(rand.Reader, w.session, headMeta(r.reg, seq), plain)
	if err != nil {
		return nil, err
	}
	var source []byte
	if len(r.position) > 0 {
		if source, err = pack.SealNote(rand.Reader, &r.reg.IndexKey, sourceMeta(r.reg, seq), r.position); err != nil {
			return nil, err
		}
	}
	head := &snapshot.Head{
		Version: snapshot.HeadVersion, State: r.reg.State, Register: r.reg.ID, Sequence: seq, Source: source, Manifest: manifest,
		Index: refs, References: references, Packs: uint64(w.known.packs + len(refs) + len(references)),
		Objects: uint64(w.objects.Load() + w.known.objects), Stored: uint64(w.sent.Load() + w.known.stored),
		K: uint8(r.reg.K), CharterVersion: r.agent.CharterNumber, CharterHash: r.agent.CharterHash, Time: r.agent.Now().UnixNano(),
	}
	if seq > 1 {
		prev, err := r.history.head(seq - 1)
		if err != nil {
			return nil, err
		}
		head.Previous = prev.Hash()
		head.Time = max(head.Time, prev.Time+1)
	}
	for _, s := range r.sites {
		head.Members = append(head.Members, s.ID)
		if !s.Up() || w.known.partly[s.Share] {
			head.Missing = append(head.Missing, s.ID)
		}
	}
	head.Sign(r.agent.Key)
	return head, head.Check()
}

// publish brings every site up to the newest head and takes the receipts of it.
func (r *run) publish(ctx context.Context) error {
	if r.history.last == 0 {
		return nil
	}
	r.history.publish(ctx, r.sites)
	slot := []ledger.Slot{r.history.slot(r.history.last)}
	var all sync.WaitGroup
	for _, s := range r.sites {
		if !s.Up() {
			continue
		}
		all.Go(func() {
			receipts, err := s.Records.Receipts(ctx, nil, slot)
			if err == nil && len(receipts) != 1 {
				err = fmt.Errorf("%d of them", len(receipts))
			}
			if err == nil {
				err = r.keepReceipts(s, 0, receipts)
			}
			if err != nil {
				s.Fail(fmt.Errorf("receipt of the head: %w", err))
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.sites.Enough(r.reg.K)
}

// settle moves the packs of the journal into the index, now that a head names them. An index that turns out damaged
// is emptied: the next run fills it from the embassies.
func (r *run) settle(k *known, head *snapshot.Head) error {
	add := indexAdder{index: r.index}
	var ids []pack.ID
	if err := k.whole(func(p snapshot.IndexedPack) error {
		ids = append(ids, p.Ref.ID)
		return add.pack(p)
	}); err != nil {
		return err
	}
	if r.torn == nil {
		add.through = head.Sequence
	}
	err := add.flush()
	if errors.Is(err, index.ErrDamaged) || err == nil && r.index.Err() != nil {
		err = r.index.Reset()
	}
	if err == nil && r.numbers.through+1 == head.Sequence {
		if err = r.numbers.add(head, ids); err == nil {
			err = r.numbers.flush()
		}
	}
	if err == nil {
		err = r.keepNeeds(head)
	}
	if err != nil {
		return err
	}
	return k.forget()
}
