// Package embassy is one site of a state in a host state: the server that keeps
// objects, records and a ledger and can open none of them, and the client that
// the state's machines speak to it with.
//
// An object or record is acknowledged when its bytes, its name and its leaf in
// the ledger are on disk. What is acknowledged is never changed by this package,
// and removed only by an order that a quorum of the state's people signed, logged
// before it took effect. docs/spec/embassy-api.md describes the interface,
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
	"io/fs"
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
	"chancery.dev/chancery/internal/peer"
)

// Options of a server. The zero value is good.
type Options struct {
	Log     *slog.Logger // never told contents; nil discards
	Quota   int64        // bytes each state may store; 0 is without limit
	Reserve int64        // bytes of the disk that objects never take; 0 is 64 MiB
	Version string       // of the program, for status
	// ScrubEvery is how often the embassy reads every object of its disk; 0 is
	// 30 days.
	ScrubEvery time.Duration

	now      func() time.Time
	patience time.Duration // with a peer's headers, and with a body besides its bytes
	pace     pace
}

const (
	defaultReserve = 64 << 20
	maxConns       = 512
	maxRequests    = 64 // at work at once
	maxScrubs      = 2
	maxVigils      = 32
	maxAudits      = 2
	maxWaits       = 128
	headerTime     = 30 * time.Second
	idleTime       = 2 * time.Minute
	graceTime      = 10 * time.Second
)

// Server is one embassy: its folder is locked to this process until Close.
type Server struct {
	dir      string
	settings settings
	key      ed25519.PrivateKey
	pair     *pair // that key and the second one, as cosigners
	cert     *tls.Certificate
	opts     Options
	log      *slog.Logger
	states   map[string]*state // by hex id; constant
	blocks   *blocks
	unlock   func()

	slots     chan struct{} // one token per request at work
	vigils    chan struct{} // the same for those who bring checkpoints
	audits    chan struct{}
	waits     chan struct{} // one token per request that waits aside
	scrubs    chan struct{}
	strangers chan struct{} // one token per order at work that nobody known brings
	strange   *bucket
	active    sync.WaitGroup

	closing sync.Once
	closed  error
}

// routeOnce sends the ledger driver's log lines, which are the process's, to the
// first server's logger.
var routeOnce sync.Once

// Open opens the folder that Establish made. It brings every state's catalogue up to
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
	if opts.pace == (pace{}) {
		opts.pace = defaultPace()
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
		strangers: make(chan struct{}, maxStrangers), strange: newBucket(strangersRate),
		vigils: make(chan struct{}, maxVigils), audits: make(chan struct{}, maxAudits), waits: make(chan struct{}, maxWaits),
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
	if s.pair, err = openPair(s.dir); err != nil {
		return err
	}
	s.key = s.pair.key
	if s.cert, err = peer.Certificate(s.key); err != nil {
		return fmt.Errorf("embassy: %w", err)
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
		admitted, err := s.admitted(filepath.Join(s.dir, "states", e.Name()))
		if err != nil {
			return fmt.Errorf("embassy: state %s: %w", id, err)
		}
		if !admitted {
			s.log.Warn("a state is not served: it was not admitted to the end", "state", id.String())
			continue
		}
		st, err := openState(filepath.Join(s.dir, "states", e.Name()), id, s.key, &s.opts, s.blocks)
		if err != nil {
			return fmt.Errorf("embassy: state %s: %w", id, err)
		}
		s.states[e.Name()] = st
		if err := st.watch(s); err != nil {
			return fmt.Errorf("embassy: state %s: %w", id, err)
		}
	}
	return nil
}

// admitted tells whether a state's folder is to be served. One that an Admit left which crashed is not, and keeps nobody
// else from being served; one that was served before and lost its agreement is opened, which fails.
func (s *Server) admitted(folder string) (bool, error) {
	if s.settings.Version != bound {
		return true, nil
	}
	there, err := exists(filepath.Join(folder, agreementFile))
	if there || err != nil {
		return there, err
	}
	_, err = os.Lstat(filepath.Join(folder, ledgerFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
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
	go func() { ended <- hs.Serve(&listener{peer.Room(ln, maxConns), cfg}) }()
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

// listener wraps what it accepts in TLS, so that a large write can be corked
// under it. The handshake happens at first use.
type listener struct {
	net.Listener
	cfg *tls.Config
}

// Accept waits for a peer.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&corked{Conn: c}, l.cfg), nil
}
