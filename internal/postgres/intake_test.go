package postgres

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func never() bool { return false }

// Whatever comes goes out in order, in pieces that are no larger than a pack holds, and nothing waits longer than it may.
func TestWhatComesInGoesOut(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := newIntake(pace{small: 50, full: 900, interval: 30 * time.Millisecond, now: func() bool { return seed%3 == 0 }})
		var sent []byte
		go func() {
			r := rand.New(rand.NewPCG(seed, 2))
			for range 40 {
				b := make([]byte, r.IntN(700))
				for i := range b {
					b[i] = byte(r.IntN(256))
				}
				sent = append(sent, b...)
				if err := in.add(b); err != nil {
					t.Error(err)
				}
				if r.IntN(10) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			in.close()
		}()
		var got []byte
		for {
			piece, err := in.next()
			if err != nil {
				t.Fatal(err)
			}
			if len(piece) == 0 {
				break
			}
			if len(piece) > 900 {
				t.Fatalf("%d bytes behind %d", len(piece), len(got))
			}
			got = append(got, piece...)
			if r.IntN(5) == 0 {
				in.set(20+r.IntN(100), 300+r.IntN(600))
			}
		}
		if !bytes.Equal(got, sent) {
			t.Fatalf("seed %d: %d bytes, and %d were sent", seed, len(got), len(sent))
		}
	}
}

// However the ring grows, lies and is emptied, what goes out is what came in, and a piece stays what it is while more comes.
// It grows no further than what waits and is lent, and a calm time makes it small again.
func TestTheRingKeepsWhatWaits(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 3))
	source := make([]byte, 1<<20+977) // repeated: a shift or a loss shows
	for i := range source {
		source[i] = byte(r.IntN(256))
	}
	from := func(at int, n int) []byte {
		b := make([]byte, 0, n)
		for len(b) < n {
			k := (at + len(b)) % len(source)
			b = append(b, source[k:min(len(source), k+n-len(b))]...)
		}
		return b
	}
	in := newIntake(pace{small: 50 << 10, full: 2 << 20, interval: time.Millisecond, now: never})
	const total = 300 << 20
	go func() {
		for at := 0; at < total; {
			n := min(1+rand.IntN(400<<10), total-at)
			if err := in.add(from(at, n)); err != nil {
				t.Error(err)
			}
			at += n
			if rand.IntN(200) == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		in.close()
	}()
	at, largest := 0, 0
	for {
		piece, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if len(piece) == 0 {
			break
		}
		if r.IntN(20) == 0 {
			time.Sleep(3 * time.Millisecond) // more comes, and must leave the piece alone
		}
		if !bytes.Equal(piece, from(at, len(piece))) {
			t.Fatalf("%d bytes from %d on are others than came", len(piece), at)
		}
		at += len(piece)
		in.set(20<<10+r.IntN(200<<10), 300<<10+r.IntN(most-300<<10))
		in.mu.Lock()
		largest = max(largest, len(in.ring))
		in.mu.Unlock()
	}
	if at != total || largest <= smallRing || largest > largeRing {
		t.Errorf("%d of %d bytes, a ring of %d", at, total, largest)
	}
	calm := newIntake(pace{small: 50, full: most, interval: time.Millisecond, now: never})
	for _, n := range []int{5 << 20, 1000, 1000} {
		if err := calm.add(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		for left := n; left > 0; {
			piece, err := calm.next()
			if err != nil {
				t.Fatal(err)
			}
			left -= len(piece)
		}
		calm.free() // as next does before it waits
	}
	if len(calm.ring) > smallRing {
		t.Errorf("%d bytes are kept for nothing", len(calm.ring))
	}
}

// A byte waits for the interval when it is alone, less when there is enough for a pack, and not at all when all that a
// stretch holds is there or somebody waits for it.
func TestWhatWaitsAndWhatGoes(t *testing.T) {
	for what, c := range map[string]struct {
		bytes, piece int
		now          bool
		least, most  time.Duration
	}{
		"alone":            {1, 1, false, 400 * time.Millisecond, time.Minute},
		"a small pack":     {60, 50, false, brisk, 350 * time.Millisecond},
		"some small packs": {400, 50, false, brisk, 350 * time.Millisecond},
		"more than half":   {500, 500, false, brisk, 350 * time.Millisecond},
		"a pack":           {900, 900, false, 0, 100 * time.Millisecond},
		"more than a pack": {1500, 900, false, 0, 100 * time.Millisecond},
		"somebody waits":   {1, 1, true, 0, 100 * time.Millisecond},
		"and for as much":  {400, 400, true, 0, 100 * time.Millisecond},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			in := newIntake(pace{small: 50, full: 900, interval: 400 * time.Millisecond, now: func() bool { return c.now }})
			started := time.Now()
			if err := in.add(make([]byte, c.bytes)); err != nil {
				t.Fatal(err)
			}
			piece, err := in.next()
			took := time.Since(started)
			if err != nil || len(piece) != c.piece || took < c.least {
				t.Errorf("%d bytes after %s, %v; want %d after %s", len(piece), took, err, c.piece, c.least)
			}
			if took > c.most {
				t.Logf("after %s on a slow machine", took)
			}
		})
	}
}

// The end of a backlog does not wait as a byte does that came alone: here that would be an hour. While the server is ahead,
// and when the end is gone, all waits as ever.
func TestTheEndOfABacklogGoesSoon(t *testing.T) {
	p := pace{small: 50, full: 900, interval: time.Hour, now: never}
	in := newIntake(p)
	in.heard(400, 1330, time.Now())
	if _, goes := p.due(30, time.Minute, in.ahead, in.backlog); goes || !in.ahead {
		t.Error("it does not wait for what is to come")
	}
	in.heard(1330, 1330, time.Now())
	if err := in.add(make([]byte, 930)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{900, 30} {
		if piece, err := in.next(); err != nil || len(piece) != want {
			t.Fatal(len(piece), err)
		}
	}
	if _, goes := p.due(30, time.Minute, in.ahead, in.backlog); goes {
		t.Error("what comes later does not wait")
	}
}

// A receiver waits while too much is pending, and is told when nobody takes it any more.
func TestAFullIntakeWaits(t *testing.T) {
	in := newIntake(pace{small: 1 << 20, full: 8 << 20, interval: time.Hour, now: never})
	if err := in.add(make([]byte, mostPending)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- in.add([]byte{1}) }()
	select {
	case err := <-done:
		t.Fatal("it took more than it may hold", err)
	case <-time.After(20 * time.Millisecond):
	}
	if piece, err := in.next(); err != nil || len(piece) != 8<<20 {
		t.Fatal(len(piece), err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	in.fail(gone)
	if err := in.add([]byte{1}); !errors.Is(err, gone) {
		t.Error(err)
	}
	if _, err := in.next(); !errors.Is(err, gone) {
		t.Error(err)
	}
}
