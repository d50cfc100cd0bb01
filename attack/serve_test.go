package attack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// tracedServer is an embassy's server under a tracer.
type tracedServer struct {
	pid   int
	out   string
	ended chan struct{}
	code  int
	err   error
}

// traceServer starts an embassy's server under a tracer, and returns when it serves or has ended.
func (g *ground) traceServer(x *tracer, h *host) (*tracedServer, error) {
	out, err := os.CreateTemp(g.dir, "serve-*")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s := &tracedServer{out: out.Name(), ended: make(chan struct{})}
	pid := make(chan int, 1)
	go func() {
		defer close(s.ended)
		argv := []string{program, "--json", "embassy", "serve", "--dir", h.dir, "--listen", h.listen}
		s.code, s.err = x.run(argv, out, nil, func(p int) { pid <- p })
	}()
	select {
	case s.pid = <-pid:
	case <-s.ended:
		return nil, errors.Join(s.err, errors.New("the server does not start"))
	}
	for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(5 * time.Millisecond) {
		// Not by what it prints: that is one of the calls that fail.
		if c, err := net.Dial("tcp", h.listen); err == nil {
			return s, c.Close()
		}
		select {
		case <-s.ended:
			return s, s.err
		default:
		}
	}
	return nil, errors.Join(errors.New("the server neither serves nor ends"), s.stop())
}

// stop ends the server, by force if it must.
func (s *tracedServer) stop() error {
	defer os.Remove(s.out)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-s.ended:
			return s.err
		default:
		}
		_ = syscall.Kill(s.pid, sig)
		select {
		case <-s.ended:
		case <-time.After(2 * time.Minute):
		}
	}
	<-s.ended
	return s.err
}

// traceServing runs a backup against a traced server, with the embassy's own server before and after. The snapshot
// is added to held if it was acknowledged.
func (g *ground) traceServing(x *tracer, register, tree string, before []acked) (held []acked, err error) {
	held = before
	h := g.hosts[0]
	h.stop(syscall.SIGTERM)
	defer func() { err = errors.Join(err, h.start()) }()
	s, err := g.traceServer(x, h)
	if err != nil {
		return held, err
	}
	r := chancery("--json", "backup", register, "--home", g.home)
	if err := s.stop(); err != nil {
		return held, err
	}
	if r.code == 0 {
		snapshot, err := newSnapshot(r.out)
		if err != nil {
			return held, fmt.Errorf("exit 0 without an answer: %w", err)
		}
		held = append(held, acked{snapshot, tree})
	}
	if x.at == 0 && r.code != 0 {
		return held, fmt.Errorf("clean run: %v", r)
	}
	return held, nil
}

// TestEverySystemCallOfAnEmbassy does to an embassy's server, from its start to its end and with a backup between,
// what TestEverySystemCallOfABackup does to the agent. The register is kept at this embassy alone, so what it
// acknowledged is there or lost.
func TestEverySystemCallOfAnEmbassy(t *testing.T) {
	t.Parallel()
	const workers = 4
	var grounds []*ground
	for n := range workers {
		grounds = append(grounds, newGround(t, filepath.Join(t.TempDir(), fmt.Sprint(n)), "lu"))
	}
	g := grounds[0]
	register, tree, held, err := g.begin(t, false)
	if err != nil {
		t.Fatal(err)
	}
	clean := &tracer{}
	if _, err := g.traceServing(clean, register, tree, held); err != nil {
		t.Fatal(err)
	}
	overGrounds(t, grounds, strikes(t, clean.named(), 36), func(g *ground, s strike) error {
		register, tree, held, err := g.begin(t, false)
		if err != nil {
			return err
		}
		x := &tracer{call: calls()[s.name], at: s.at, harm: s.harm}
		if held, err = g.traceServing(x, register, tree, held); err != nil {
			return err
		}
		return g.settle(register, tree, held)
	})
}

// TestSettlingSeesLoss is the control of both: an embassy that loses what it acknowledged, or holds it wrong, is found.
func TestSettlingSeesLoss(t *testing.T) {
	t.Parallel()
	g := newGround(t, t.TempDir(), "lu")
	for _, harm := range []func(path string) error{os.Remove, func(path string) error { return os.Truncate(path, 100) }} {
		register, tree, held, err := g.begin(t, false)
		if err != nil {
			t.Fatal(err)
		}
		x := steal(t, g.home, register, g.hosts)
		_, packs := x.packs(t)
		if err := harm(objectPath(t, g.hosts[0], packs[0].Ref.Shares[0])); err != nil {
			t.Fatal(err)
		}
		if err := g.settle(register, tree, held); err == nil {
			t.Error("an acknowledged object is lost, and nothing is amiss")
		}
	}
}
