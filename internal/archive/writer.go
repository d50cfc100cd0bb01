package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

const (
	// sealers is how many packs are sealed and sent at once; each holds one pack and all its shares.
	sealers = 3
	// treeFill is the stored size at which a pack of listings is closed: small, so that reading one folder fetches
	// little.
	treeFill = 900 << 10
	// splitBelow is the stored size below which the last pack of a run is made into packs of the next smaller class.
	splitBelow = 8 << 20
)

// writer turns chunks into sealed packs at embassies. Chunks may come from many goroutines.
//
//	chunk ──claim──> new? ──compress──> builder ──full──> seal, split, mask ──> Put at every site that is up
//	                                                                  └──> journal, once k sites have it
type writer struct {
	reg     *register.Register
	sites   register.Sites
	session *pack.Session
	coder   *shard.Coder
	known   *known

	full chan sealJob    // closed builders on their way to the sealers
	free chan []byte     // payload buffers, of the largest class
	done sync.WaitGroup  // sealers
	ctx  context.Context // of the run: a call that outlives it would write for nobody
	stop context.CancelCauseFunc

	mu      sync.Mutex // guards the builders
	data    *building
	tree    *building
	sent    atomic.Int64 // bytes of shares acknowledged
	objects atomic.Int64
	packs   atomic.Int64
	fresh   atomic.Int64 // plaintext bytes of new chunks
}

// building is one pack being filled.
type building struct {
	kind    pack.Kind
	builder *pack.Builder
	buf     []byte
}

type sealJob struct {
	b     *building
	class pack.Class
}

// newWriter starts the sealers; close ends them.
func newWriter(ctx context.Context, reg *register.Register, sites register.Sites, known *known) (*writer, error) {
	session, err := pack.NewSession(rand.Reader, reg.Public, reg.State, reg.ID, reg.Epoch)
	if err != nil {
		return nil, err
	}
	coder, err := shard.NewCoder(reg.K, len(reg.Members))
	if err != nil {
		return nil, err
	}
	w := &writer{
		reg: reg, sites: sites, session: session, coder: coder, known: known,
		full: make(chan sealJob), free: make(chan []byte, sealers+1),
	}
	w.ctx, w.stop = context.WithCancelCause(ctx)
	for range cap(w.free) {
		w.free <- nil // made when first taken: a small run never makes more than one
	}
	for range sealers {
		w.done.Go(w.sealer)
	}
	return w, nil
}

// take waits for a payload buffer, which bounds how far reading runs ahead of sending.
func (w *writer) take() ([]byte, error) {
	select {
	case buf := <-w.free:
		if buf == nil {
			buf = make([]byte, 0, pack.Largest(pack.Data))
		}
		return buf[:0], nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

// add stores a chunk that claim gave to the caller. stored is copied.
func (w *writer) add(kind pack.Kind, id chunk.ID, stored []byte, raw int, compressed bool) error {
	w.fresh.Add(int64(raw))
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := &w.data
	if kind == pack.Tree {
		slot = &w.tree
	}
	if b := *slot; b != nil && (!b.builder.Fits(len(stored)) || kind == pack.Tree && b.builder.Len()+len(stored) > treeFill) {
		*slot = nil
		if err := w.handOver(b); err != nil {
			return err
		}
	}
	if *slot == nil {
		buf, err := w.take()
		if err != nil {
			return err
		}
		*slot = &building{kind: kind, builder: pack.NewBuilder(buf), buf: buf}
	}
	(*slot).builder.Add(id, stored, raw, compressed)
	return nil
}

// handOver gives a closed builder to a sealer.
func (w *writer) handOver(b *building) error {
	select {
	case w.full <- sealJob{b, b.builder.Smallest()}:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// close sends what is left and waits until every pack is acknowledged.
func (w *writer) close() error {
	w.mu.Lock()
	var err error
	for _, b := range []*building{w.data, w.tree} {
		if b != nil && err == nil {
			err = w.handOverLast(b)
		}
	}
	w.data, w.tree = nil, nil
	w.mu.Unlock()
	close(w.full)
	w.done.Wait()
	if err == nil && w.ctx.Err() != nil {
		err = context.Cause(w.ctx)
	}
	return err
}

// abort ends the sealers without sending more.
func (w *writer) abort(err error) {
	w.stop(err)
	close(w.full)
	w.done.Wait()
}

// handOverLast closes a builder that is not full. Padding three mebibytes to sixteen would cost a daily backup more
// than the day's changes, so a pack far from full is dealt into packs of the class below.
func (w *writer) handOverLast(b *building) error {
	class := b.builder.Smallest()
	if class == 0 || b.builder.Len() >= splitBelow {
		return w.handOver(b)
	}
	room := pack.Payload(class-1, b.kind)
	empty := pack.NewBuilder(make([]byte, 0, room))
	var parts []*building
	for _, e := range b.builder.Entries() {
		stored := b.buf[:cap(b.buf)][e.Offset : e.Offset+e.Stored]
		if !empty.Fits(len(stored)) {
			return w.handOver(b)
		}
		if n := len(parts); n == 0 || !parts[n-1].builder.Fits(len(stored)) {
			buf := make([]byte, 0, room)
			parts = append(parts, &building{kind: b.kind, builder: pack.NewBuilder(buf)})
		}
		parts[len(parts)-1].builder.Add(e.ID, stored, int(e.Raw), e.Compressed)
	}
	if class == 1 && len(parts) > 4 {
		return w.handOver(b)
	}
	for _, p := range parts {
		if err := w.handOver(p); err != nil {
			return err
		}
	}
	w.free <- b.buf
	return nil
}

// sharesSize is the memory that all shares of a pack need; the sealed pack is made at its beginning.
func (w *writer) sharesSize(class pack.Class) int {
	return len(w.sites) * shard.Size(class.Size(), w.reg.K)
}

// sealer seals packs and sends them until the channel closes. Its buffers live as long as it does.
func (w *writer) sealer() {
	var buf []byte
	for job := range w.full {
		if w.ctx.Err() != nil {
			continue
		}
		if need := w.sharesSize(job.class); cap(buf) < need {
			buf = make([]byte, 0, need)
		}
		if err := w.send(job, buf); err != nil {
			w.stop(err)
		}
		if job.b.buf != nil {
			w.free <- job.b.buf
		}
	}
}

// send seals one pack and returns when every site that is up has acknowledged its share.
func (w *writer) send(job sealJob, buf []byte) error {
	var id pack.ID
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	m := w.reg.Meta(job.b.kind, id, job.class)
	entries := job.b.builder.Entries()
	sealed, err := w.session.Seal(buf[:0], rand.Reader, m, job.b.builder.Finish(job.class))
	if err != nil {
		return err
	}
	ref, err := w.put(m, sealed)
	if err != nil {
		return err
	}
	return w.known.record(snapshot.IndexedPack{Ref: ref, Entries: entries})
}

// put splits a sealed pack, masks the shares and sends each to its embassy. A site that fails is down from then on;
// put fails only when fewer than k are left. The names of all shares are in the result, sent or not, so that a
// repair later makes exactly the missing ones.
//
// sealed stands at the beginning of memory for all shares, which put uses.
func (w *writer) put(m pack.Meta, sealed []byte) (snapshot.PackRef, error) {
	ref := snapshot.PackRef{
		ID: m.ID, Kind: m.Kind, Class: m.Class, K: m.K, N: m.N, Epoch: m.Epoch,
		Shares: make([]shard.Name, len(w.sites)),
	}
	parts := [][]byte{sealed} // one embassy, one share: the pack itself, not copied
	if len(w.sites) > 1 {
		var err error
		if parts, err = w.coder.Split(sealed, sealed); err != nil {
			return ref, err
		}
	}
	var all sync.WaitGroup
	for i, s := range w.sites {
		all.Go(func() {
			ref.Shares[i] = shard.MaskAndHash(s.Mask, m.ID, i, parts[i])
			if !s.Up() {
				return
			}
			if err := s.Objects.Put(w.ctx, ref.Shares[i], parts[i]); err != nil {
				s.Fail(fmt.Errorf("storing object %s: %w", ref.Shares[i], err))
				return
			}
			w.sent.Add(int64(len(parts[i])))
			w.objects.Add(1)
		})
	}
	all.Wait()
	if err := w.ctx.Err(); err != nil {
		return ref, context.Cause(w.ctx)
	}
	if err := w.sites.Enough(w.reg.K); err != nil {
		return ref, err
	}
	w.packs.Add(1)
	return ref, nil
}

// putIndex seals one index payload and sends it.
func (w *writer) putIndex(body []byte) (snapshot.PackRef, error) {
	class, ok := pack.Smallest(len(body)+4, pack.Index)
	if !ok {
		return snapshot.PackRef{}, errors.New("archive: index payload larger than a pack")
	}
	var id pack.ID
	if _, err := rand.Read(id[:]); err != nil {
		return snapshot.PackRef{}, err
	}
	m := w.reg.Meta(pack.Index, id, class)
	payload := pack.PadPayload(nil, class, pack.Index, body)
	sealed, err := pack.SealIndex(make([]byte, 0, w.sharesSize(class)), rand.Reader, &w.reg.IndexKey, m, payload)
	if err != nil {
		return snapshot.PackRef{}, err
	}
	return w.put(m, sealed)
}
