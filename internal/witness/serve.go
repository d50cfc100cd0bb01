package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"chancery.dev/chancery/internal/peer"
)

const (
	maxConns  = 256 // open connections; more wait
	idleTime  = time.Minute
	graceTime = 5 * time.Second // for requests at work, when the server ends
)

// Serve answers for the witness on ln, which it closes, until ctx ends or ln fails; nil if ctx was the reason. With a
// TLS configuration it speaks HTTPS (see [ServerTLS]), without one plain HTTP: what it answers is signed, and public.
func (w *Witness) Serve(ctx context.Context, ln net.Listener, cfg *tls.Config, logger *slog.Logger) error {
	ln = peer.Room(ln, maxConns)
	if cfg != nil {
		cfg = cfg.Clone()
		cfg.NextProtos = []string{"h2", "http/1.1"}
		ln = tls.NewListener(ln, cfg)
	}
	hs := &http.Server{
		Handler: told(w.Handler(), logger), ReadHeaderTimeout: bodyTime, IdleTimeout: idleTime, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 16},
	}
	ended := make(chan error, 1)
	go func() { ended <- hs.Serve(ln) }()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("witness: serve: %w", err), hs.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer cancel()
	err := hs.Shutdown(grace)
	if err != nil {
		err = hs.Close() // whoever is cut asks again
	}
	<-ended
	if err != nil {
		return fmt.Errorf("witness: serve: %w", err)
	}
	return nil
}

// told logs method, path and status of each request: origins are no secret, addresses of peers are not noted.
func told(h http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s := &status{ResponseWriter: rw, code: http.StatusOK}
		h.ServeHTTP(s, r)
		level := slog.LevelInfo
		if s.code >= http.StatusInternalServerError && s.code != http.StatusServiceUnavailable {
			level = slog.LevelError
		}
		path := r.URL.Path
		logger.Log(r.Context(), level, "asked", "method", r.Method, "path", path[:min(len(path), 100)], "status", s.code)
	})
}

type status struct {
	http.ResponseWriter
	code int
}

// WriteHeader notes the status.
func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets deadlines through.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
