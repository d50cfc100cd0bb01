package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// served serves a witness over HTTP or, with pinned keys, HTTPS, and returns the way to it.
func served(t *testing.T, w *Witness, h http.Handler, secure bool) *Remote {
	t.Helper()
	if h == nil {
		h = w.Handler()
	}
	r := &Remote{Key: w.Keys()}
	if !secure {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		r.Prefix, r.HTTP = s.URL, s.Client()
		return r
	}
	key := seedKey(77)
	cfg, err := ServerTLS(key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = cfg
	s.StartTLS()
	t.Cleanup(s.Close)
	client, err := NewClient(ed25519.PublicKey(key[32:]), seedKey(78))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	r.Prefix, r.HTTP = s.URL, client
	return r
}

func TestRemoteSaysWhatTheWitnessSaid(t *testing.T) {
	t.Parallel()
	l, other := newLog(t, 1, 40, "leaf"), newLog(t, 2, 4, "leaf")
	for _, secure := range []bool{false, true} {
		w := awake(t, t.TempDir(), 9, newClock(), l)
		r := served(t, w, nil, secure)
		ctx := t.Context()
		if raw, err := r.Seen(ctx, l.origin); raw != nil || err != nil {
			t.Errorf("seen nothing: %q, %v", raw, err)
		}
		if n, err := r.SizeOf(ctx, l.checkpoint(7)); n != 7 || err != nil {
			t.Errorf("the first: %d, %v", n, err)
		}
		if n, err := r.SizeOf(ctx, l.checkpoint(30)); n != 7 || err != nil {
			t.Errorf("size: %d, %v", n, err)
		}
		lines, err := r.Add(ctx, l.request(7, 12))
		if err != nil {
			t.Fatal(err)
		}
		checkLines(t, w, l.checkpoint(12), lines)
		if raw, err := r.Seen(ctx, l.origin); err != nil || !bytes.HasPrefix(raw, []byte(l.origin+"\n12\n")) {
			t.Errorf("seen: %q, %v", raw, err)
		}
		wrong := l.request(12, 20)
		wrong.Proof = wrong.Proof[1:]
		for name, c := range map[string]struct {
			req  *ledger.AddCheckpoint
			want error
		}{
			"unknown":   {other.request(0, 4), ErrUnknownLog},
			"signature": {&ledger.AddCheckpoint{Old: 12, Checkpoint: l.sign(l.origin, 20, l.root(20), seedKey(4))}, ErrSignature},
			"forked":    {&ledger.AddCheckpoint{Old: 12, Checkpoint: l.sign(l.origin, 12, [32]byte{}, l.key)}, ErrForked},
			"proof":     {wrong, ErrProof},
			"invalid":   {l.request(13, 12), ErrInvalid},
			"no note":   {&ledger.AddCheckpoint{Checkpoint: []byte("x")}, ErrInvalid},
		} {
			if _, err := r.Add(ctx, c.req); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		var old *OldSize
		if _, err := r.Add(ctx, l.request(3, 20)); !errors.As(err, &old) || old.Size != 12 {
			t.Errorf("%v", err)
		}
		lines, err = r.Submit(ctx, l.checkpoint(40), 3, func(_ context.Context, old uint64) ([][32]byte, error) { return l.proof(int(old), 40), nil })
		if err != nil {
			t.Fatal(err)
		}
		checkLines(t, w, l.checkpoint(40), lines)
		if _, err := r.Submit(ctx, l.checkpoint(30), 0, nil); !errors.As(err, &old) || old.Size != 40 {
			t.Errorf("a smaller tree: %v", err)
		}
		if err := w.SetLogs(nil); err != nil {
			t.Fatal(err)
		}
		if err := w.SetLogs([]ledger.Log{l.log()}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Add(ctx, l.request(40, 40)); !errors.Is(err, ErrFrozen) {
			t.Errorf("frozen: %v", err)
		}
	}
}

func TestRemoteBelievesNoAnswerThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	liar := awake(t, t.TempDir(), 8, newClock(), l)
	lines := mustAdd(t, w, l.request(0, 10))
	stale := mustAdd(t, awake(t, t.TempDir(), 9, newClock(), l), l.request(0, 9))
	foreign := mustAdd(t, liar, l.request(0, 10))
	forged := bytes.Clone(lines)
	at := bytes.IndexByte(forged, '\n') - 10
	forged[at] = map[bool]byte{true: 'B', false: 'A'}[forged[at] == 'A']
	for name, c := range map[string]struct {
		status int
		kind   string
		body   []byte
	}{
		"nothing":         {200, textType, nil},
		"junk":            {200, textType, []byte("hello\n")},
		"another witness": {200, textType, foreign},
		"another tree":    {200, textType, stale},
		"forged":          {200, textType, forged},
		"endless":         {200, textType, bytes.Repeat(lines, 100)},
		"a strange size":  {409, sizeType, []byte("+12\n")},
		"a size in words": {409, sizeType, []byte("12")},
		"moved":           {307, textType, nil},
		"teapot":          {418, textType, nil},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("followed a redirect")
			}
			rw.Header().Set("Content-Type", c.kind)
			rw.Header().Set("Location", "/elsewhere")
			rw.WriteHeader(c.status)
			_, _ = rw.Write(c.body)
		}))
		r := &Remote{Prefix: s.URL, HTTP: s.Client(), Key: w.Keys()}
		var old *OldSize
		if got, err := r.Add(t.Context(), l.request(0, 10)); err == nil || got != nil || errors.As(err, &old) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if raw, err := r.Seen(t.Context(), l.origin); err == nil {
			t.Errorf("%s: seen %q", name, raw)
		}
		s.Close()
	}
	// Lines of keys that are not asked for are left out, the others taken.
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write(append(bytes.Clone(foreign), lines...))
	}))
	defer s.Close()
	r := &Remote{Prefix: s.URL, HTTP: s.Client(), Key: w.Keys()}
	if got, err := r.Add(t.Context(), l.request(0, 10)); err != nil || !bytes.Equal(got, lines) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestClientTalksToThePinnedKeyAlone(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 4, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	r := served(t, w, nil, true)
	if _, err := r.Seen(t.Context(), l.origin); err != nil {
		t.Fatal(err)
	}
	wrong, err := NewClient(ed25519.PublicKey(seedKey(76)[32:]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Remote{Prefix: r.Prefix, HTTP: wrong}).Seen(t.Context(), l.origin); err == nil {
		t.Error("another key is taken")
	}
	if _, err := (&Remote{Prefix: strings.Replace(r.Prefix, "127.0.0.1", "localhost", 1), HTTP: wrong}).Seen(t.Context(), l.origin); err == nil {
		t.Error("another key under a name is taken")
	}
}

func TestHostileRequests(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	h := w.Handler()
	post := func(body []byte) int {
		rw := httptest.NewRecorder()
		h.ServeHTTP(rw, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
		return rw.Code
	}
	many := func(n int) []byte {
		return (&ledger.AddCheckpoint{Old: 0, Proof: make([][32]byte, n), Checkpoint: l.checkpoint(9)}).Bytes()
	}
	for name, c := range map[string]struct {
		body []byte
		want int
	}{
		"empty":            {nil, 400},
		"63 proof lines":   {many(63), 422},
		"64 proof lines":   {many(64), 400},
		"old with zeros":   {bytes.Replace(l.request(0, 9).Bytes(), []byte("old 0"), []byte("old 00"), 1), 400},
		"old beyond all":   {bytes.Replace(l.request(0, 9).Bytes(), []byte("old 0"), []byte("old 18446744073709551616"), 1), 400},
		"carriage returns": {bytes.ReplaceAll(l.request(0, 9).Bytes(), []byte("\n"), []byte("\r\n")), 400},
		"a tail":           {append(l.request(0, 9).Bytes(), 'x'), 400},
		"larger than any":  {make([]byte, maxBody+1), 413},
	} {
		if got := post(c.body); got != c.want {
			t.Errorf("%s: status %d, want %d", name, got, c.want)
		}
	}
	if got := post(l.request(0, 9).Bytes()); got != 200 {
		t.Errorf("the control: status %d", got)
	}
	for path, want := range map[string]int{
		"/seen/" + ID(l.origin): 200, "/seen/" + ID("x"): 404, "/seen/" + strings.ToUpper(ID(l.origin)): 400, "/seen/..%2fx": 400, "/seen/": 404, "/": 404,
	} {
		rw := httptest.NewRecorder()
		h.ServeHTTP(rw, httptest.NewRequest(http.MethodGet, path, nil))
		if rw.Code != want {
			t.Errorf("%s: status %d, want %d", path, rw.Code, want)
		}
	}
}

// serveWitness runs Serve on loopback until the test ends.
func serveWitness(t *testing.T, w *Witness, cfg *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx, ln, cfg, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func TestABodyThatDoesNotComeIsCut(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	w.patience = time.Second
	addr := serveWitness(t, w, nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nold 0\n")
	// It ends by itself: without the deadline this read would wait a minute and fail.
	answer, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := (&Remote{Prefix: "http://" + addr, Key: w.Keys()}).Add(t.Context(), l.request(0, 9)); err != nil {
		t.Errorf("and nobody else is served: %v", err)
	}
}
