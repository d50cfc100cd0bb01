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
