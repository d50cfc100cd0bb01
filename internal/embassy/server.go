// Package embassy is one site of a state in a host state: the server that keeps
// objects, records and a ledger and can open none of them, and the client that
// the state's machines speak to it with.
//
// An object or record is acknowledged when its bytes, its name and its leaf in
// the ledger are on disk. What is acknowledged is never deleted or changed by
// this package. docs/spec/embassy-api.md describes the interface,
// docs/spec/ledger.md the ledger.
//
// Old data: the folder carries a version (embassy.yaml). Folders and ledgers of
// every released version are served for ever; catalog.db and tmp/ are derived
// and may be removed while no server runs.
package embassy

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// Options of a server. The zero value is good.
type Options struct {
	Log     *slog.Logger // never told contents; nil discards
	Quota   int64        // bytes each state may store; 0 is without limit
	Reserve int64        // bytes of the disk that objects never take; 0 is 64 MiB
	Version string       // of the program, for status

	now      func() time.Time
	patience time.Duration // with a peer's headers, and with a body besides its bytes
}

const (
	defaultReserve = 64 << 20
	maxConns       = 512
	maxRequests    = 64 // at work at once
	maxScrubs      = 2
	headerTime     = 10 * time.Second
	idleTime       = 2 * time.Minute
	graceTime      = 10 * time.Second
)

// Server is one embassy: its folder is locked to this process until Close.
type Server struct {
	dir      string
	settings settings
	key      ed25519.PrivateKey
	cert     *tls.Certificate
	opts     Options
	log      *slog.Logger
	states   map[string]*state // by hex id; constant
	blocks   *blocks
	unlock   func()

	slots  chan struct{} // one token per request at work
	scrubs chan struct{}
	active sync.WaitGroup

	closing sync.Once
	closed  error
}

// routeOnce sends the ledger driver's log lines, which are the process's, to the
// first server's logger.
var routeOnce sync.Once

// Open opens the folder that Init made. It brings every state's catalogue up to
// its ledger, which after a crash or a lost catalogue means reading the ledger.
func Open(dir string, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Reserve == 0 {
		opts.Reserve = defaultReserve
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	if opts.patience == 0 {
		opts.patience = headerTime
	}
	routeOnce.Do(func() { klog.SetSlogLogger(opts.Log.With("part", "ledger")) })
	unlock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("embassy: open %s: %w", dir, err)
	}
	s := &Server{
		dir: dir, opts: opts, log: opts.Log, unlock: unlock,
		states: make(map[string]*state), blocks: &blocks{},
		slots: make(chan struct{}, maxRequests), scrubs: make(chan struct{}, maxScrubs),
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open() error {
	var err error
	if s.settings, err = loadSettings(s.dir); err != nil {
		return err
	}
	if s.key, err = loadKey(filepath.Join(s.dir, keyFile)); err != nil {
		return err
	}
	if s.cert, err = certificate(s.key); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "states"))
	if err != nil {
		return fmt.Errorf("embassy: states: %w", err)
	}
	for _, e := range entries {
		id, err := charter.ParseStateID(e.Name())
		if err != nil {
			return fmt.Errorf("embassy: states: %s: %w", e.Name(), err)
		}
		st, err := openState(filepath.Join(s.dir, "states", e.Name()), id, s.key, &s.opts, s.blocks)
		if err != nil {
			return fmt.Errorf("embassy: state %s: %w", id, err)
		}
		s.states[e.Name()] = st
	}
	return nil
}

// Close waits for requests at work, publishes the ledgers' last checkpoints,
// ends all background work and frees the folder. End Serve first.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.active.Wait()
		var errs []error
		for _, st := range s.states {
			errs = append(errs, st.close())
		}
		s.unlock()
		s.closed = errors.Join(errs...)
	})
	return s.closed
}

// Fingerprint is what people compare: "SHA256:" and base64 of the embassy's key.
func (s *Server) Fingerprint() string { return charter.Fingerprint(publicOf(s.key)) }

// Serve answers on ln, which it closes, until ctx ends or ln fails. Then it lets
// requests at work finish for a while, cuts the rest, and returns nil if ctx was
// the reason. The server is still open; Close it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	cfg := tlsConfig(s.cert)
	cfg.ClientAuth = tls.RequestClientCert
	cfg.NextProtos = []string{"h2", "http/1.1"}
	hs := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         cfg,
		ReadHeaderTimeout: s.opts.patience,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 32},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				if under, ok := t.NetConn().(*corked); ok {
					return context.WithValue(ctx, corkKey{}, under)
				}
			}
			return ctx
		},
	}
	ended := make(chan error, 1)
	go func() {
		ended <- hs.Serve(&listener{Listener: ln, cfg: cfg, room: make(chan struct{}, maxConns), end: make(chan struct{})})
	}()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("embassy: serve: %w", err), hs.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer cancel()
	err := hs.Shutdown(grace)
	if err != nil {
		s.log.Warn("cutting requests that did not end", "err", err)
		err = hs.Close()
	}
	s.active.Wait()
	<-ended
	if err != nil {
		return fmt.Errorf("embassy: serve: %w", err)
	}
	return nil
}

// corkKey finds the connection under TLS in a request's context.
type corkKey struct{}

// listener wraps what it accepts in TLS and caps how many there are.
type listener struct {
	net.Listener
	cfg  *tls.Config
	room chan struct{}
	end  chan struct{}
	once sync.Once
}

// Accept waits for room, then for a peer. The handshake happens at first use.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.end:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	var once sync.Once
	free := func() { once.Do(func() { <-l.room }) }
	return tls.Server(&corked{Conn: &counted{Conn: c, free: free}}, l.cfg), nil
}

// Close also wakes an Accept that waits for room.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.end) })
	return l.Listener.Close()
}

// counted gives its place back when closed.
type counted struct {
	net.Conn
	free func()
}

func (c *counted) Close() error {
	defer c.free()
	return c.Conn.Close()
}
