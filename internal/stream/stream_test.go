package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// piece is a stretch as a test made it: a function of its number alone.
func piece(n int) (position, data []byte) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	data = make([]byte, 1+r.IntN(3000))
	for i := range data {
		data[i] = byte(r.IntN(16))
	}
	return fmt.Appendf(nil, "position %d", n), data
}

// flow is a stream and what became of what was appended to it.
type flow struct {
	*bench
	*stream.Stream
	options stream.Options

	mu   sync.Mutex
	told []int // numbers of pieces that were told to be durable, in order
	lost []error
}

func (b *bench) flow() *flow { return b.flowOf(stream.Options{}) }

func (b *bench) flowOf(o stream.Options) *flow {
	b.Helper()
	f := &flow{bench: b, options: o}
	var err error
	f.Stream, err = stream.Open(b.Context(), b.reg(), b.state.Agent, o)
	check(b, err)
	return f
}

func (f *flow) tryAppend(ctx context.Context, n int, data []byte) error {
	position, small := piece(n)
	if data == nil {
		data = small
	}
	return f.Append(ctx, position, data, func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if err != nil {
			f.lost = append(f.lost, err)
			return
		}
		f.told = append(f.told, n)
	})
}

// write appends pieces from one number to another, and waits until they are durable.
func (f *flow) write(from, to int) {
	f.Helper()
	for n := from; n <= to; n++ {
		check(f, f.tryAppend(f.Context(), n, nil))
	}
	f.flush()
}

func (f *flow) flush() {
	f.Helper()
	ctx, stop := context.WithTimeout(f.Context(), 5*time.Minute)
	defer stop()
	check(f, f.Flush(ctx))
}

func (f *flow) end() {
	f.Helper()
	check(f, f.Close(f.Context()))
}

// pauses yields short waits for a minute, and then fails the test.
func (f *flow) pauses() func(yield func(wait func()) bool) {
	return func(yield func(func()) bool) {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			if !yield(func() { time.Sleep(time.Millisecond) }) {
				return
			}
		}
		f.Fatal("waited for a minute")
	}
}

// until waits until a condition holds.
func (f *flow) until(holds func() bool) {
	f.Helper()
	for wait := range f.pauses() {
		if holds() {
			return
		}
		wait()
	}
}

// everywhere waits until every embassy has the shares and the records of so many stretches.
func (f *flow) everywhere(n int) {
	f.Helper()
	f.until(func() bool {
		return !slices.ContainsFunc(f.state.Embassies, func(e *sim.Embassy) bool {
			return records(e, ledger.StretchRecord) != n || len(e.Objects()) != n
		})
	})
}

// reading is a reader and what it finds wrong.
type reading struct {
	*stream.Reader
	*register.Faults
}

// stretches lists the stream on a machine that has nothing, and holds each embassy against its ledger. No embassy of
// which it is not told beforehand may withhold anything.
func (b *bench) stretches(from uint64) (reading, *stream.Index) {
	b.Helper()
	r, x, withheld := b.looks(from, true)
	for who, e := range withheld {
		b.Errorf("%s is said to withhold %+v", who, e)
	}
	return r, x
}

// looks is stretches with or without a look into the ledgers, and what embassies withhold.
func (b *bench) looks(from uint64, ledgers bool) (reading, *stream.Index, map[string]register.Entered) {
	b.Helper()
	reg := b.state.Register(sim.FastDir(b))
	reg.Members = slices.Clone(reg.Members)
	var mu sync.Mutex
	withheld := map[string]register.Entered{}
	for i, e := range b.state.Embassies {
		if ledgers {
			reg.Members[i].Ledger = e.Witnessed(func(x register.Entered) {
				mu.Lock()
				defer mu.Unlock()
				withheld[e.Name] = x
			})
		}
	}
	r := reading{Faults: &register.Faults{}}
	r.Reader = stream.NewReader(&register.Fetcher{
		Register: reg, Sites: reg.Sites(), Opener: pack.NewOpener(b.state.Key), Faults: r.Faults,
	}, b.state.Agent)
	x, err := r.Stretches(b.Context(), from)
	check(b, err)
	return r, x, withheld
}

// reads holds what the stream gives against the pieces from one number to another.
func (b *bench) reads(from, to int) {
	b.Helper()
	r, x := b.stretches(1)
	check(b, x.Complete())
	if x.Len() != to-from+1 {
		b.Fatalf("%d stretches, want %d to %d", x.Len(), from, to)
	}
	for i := range x.Len() {
		position, want := piece(from + i)
		if got := x.At(i).Position; string(got) != string(position) {
			b.Fatalf("stretch %d stands at %q, want %q", i, got, position)
		}
		got, err := r.ReadStretch(b.Context(), x, i)
		check(b, err)
		if string(got) != string(want) {
			b.Fatalf("stretch %d has other bytes", i)
		}
	}
}

func TestAStreamComesBackAsItWasWritten(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 40)
	if _, n, err := f.Last(); n != 40 || err != nil {
		t.Fatal(n, err)
	}
	for i, n := range f.told {
		if n != i+1 {
			t.Fatalf("told in the order %v", f.told)
		}
	}
	b.reads(1, 40)
	check(t, f.Gather(t.Context()))
	b.reads(1, 40)
	f.write(41, 60)
	b.reads(1, 60)
	f.end()
	b.reads(1, 60)
	f = b.flow()
	if p, n, err := f.Last(); n != 60 || string(p) != "position 60" || err != nil {
		t.Fatal(n, string(p), err)
	}
	f.write(61, 61)
	f.end()
	b.reads(1, 61)
	newest, err := stream.FindNewest(t.Context(), b.state.Register(sim.FastDir(b)), b.state.Agent)
	check(t, errors.Join(err, newest.Unproven))
	if newest.Sequence != 61 || string(newest.Position) != "position 61" {
		t.Fatalf("%+v", newest)
	}
}

// Stretches are compressed at once, and still go in the order in which they came.
func TestWhatIsSmallDoesNotOvertakeWhatIsLarge(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = byte("0123456789abcdef"[i*i>>3&15])
	}
	const n = 12
	for i := 1; i <= n; i++ {
		data := large
		if i%2 == 0 {
			data = []byte("small")
		}
		check(t, f.tryAppend(t.Context(), i, data))
	}
	f.flush()
	f.end()
	_, x := b.stretches(1)
	for i := range n {
		if f.told[i] != i+1 || x.Len() != n || string(x.At(i).Position) != fmt.Sprintf("position %d", i+1) {
			t.Fatalf("told in the order %v; %d stretches, of which number %d is at %s", f.told, x.Len(), i+1, x.At(i).Position)
		}
	}
}

// Whatever was taken is told what became of it, also what had not even left when the stream ended.
func TestAStreamThatEndsTellsAll(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 2)
	for _, e := range b.state.Embassies {
		e.Fail(sim.Down())
	}
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	taken := 2
	for f.tryAppend(ctx, taken+1, nil) == nil {
		taken++
	}
	over, end := context.WithCancel(t.Context())
	end()
	_ = f.Close(over)
	if len(f.told) != 2 || len(f.told)+len(f.lost) != taken || taken < 19 {
		t.Fatalf("%d were taken, %d told to be durable, %d not to be", taken, len(f.told), len(f.lost))
	}
	for _, err := range f.lost {
		if !errors.Is(err, stream.ErrClosed) {
			t.Error(err)
		}
	}
}
