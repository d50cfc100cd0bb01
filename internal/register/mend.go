package register

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// mending is the repair of one pack.
type mending struct {
	in     *Inspector
	f      *Fetcher
	ref    *snapshot.PackRef
	good   []int // sites that hold their share, as far as is known
	want   []int // sites that do not
	unread int   // sites of which a share could not be read, for another reason than that it is missing or wrong
	shares [][]byte
}

// mend makes the shares that are wanted out of k others and sends them. What it made joins good.
func (m *mending) mend(ctx context.Context, made [][]shard.Name) {
	k, n := int(m.ref.K), int(m.ref.N)
	if !m.gather(ctx, k) {
		return
	}
	coder, err := m.f.coder(k, n)
	if err != nil {
		return
	}
	size := shard.Size(m.ref.Class.Size(), k)
	sealed, err := coder.Join(make([]byte, 0, n*size), m.shares, m.ref.Class.Size())
	if err != nil {
		return
	}
	parts, err := coder.Split(sealed, sealed)
	if err != nil {
		return
	}
	for _, i := range m.want {
		s, name := m.in.Sites[i], m.ref.Shares[i]
		if shard.MaskAndHash(s.Mask, m.ref.ID, i, parts[i]) != name {
			m.in.Faults.Add(Fault{"", m.ref.ID.String(), "its shares do not make the share that its head names"})
			return
		}
		if err := s.Objects.Repair(ctx, name, parts[i]); err != nil {
			s.Fail(fmt.Errorf("repairing object %s: %w", name, err))
			continue
		}
		made[i] = append(made[i], name)
		m.good = append(m.good, i)
		m.in.Moved.Add(int64(size))
	}
}

// gather fetches k shares and holds each against its name. One that is wrong joins what is wanted.
func (m *mending) gather(ctx context.Context, k int) bool {
	have := 0
	var good []int
	for _, i := range m.good {
		s, name := m.in.Sites[i], m.ref.Shares[i]
		if have == k || !s.Up() {
			good = append(good, i)
			continue
		}
		data, err := s.Objects.Get(ctx, name, nil)
		if ctx.Err() != nil {
			return false
		}
		what := ""
		switch {
		case errors.Is(err, fs.ErrNotExist):
			what = Missing
		case err != nil:
			s.Strike(fmt.Errorf("reading object %s: %w", name, err))
			m.in.Faults.Add(Fault{s.Name, name.String(), err.Error()})
			if s.Up() { // else it counts as silent
				m.unread++
			}
			continue
		case len(data) != shard.Size(m.ref.Class.Size(), k):
			what = "wrong size"
		case shard.HashAndUnmask(s.Mask, m.ref.ID, i, data) != name:
			what = "wrong bytes"
		}
		if what != "" {
			m.in.Faults.Add(Fault{s.Name, name.String(), what})
			m.want = append(m.want, i)
			continue
		}
		m.shares[i] = data
		have++
		good = append(good, i)
	}
	m.good = good
	return have == k
}
