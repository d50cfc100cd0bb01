package embassy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
)

const (
	defaultTimeout = 30 * time.Second
	defaultConns   = 4
	// minRate is the slowest transfer, in bytes a second, that is waited for.
	minRate    = 64 << 10
	attempts   = 3
	firstPause = 150 * time.Millisecond
	// firstLater is how long is waited at first where the embassy says when to come again, and mostLater in all of one call.
	firstLater  = 20 * time.Millisecond
	mostLater   = time.Minute
	maxErrorDoc = 64 << 10
)

// ClientConfig says which embassy is spoken to, by whom, for which state.
type ClientConfig struct {
	URL       string             // https://HOST:PORT
	ServerKey ed25519.PublicKey  // from the charter; any other key is refused
	ClientKey ed25519.PrivateKey // an agent's, or the recovery key
	State     charter.StateID
	Origin    string        // of the state's ledger there, from the charter; empty is the embassy's first
	MLDSAKey  []byte        // by which it cosigns beside ServerKey, from the charter; nil where that names none
	Timeout   time.Duration // of one attempt, besides the time its bytes may take; 0 is 30 s
	Conns     int           // connections at once; 0 is 4
}

// ConfigFor is how to speak to an embassy as a charter has it, at its best address.
func ConfigFor(e charter.Embassy, state charter.StateID, key ed25519.PrivateKey) ClientConfig {
	return ClientConfig{
		URL: e.URLs[0], ServerKey: e.PublicKey(), ClientKey: key, State: state, Origin: e.Origin, MLDSAKey: e.MLDSAPublicKey(),
	}
}

// Client speaks to one embassy for one state. It is safe for concurrent use.
// Every call ends: each attempt has a deadline, answers have caps, and there are
// at most three attempts, two where nothing came within the time, made again only
// for want of an answer (every request of this interface may be repeated). One that
// is asked to come again, because it asks for more than was agreed, waits for its turn, a minute at most.
// Errors are *Error.
type Client struct {
	url      string // without a final slash
	state    charter.StateID
	timeout  time.Duration
	http     *http.Client
	server   ed25519.PublicKey
	mldsa    []byte
	verifier note.Verifier
	broken   error // the configuration's, reported by every call
}

// Dial makes a client. It uses no network; what is wrong with cfg shows at the
// first call.
func Dial(cfg ClientConfig) *Client {
	c := &Client{
		url:     strings.TrimSuffix(cfg.URL, "/"),
		state:   cfg.State,
		timeout: cfg.Timeout,
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if len(cfg.ServerKey) != ed25519.PublicKeySize {
		c.broken = errors.New("no key of the embassy is given")
		return c
	}
	if n := len(cfg.MLDSAKey); n != 0 && n != charter.MLDSAKeySize {
		c.broken = fmt.Errorf("an ML-DSA-44 key of %d bytes", n)
		return c
	}
	cert, err := peer.Certificate(cfg.ClientKey)
	if err != nil {
		c.broken = fmt.Errorf("embassy: %w", err)
		return c
	}
	if c.broken = checkURL(c.url); c.broken != nil {
		return c
	}
	c.server, c.mldsa = bytes.Clone(cfg.ServerKey), bytes.Clone(cfg.MLDSAKey)
	c.verifier, c.broken = ledger.NewVerifier(cmp.Or(cfg.Origin, ledger.Origin(cfg.State, cfg.ServerKey)), cfg.ServerKey)
	tc := tlsConfig(cert)
	want := append(ed25519.PublicKey(nil), cfg.ServerKey...)
	peer.Pin(tc, func(key ed25519.PublicKey, _ tls.ConnectionState) error {
		if key == nil || !key.Equal(want) {
			return ErrWrongKey
		}
		return nil
	})
	conns := cfg.Conns
	if conns <= 0 {
		conns = defaultConns
	}
	c.http = httpClient(tc, conns, nil)
	return c
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("address %q is not of the form https://HOST:PORT", text)
	}
	return nil
}

// httpClient pins nothing by itself: tc does (see [peer.Pin]).
func httpClient(tc *tls.Config, conns int, shook func(tls.ConnectionState)) *http.Client {
	pool := &blocks{}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			under := &corked{Conn: raw}
			conn := tls.Client(under, tc)
			ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
			defer cancel()
			if err := conn.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, raw.Close())
			}
			if shook != nil {
				shook(conn.ConnectionState())
			}
			return &bulkConn{Conn: conn, under: under, blocks: pool}, nil
		},
		MaxConnsPerHost:        conns,
		MaxIdleConnsPerHost:    conns,
		MaxIdleConns:           conns,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 32 << 10,
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        4 << 10, // bodies go round it; see bulkConn.ReadFrom
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops the connections that are idle. Calls in progress are not ended.
func (c *Client) Close() {
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// call is one request, which may be made several times.
type call struct {
	op     string // in words, for errors
	method string
	path   string // below the state, or absolute with a leading slash
	header http.Header
	body   []byte
	reply  int64 // most bytes of an answer
	work   time.Duration
	// accept reads a good answer; body is capped. It starts from nothing each
	// time. Its errors are the embassy's fault unless reading failed.
	accept func(resp *http.Response, body io.Reader) error
}

func (c *Client) fail(op string, kind, err error) error {
	return &Error{Kind: kind, Embassy: c.url, Op: op, Err: err}
}

func (c *Client) do(ctx context.Context, r *call) error {
	if c.broken != nil {
		return c.fail(r.op, ErrUnreachable, c.broken)
	}
	between, later, waited := firstPause, firstLater, time.Duration(0)
	for attempt := 1; ; attempt++ {
		kind, err := c.once(ctx, r)
		if kind == nil {
			return nil
		}
		var come *laterError
		if errors.As(err, &come) && waited < mostLater {
			later = min(2*later, come.after)
			wait := min(later/2+rand.N(later), mostLater-waited)
			waited += wait
			if pause(ctx, wait); ctx.Err() != nil {
				return c.fail(r.op, kind, fmt.Errorf("%w: %w", ctx.Err(), err))
			}
			attempt--
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) {
			attempt++ // it was waited for to the end: once more, on another connection, and not twice
		}
		final := !errors.Is(kind, ErrUnreachable) || attempt >= attempts || ctx.Err() != nil
		if final {
			return c.fail(r.op, kind, err)
		}
		if pause(ctx, between+rand.N(between)); ctx.Err() != nil {
			return c.fail(r.op, kind, fmt.Errorf("%w: %w", ctx.Err(), err))
		}
		between *= 4
	}
}

// laterError is an answer that says when to come again.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

// once makes one attempt and returns a nil kind when it succeeded.
func (c *Client) once(ctx context.Context, r *call) (kind, err error) {
	bytes := time.Duration(int64(len(r.body)) + r.reply)
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.work+bytes*time.Second/minRate)
	defer cancel()
	target := r.path
	if !strings.HasPrefix(target, "/") {
		target = "/v1/states/" + c.state.String() + "/" + target
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.url+target, nil)
	if err != nil {
		return ErrInvalid, err
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.body != nil {
		s := &slab{rest: r.body}
		defer s.end()
		req.Body, req.ContentLength = s, int64(len(r.body))
		if len(r.body) == 0 {
			req.Body = http.NoBody
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrWrongKey) {
			return ErrWrongKey, nil
		}
		return ErrUnreachable, withoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }() // the answer is read, or given up
	return c.answer(resp, r)
}

// answer reads a reply under its cap.
func (c *Client) answer(resp *http.Response, r *call) (kind, err error) {
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusPartialContent {
		return refusalOf(resp)
	}
	body := &cappedReader{r: resp.Body, left: r.reply}
	if resp.ContentLength > r.reply {
		return ErrForged, fmt.Errorf("an answer of %d bytes, at most %d are due", resp.ContentLength, r.reply)
	}
	if r.accept != nil {
		err = r.accept(resp, body)
	}
	if err == nil {
		// Read to the end, so that the connection is used again.
		_, err = io.Copy(io.Discard, body)
	}
	switch {
	case body.over:
		return ErrForged, fmt.Errorf("an answer of more than %d bytes", r.reply)
	case body.err != nil:
		return ErrUnreachable, body.err
	case err != nil:
		return ErrForged, err
	}
	return nil, nil
}

func refusalOf(resp *http.Response) (kind, err error) {
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorDoc))
	if err != nil {
		return ErrUnreachable, err
	}
	var r refusal
	if json.Unmarshal(doc, &r) != nil || r.Code == "" {
		return ErrForged, fmt.Errorf("HTTP status %d without a reason", resp.StatusCode)
	}
	err = fmt.Errorf("%s: %s", printable(r.What), printable(r.Why))
	if n, aerr := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 8); aerr == nil && n > 0 && r.Code == codeBusy {
		err = &laterError{err, time.Duration(n) * time.Second}
	}
	return kindOf(r.Code), err
}

// printable makes a stranger's words safe to print.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 500)]
}

// withoutURL drops the address that net/http puts in: Error has it already.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// cappedReader ends with an error beyond its cap and remembers why it ended.
type cappedReader struct {
	r    io.Reader
	left int64
	over bool
	err  error
}

func (c *cappedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.r.Read(p)
	if int64(n) > c.left {
		c.over = true
		return 0, errors.New("answer too long")
	}
	c.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// intoJSON is an accept function that reads one JSON document.
func intoJSON(v any) func(*http.Response, io.Reader) error {
	return func(_ *http.Response, body io.Reader) error {
		return json.NewDecoder(body).Decode(v)
	}
}

// Identify asks whoever answers at an address for name, country and key. The key
// is proven by the TLS handshake; that it is the right one, only a comparison of
// fingerprints by people can tell. It belongs to accreditation and nothing else.
func Identify(ctx context.Context, address string) (Identity, error) {
	c := &Client{url: strings.TrimSuffix(address, "/"), timeout: defaultTimeout}
	const op = "ask who is there"
	if err := checkURL(c.url); err != nil {
		return Identity{}, c.fail(op, ErrUnreachable, err)
	}
	tc := tlsConfig(nil)
	peer.Pin(tc, func(key ed25519.PublicKey, _ tls.ConnectionState) error {
		if key == nil {
			return errors.New("not an embassy: its key is not Ed25519")
		}
		return nil
	})
	// A key is proven when the handshake has ended; whoever was shown one and failed proved nothing. Attempts follow each
	// other, so the last handshake that ended is that of the connection with the answer.
	var proven atomic.Pointer[ed25519.PublicKey]
	c.http = httpClient(tc, 1, func(cs tls.ConnectionState) {
		key := peer.Key(&cs)
		proven.Store(&key)
	})
	defer c.Close()
	var id identityJSON
	err := c.do(ctx, &call{op: op, method: http.MethodGet, path: "/v1/identity", reply: maxErrorDoc, accept: intoJSON(&id)})
	if err != nil {
		return Identity{}, err
	}
	said, err := parseKey(id.Key)
	if err != nil || !goodName(id.Name) || !goodCountry(id.Country) {
		return Identity{}, c.fail(op, ErrForged, errors.New("a malformed identity"))
	}
	if key := proven.Load(); key == nil || !key.Equal(said) {
		return Identity{}, c.fail(op, ErrForged, errors.New("it names a key that it has not proven"))
	}
	second, err := parseMLDSAKey(id.MLDSAKey)
	if err != nil {
		return Identity{}, c.fail(op, ErrForged, errors.New("a malformed ML-DSA-44 key"))
	}
	return Identity{Name: id.Name, Country: id.Country, Key: said, MLDSAKey: second}, nil
}
