package register

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// Verdict is how a pack stands with the embassies that its shares are for.
type Verdict uint8

// What Inspector.Found is told of a pack.
const (
	Whole  Verdict = iota + 1 // every embassy holds its share
	Thin                      // some do not, k do
	Hidden                    // fewer than k show a share, and with those that do not answer it could be k
	Lost                      // fewer than k hold one, or k shares do not make what they should
)

// Tally is what an Inspector did so far.
type Tally struct {
	Packs    int   // looked at
	Objects  int   // good shares of them
	Bytes    int64 // of objects that were fetched
	Chunks   int   // that were opened
	Repaired int   // objects that were made and sent
}

// Inspector holds packs against what their embassies have of them, a batch at a time, and makes good what some lack.
// It works on one batch at a time; its fields are not changed meanwhile.
type Inspector struct {
	Register *Register
	Agent    *Agent // signs for what is repaired
	Sites    Sites
	Faults   *Faults // takes what embassies lack or gave wrong

	Read bool             // every embassy reads every object on its own disk
	Data bool             // Check fetches every object and holds it against its name
	Key  *seal.PrivateKey // not nil: Check opens every pack, and holds every chunk against its id

	Head  uint64                           // the number under which deliveries of what is repaired stand
	Found func(*snapshot.PackRef, Verdict) // told of each pack, of one at a time
	Moved *atomic.Int64                    // counts the bytes that were fetched or sent, as they are

	mu    sync.Mutex // guards tally
	tally Tally
	sent  []*Deliverer // to each site that was given something
}

// fetchersAtOnce is how many packs Check fetches and opens at once.
const fetchersAtOnce = 3

// Tally returns what was done so far.
func (in *Inspector) Tally() Tally {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.tally
}

// Lacking asks every site what it does not hold of a batch, and returns that for each, by its share. A site that does not
// answer is down, and then lacks everything: that is said once, not for each object.
func (in *Inspector) Lacking(ctx context.Context, batch []snapshot.PackRef) []map[shard.Name]bool {
	out := make([]map[shard.Name]bool, len(in.Sites))
	var all sync.WaitGroup
	for i, s := range in.Sites {
		out[i] = map[shard.Name]bool{}
		if !s.Up() || len(batch) == 0 {
			continue
		}
		all.Go(func() {
			names := make([]shard.Name, len(batch))
			for j := range batch {
				names[j] = batch[j].Shares[i]
			}
			flaws, err := s.Objects.Check(ctx, names, in.Read)
			if err != nil {
				s.Fail(fmt.Errorf("checking objects: %w", err))
				return
			}
			for _, f := range flaws {
				out[i][f.Name] = true
				in.Faults.Add(Fault{s.Name, f.Name.String(), f.What})
			}
		})
	}
	all.Wait()
	return out
}

// Check looks at one batch as deep as was asked. It fails only when ctx ends.
func (in *Inspector) Check(ctx context.Context, batch []snapshot.PackRef) error {
	bad := in.Lacking(ctx, batch)
	work := make(chan int)
	var all sync.WaitGroup
	for range fetchersAtOnce {
		all.Go(func() {
			u := in.newOpener()
			for j := range work {
				in.checkPack(ctx, u, &batch[j], bad)
			}
		})
	}
	for j := range batch {
		if ctx.Err() != nil {
			break
		}
		work <- j
	}
	close(work)
	all.Wait()
	return ctx.Err()
}

func (in *Inspector) checkPack(ctx context.Context, u *packOpener, ref *snapshot.PackRef, bad []map[shard.Name]bool) {
	good := 0
	for i, s := range in.Sites {
		if !s.Up() || bad[i][ref.Shares[i]] {
			continue
		}
		if in.Data && !in.fetchShare(ctx, u, s, ref) {
			continue
		}
		good++
	}
	opens := true
	chunks := 0
	if in.Key != nil && good >= int(ref.K) {
		n, err := u.open(ctx, ref)
		if chunks = n; err != nil && ctx.Err() == nil && !errors.Is(err, ErrTooFew) {
			opens = false
			in.Faults.Add(Fault{"", ref.ID.String(), err.Error()})
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.tally.Packs++
	in.tally.Objects += good
	in.tally.Chunks += chunks
	in.judge(ref, good, 0, opens)
}

// judge tells how a pack stands, by how many embassies show a good share of it, and at how many that answer it could not be
// read just now.
func (in *Inspector) judge(ref *snapshot.PackRef, good, unread int, opens bool) {
	silent := len(in.Sites) - len(in.Sites.Up()) + unread
	verdict := Whole
	switch k := int(ref.K); {
	case !opens || good+silent < k:
		verdict = Lost
	case good < k:
		verdict = Hidden
	case good < int(ref.N):
		verdict = Thin
	}
	in.Found(ref, verdict)
}

// fetchShare gets one object and holds it against its name.
func (in *Inspector) fetchShare(ctx context.Context, u *packOpener, s *Site, ref *snapshot.PackRef) bool {
	name := ref.Shares[s.Share]
	data, err := s.Objects.Get(ctx, name, u.share[:0])
	what := ""
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, fs.ErrNotExist):
		what = Missing
	case err != nil:
		what = err.Error()
		s.Strike(fmt.Errorf("reading object %s: %w", name, err))
	case shard.Root(data) != name:
		what = "wrong bytes"
	}
	if err == nil {
		u.share = data[:0]
		s.Answered()
	}
	in.Moved.Add(int64(len(data)))
	in.mu.Lock()
	in.tally.Bytes += int64(len(data))
	in.mu.Unlock()
	if what != "" {
		in.Faults.Add(Fault{s.Name, name.String(), what})
	}
	return what == ""
}

// Repair makes what the sites lack of a batch out of k other shares, with no key that opens, and takes the receipts of
// it. What of it is signed for by the agent goes out with Deliver, or when there is much. It fails only when ctx ends; a
// site that does not take its share is down.
func (in *Inspector) Repair(ctx context.Context, batch []snapshot.PackRef) error {
	bad := in.Lacking(ctx, batch)
	f := &Fetcher{Register: in.Register, Sites: in.Sites, Faults: in.Faults}
	made := make([][]shard.Name, len(in.Sites))
	for j := range batch {
		m := &mending{in: in, f: f, ref: &batch[j], shares: make([][]byte, len(in.Sites))}
		for i, s := range in.Sites {
			switch {
			case !s.Up():
			case bad[i][m.ref.Shares[i]]:
				m.want = append(m.want, i)
			default:
				m.good = append(m.good, i)
			}
		}
		if len(m.want) > 0 {
			m.mend(ctx, made)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		in.tally.Packs++
		in.tally.Objects += len(m.good)
		in.judge(m.ref, len(m.good), m.unread, true)
	}
	for i, s := range in.Sites {
		if len(made[i]) == 0 || !s.Up() {
			continue
		}
		if err := in.signFor(ctx, i, made[i]); err != nil {
			s.Fail(fmt.Errorf("receipts of repaired objects: %w", err))
			continue
		}
		in.tally.Repaired += len(made[i])
	}
	return nil
}

// signFor takes a site's receipts of what it was given again, and signs that it was given it, up to the newest head.
func (in *Inspector) signFor(ctx context.Context, i int, names []shard.Name) error {
	s := in.Sites[i]
	if _, err := s.Records.Receipts(ctx, names, nil); err != nil {
		return err
	}
	if in.sent == nil {
		in.sent = make([]*Deliverer, len(in.Sites))
	}
	var err error
	if in.sent[i] == nil {
		if in.sent[i], err = NewDeliverer(ctx, in.Register, in.Agent, s, in.Head, 0); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := in.sent[i].Add(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// Deliver hands in the deliveries of what was repaired so far.
func (in *Inspector) Deliver(ctx context.Context) {
	for i, sent := range in.sent {
		in.sent[i] = nil
		if sent == nil || !in.Sites[i].Up() {
			continue
		}
		if err := sent.Flush(ctx); err != nil {
			in.Sites[i].Fail(err)
		}
	}
}
