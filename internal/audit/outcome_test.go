package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

const testDeadline = time.Minute

// TestOutcomes runs an embassy and an auditor against each other over a pipe. One
// outcome, one way for the embassy to behave.
func TestOutcomes(t *testing.T) {
	policy, all := witnesses(t)
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name   string
		behave func(*host)
		serve  func(net.Conn, *Challenge, *host) error
		read   func(net.Conn) // what the auditor does to its end before it reads
		by     []*ledger.Cosigner
		at     time.Time
		took   time.Duration
		want   Outcome
	}{
		{name: "ok", want: OK},
		{name: "a byte of each object flipped", behave: func(h *host) { h.twist = func(p *frameParts) { p.data[0] ^= 1 } }, want: Wrong},
		{name: "truncated", behave: func(h *host) { h.twist = func(p *frameParts) { p.data = p.data[:len(p.data)-1] } }, want: Wrong},
		{name: "nothing left of it", behave: func(h *host) { h.twist = func(p *frameParts) { p.data = nil } }, want: Wrong},
		{name: "another object in its place", behave: func(h *host) {
			h.twist = func(p *frameParts) {
				other := h.objects[h.names[0]]
				if p.name == h.names[0] {
					other = h.objects[h.names[1]]
				}
				p.data, p.path = other[:min(len(other), shard.LeafSize)], Path(shard.LeafHashes(nil, other), 0)
			}
		}, want: Wrong},
		{name: "another leaf of the object", behave: func(h *host) {
			h.twist = func(p *frameParts) {
				leaves := shard.LeafHashes(nil, h.objects[p.name])
				if p.leaf = (p.leaf + 1) % len(leaves); len(leaves) > 2 {
					p.data, p.path = h.objects[p.name][p.leaf*shard.LeafSize:][:1], Path(leaves, p.leaf)
				}
			}
		}, want: Wrong},
		{name: "signed by another", behave: nil, serve: func(c net.Conn, ch *Challenge, h *host) error {
			return respondAs(c, ch, h, keyOf("another"))
		}, want: Wrong},
		{name: "objects gone", behave: func(h *host) { h.gone[h.names[3]] = true }, want: Missing},
		{name: "disk errors", behave: func(h *host) { h.broken[h.names[3]] = true }, want: Missing},
		{name: "never answers", serve: func(c net.Conn, _ *Challenge, _ *host) error {
			_, err := c.Read(make([]byte, 1)) // until the auditor goes
			return err
		}, read: func(c net.Conn) { _ = c.SetReadDeadline(time.Now()) }, want: Late},
		{name: "answers too late", took: testDeadline + 1, want: Late},
		{name: "breaks off", serve: func(c net.Conn, ch *Challenge, h *host) error {
			_ = Respond(&breaking{c, 3000}, ch, h, h.key)
			return c.Close()
		}, want: Offline},
		{name: "not there", serve: func(c net.Conn, _ *Challenge, _ *host) error { return c.Close() }, want: Offline},
		{name: "too few witnesses", by: all[:1], want: Unknown},
		{name: "the witnesses' word is old", at: now.Add(-25 * time.Hour), want: Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := filled(t, "lu", 40, 5*shard.LeafSize)
			if c.behave != nil {
				c.behave(h)
			}
			if c.by == nil {
				c.by = all
			}
			if c.at.IsZero() {
				c.at = now
			}
			raw := cosigned(t, h.checkpoint(t, len(h.entries)), h.log(), c.by, c.at)
			res, err := func() (*Result, error) {
				v, err := Trusted(raw, h.log(), policy, now, 24*time.Hour)
				if err != nil {
					return nil, err
				}
				ch := NewSample(testState, h.id(), v.Checkpoint.Raw, nonceOf(1), 200)
				return overPipe(t, h, ch, c.serve, c.read)
			}()
			if got := Judge(res, err, c.took, testDeadline); got != c.want {
				t.Errorf("%v, want %v (%v)", got, c.want, err)
			}
			// The control: without a deadline what came late is as good as any.
			if c.took > testDeadline {
				if got := Judge(res, err, c.took, 2*c.took); got != OK {
					t.Errorf("%v with a deadline twice as long", got)
				}
			}
		})
	}
}

// overPipe audits an embassy at the other end of a pipe.
func overPipe(t *testing.T, h *host, ch *Challenge, serve func(net.Conn, *Challenge, *host) error, read func(net.Conn)) (*Result, error) {
	t.Helper()
	theirs, ours := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		defer theirs.Close()
		if serve != nil {
			ended <- serve(theirs, ch, h)
			return
		}
		ended <- Respond(theirs, ch, h, h.key)
	}()
	if read != nil {
		read(ours)
	}
	res, err := Verify(ours, ch, h.log())
	ours.Close()
	if err := <-ended; serve == nil && err != nil {
		t.Errorf("the embassy: %v", err)
	}
	return res, err
}

// breaking ends the connection after some bytes.
type breaking struct {
	io.Writer
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return b.Writer.Write(p)
}

// TestUnknownIsNeverOK holds every error there is against Judge: none of them, with
// whatever result, is OK.
func TestUnknownIsNeverOK(t *testing.T) {
	h := filled(t, "lu", 20, 1000)
	good, err := h.audited(t, h.sample(t, 1, 10))
	if err != nil || Judge(good, nil, 0, testDeadline) != OK { // the control
		t.Fatal(err)
	}
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{ErrFormat, Unknown},
		{ErrUnknown, Unknown},
		{ErrChallenge, Unknown},
		{ErrAnswer, Wrong},
		{ErrUnsigned, Wrong},
		{ErrCut, Offline},
		{ErrOffline, Offline},
		{ErrNotCosigned, Unknown},
		{ErrStale, Unknown},
		{ErrSignature, Unknown},
		{ledger.ErrFormat, Unknown},
		{ledger.ErrUnknown, Unknown},
		{ledger.ErrSignature, Unknown},
		{ledger.ErrProof, Unknown},
		{ledger.ErrShorter, Unknown},
		{ledger.ErrForked, Unknown},
		{ledger.ErrPolicy, Unknown},
		{context.Canceled, Unknown},
		{context.DeadlineExceeded, Late},
		{timeout, Late},
		{fmt.Errorf("%w: %w", ErrCut, timeout), Late},
		{fmt.Errorf("%w: %w", ErrOffline, timeout), Offline},
		{fmt.Errorf("%w: %w", ErrCut, context.Canceled), Unknown},
		{syscall.ECONNREFUSED, Unknown},
		{fs.ErrNotExist, Unknown},
		{io.EOF, Unknown},
		{io.ErrUnexpectedEOF, Unknown},
		{errors.New("anything"), Unknown},
	} {
		for _, err := range []error{c.err, fmt.Errorf("embassy lu: %w", c.err), errors.Join(errors.New("first"), c.err)} {
			for _, res := range []*Result{nil, {}, {Checked: 460, Objects: 460}, good} {
				if got := Judge(res, err, 0, testDeadline); got != c.want {
					t.Errorf("%v: %v, want %v", err, got, c.want)
				}
			}
		}
		lost := &Result{Missing: []Finding{{What: Gone}}}
		if got := Judge(lost, c.err, 0, testDeadline); got != Missing && got != Wrong {
			t.Errorf("%v hides a loss that was shown: %v", c.err, got)
		}
	}
	for _, res := range []*Result{nil, {}, {Checked: 460, Objects: 460}} {
		if got := Judge(res, nil, 0, testDeadline); got != Unknown {
			t.Errorf("an answer that was not read to its end is %v", got)
		}
	}
	for o := range Outcome(255) {
		if (o.String() == "ok") != (o == OK) {
			t.Errorf("outcome %d is called %v", o, o)
		}
	}
}

// A policy of one state has no witnesses to wait for.
func TestTrusted(t *testing.T) {
	h := filled(t, "lu", 3, 100)
	policy, all := witnesses(t)
	now := time.Unix(1_800_000_000, 0)
	raw := h.checkpoint(t, 4)
	alone := &ledger.Policy{Need: 1, Groups: policy.Groups[:1]}
	if _, err := Trusted(raw, h.log(), alone, now, time.Hour); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		raw  []byte
		log  ledger.Log
		want error
	}{
		{cosigned(t, raw, h.log(), all, now.Add(-time.Hour)), h.log(), nil},
		{raw, h.log(), ErrNotCosigned},
		{cosigned(t, raw, h.log(), all[:1], now), h.log(), ErrNotCosigned},
		{cosigned(t, raw, h.log(), all, now.Add(-time.Hour-time.Second)), h.log(), ErrStale},
		{cosigned(t, raw, h.log(), all, now), newHost("pt").log(), ledger.ErrSignature},
		{nil, h.log(), ledger.ErrFormat},
	} {
		v, err := Trusted(c.raw, c.log, policy, now, time.Hour)
		if !errors.Is(err, c.want) || err == nil && v.Checkpoint.Size != 4 {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}
