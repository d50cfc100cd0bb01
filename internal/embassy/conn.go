package embassy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"

	"chancery.dev/chancery/internal/peer"
)

// blockSize is how many bytes move at once between disk, TLS and network.
const blockSize = 256 << 10

// blocks recycles buffers of blockSize bytes.
type blocks struct{ pool sync.Pool }

func (b *blocks) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, blockSize)
	return &p
}

func (b *blocks) put(p *[]byte) { b.pool.Put(p) }

// tlsConfig is common to both ends: TLS 1.3 with the hybrid group and no other,
// so that a peer with classical key exchange only fails the handshake.
func tlsConfig(cert *tls.Certificate) *tls.Config {
	cfg := peer.Config(cert)
	cfg.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	cfg.SessionTicketsDisabled = true
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// corked is a connection under TLS that can gather the records of one large
// write into few system calls.
type corked struct {
	net.Conn

	mu   sync.Mutex
	held bool
	buf  []byte
}

// Write holds p back while corked.
func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(p)
	}
	if len(c.buf)+len(p) > cap(c.buf) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

func (c *corked) flush() error {
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// cork begins holding back; uncork ends it and sends.
func (c *corked) cork(spare *[]byte) {
	c.mu.Lock()
	c.held, c.buf = true, (*spare)[:0]
	c.mu.Unlock()
}

func (c *corked) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if len(c.buf) > 0 {
		err = c.flush()
	}
	c.held, c.buf = false, nil
	return err
}

// bulkConn is a TLS connection of the client that sends large writes corked.
type bulkConn struct {
	*tls.Conn
	under  *corked
	blocks *blocks
}

// Write sends p. Small writes go straight through.
func (c *bulkConn) Write(p []byte) (int, error) {
	if len(p) <= 16<<10 {
		return c.Conn.Write(p)
	}
	spare := c.blocks.get()
	defer c.blocks.put(spare)
	c.under.cork(spare)
	n, err := c.Conn.Write(p)
	if ferr := c.under.uncork(); err == nil {
		err = ferr
	}
	return n, err
}

// ReadFrom lets net/http hand the whole body over at once. The bytes of a slab
// are encrypted where they lie.
func (c *bulkConn) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		if s, ok := lr.R.(*slab); ok {
			n, err := s.writeTo(c, lr.N)
			lr.N -= n
			return n, err
		}
	}
	buf := c.blocks.get()
	defer c.blocks.put(buf)
	var total int64
	for {
		n, err := io.ReadFull(r, *buf)
		if n > 0 {
			w, werr := c.Write((*buf)[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

var errSlabClosed = errors.New("embassy: body is closed")

// slab is a request body over the caller's memory. After close returns nothing
// reads that memory any more, even when the transport still writes.
type slab struct {
	mu     sync.Mutex
	rest   []byte
	closed bool
}

func (s *slab) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errSlabClosed
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close is for the transport, which may call it early; see end.
func (s *slab) Close() error { return nil }

// end waits for a read in progress and stops all that would follow.
func (s *slab) end() {
	s.mu.Lock()
	s.closed, s.rest = true, nil
	s.mu.Unlock()
}

func (s *slab) writeTo(w io.Writer, limit int64) (int64, error) {
	var total int64
	for limit > total {
		n, err := s.writeBlock(w, int(min(limit-total, blockSize)))
		total += int64(n)
		if err != nil {
			return total, err
		}
		if n == 0 {
			break
		}
	}
	return total, nil
}

func (s *slab) writeBlock(w io.Writer, most int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errSlabClosed
	}
	n, err := w.Write(s.rest[:min(most, len(s.rest))])
	s.rest = s.rest[n:]
	return n, err
}
