package peer

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
)

// hall is a listener whose guests come when the test sends them.
type hall struct {
	net.Listener
	come chan error // nil is a guest
}

func (h *hall) Accept() (net.Conn, error) {
	if err := <-h.come; err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	return near, far.Close()
}

func (h *hall) Close() error { return nil }

func newHall(most int) (*hall, net.Listener) {
	h := &hall{come: make(chan error, 16)}
	return h, Room(h, most)
}

func accepted(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// next accepts in the background.
func next(ln net.Listener) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		done <- err
	}()
	return done
}

// waits fails when somebody got in who has to wait. It returns when nothing moves any more.
func waits(t *testing.T, done <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	default:
	}
}

func TestNoMoreThanSoManyAreIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, ln := newHall(2)
		for range 4 {
			h.come <- nil
		}
		first, _ := accepted(t, ln), accepted(t, ln)
		third := next(ln)
		waits(t, third)
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-third; err != nil {
			t.Fatal(err)
		}
		_ = first.Close() // whoever leaves twice gives one place back
		fourth := next(ln)
		waits(t, fourth)
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-fourth; !errors.Is(err, net.ErrClosed) {
			t.Errorf("whoever waits for a place is told %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	})
}

func TestAFailedAcceptTakesNoPlace(t *testing.T) {
	h, ln := newHall(1)
	failed := errors.New("no more descriptors")
	for range 3 {
		h.come <- failed
		if _, err := ln.Accept(); !errors.Is(err, failed) {
			t.Fatal(err)
		}
	}
	h.come <- nil
	accepted(t, ln)
}
