package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
)

// rawClient has a TLS configuration of the test's own.
func rawClient(t *testing.T, change func(*tls.Config), who string) *http.Client {
	t.Helper()
	cert, err := peer.Certificate(keyOf(who))
	if err != nil {
		t.Fatal(err)
	}
	tc := tlsConfig(cert)
	tc.InsecureSkipVerify = true
	if change != nil {
		change(tc)
	}
	tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: len(tc.NextProtos) == 0 || tc.NextProtos[0] == "h2"}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func TestOnlyHybridTLS13IsSpoken(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	get := func(change func(*tls.Config)) error {
		resp, err := rawClient(t, change, "agent").Get("https://" + s.addr + "/v1/identity")
		if err != nil {
			return err
		}
		if resp.TLS.CurveID != tls.X25519MLKEM768 || resp.TLS.Version != tls.VersionTLS13 {
			t.Errorf("agreed on %v and %x", resp.TLS.CurveID, resp.TLS.Version)
		}
		return resp.Body.Close()
	}
	cases := []struct {
		name   string
		change func(*tls.Config)
		ok     bool
	}{
		{"control: hybrid", nil, true},
		{"classical only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} }, false},
		{"another hybrid", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.SecP256r1MLKEM768} }, false},
		{"TLS 1.2", func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CurvePreferences = tls.VersionTLS12, tls.VersionTLS12, nil
		}, false},
	}
	for _, c := range cases {
		if err := get(c.change); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestStrangersAreRefusedEverywhereButIdentity(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	stranger := rawClient(t, nil, "stranger")
	nobody := rawClient(t, func(c *tls.Config) { c.Certificates = nil }, "stranger")
	here := charter.StateID(seeded(16, "state", "one")).String()
	elsewhere := charter.StateID(seeded(16, "state", "two")).String()
	ask := func(c *http.Client, method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.addr+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	object := "objects/" + strings.Repeat("0", 64)
	record := "records/head/" + strings.Repeat("0", 32) + "/1"
	var first string
	for _, client := range []*http.Client{stranger, nobody} {
		for _, route := range []string{
			"PUT " + object, "GET " + object, "GET " + object + "/leaves", "GET objects", "POST objects/has",
			"POST objects/scrub", "PUT " + record, "GET " + record, "GET records/head", "POST receipts",
			"GET checkpoint", "GET tile/0/000", "GET charter", "PUT charter", "GET status", "GET nothing", "DELETE " + object,
			"GET cosigned", "POST cosignatures", "POST witness/add-checkpoint", "GET witness/seen/" + strings.Repeat("0", 64),
			"GET witness/seen/x", "POST audit", "GET tile/entries/000", "GET records/scrub",
		} {
			method, path, _ := strings.Cut(route, " ")
			for _, state := range []string{here, elsewhere} {
				status, body := ask(client, method, "/v1/states/"+state+"/"+path)
				if status != http.StatusForbidden || !strings.Contains(body, `"code":"refused"`) {
					t.Errorf("%s: %d %s", route, status, body)
				}
				if first == "" {
					first = body
				}
				if body != first {
					t.Errorf("%s tells a stranger more: %s", route, body)
				}
			}
		}
		if status, body := ask(client, "GET", "/v1/identity"); status != http.StatusOK || !strings.Contains(body, `"lux"`) {
			t.Errorf("identity: %d %s", status, body)
		}
	}
	if status, _ := ask(rawClient(t, nil, "agent"), "GET", "/v1/states/"+here+"/status"); status != http.StatusOK {
		t.Errorf("control: the agent: %d", status)
	}
	if status, _ := ask(rawClient(t, nil, "agent"), "GET", "/v1/states/"+elsewhere+"/status"); status != http.StatusForbidden {
		t.Errorf("the agent at another state: %d", status)
	}
}

func TestRecoveryKeyReadsAndNeverWrites(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	ctx := t.Context()
	agent, recovery := s.client(t, "agent"), s.client(t, "recovery")
	name, data := object(1000, "x")
	slot := ledger.Slot{Kind: ledger.Head, Sequence: 1}
	c := sampleCharter(t, "one")
	for what, put := range map[string]func(*Client) error{
		"object":  func(k *Client) error { return k.Put(ctx, name, data) },
		"repair":  func(k *Client) error { return k.Repair(ctx, name, data) },
		"record":  func(k *Client) error { return k.PutRecord(ctx, slot, data) },
		"charter": func(k *Client) error { return k.PutCharter(ctx, c.Bytes(), signed(t, c, "signer")) },
	} {
		if err := put(recovery); !errors.Is(err, ErrRefused) {
			t.Errorf("the recovery key writes a %s: %v", what, err)
		}
		if err := put(agent); err != nil {
			t.Errorf("control: the agent writes a %s: %v", what, err)
		}
	}
	if got, err := recovery.Get(ctx, name, nil); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the recovery key reads an object: %v", err)
	}
	if got, err := recovery.GetRecord(ctx, slot); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the recovery key reads a record: %v", err)
	}
	if _, err := recovery.Status(ctx); err != nil {
		t.Errorf("the recovery key reads the status: %v", err)
	}
}

func TestTheClientTrustsOneKeyOnly(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	wrong := s.dial(t, "agent", func(c *ClientConfig) { c.ServerKey = publicOf(keyOf("another embassy")) })
	_, err := wrong.Status(t.Context())
	var e *Error
	if !errors.Is(err, ErrWrongKey) || !errors.As(err, &e) || e.Embassy != "https://"+s.addr || e.Op == "" {
		t.Errorf("another key: %v", err)
	}
	if _, err := s.client(t, "agent").Status(t.Context()); err != nil {
		t.Errorf("control: %v", err)
	}
	id, err := Identify(t.Context(), "https://"+s.addr)
	if err != nil || id.Name != "lux" || id.Country != "LU" || !id.Key.Equal(publicOf(s.server.key)) {
		t.Errorf("Identify: %+v, %v", id, err)
	}
	if charter.Fingerprint(id.Key) != s.server.Fingerprint() {
		t.Error("fingerprints differ")
	}
}

func TestNoCallWithoutKeysOrAddress(t *testing.T) {
	t.Parallel()
	good := ClientConfig{URL: "https://localhost:1", ServerKey: publicOf(keyOf("s")), ClientKey: keyOf("c")}
	for name, change := range map[string]func(*ClientConfig){
		"no server key": func(c *ClientConfig) { c.ServerKey = nil },
		"no client key": func(c *ClientConfig) { c.ClientKey = nil },
		"http":          func(c *ClientConfig) { c.URL = "http://localhost:1" },
		"a path":        func(c *ClientConfig) { c.URL = "https://u@localhost:1" },
		"short key":     func(c *ClientConfig) { c.ServerKey = ed25519.PublicKey{1} },
	} {
		cfg := good
		change(&cfg)
		c := Dial(cfg)
		if _, err := c.Status(t.Context()); !errors.Is(err, ErrUnreachable) || c.http != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

func TestBothHTTPVersionsWork(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	if err := s.client(t, "agent").Put(t.Context(), mustName(t, 1000), seeded(1000, "v")); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"h2", "http/1.1"} {
		c := rawClient(t, func(c *tls.Config) { c.NextProtos = []string{proto} }, "agent")
		resp, err := c.Get("https://" + s.addr + "/v1/states/" + s.state().id.String() + "/objects/" + mustName(t, 1000).String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !bytes.Equal(body, seeded(1000, "v")) {
			t.Errorf("%s: %v", proto, err)
		}
		if want := map[string]int{"h2": 2, "http/1.1": 1}[proto]; resp.ProtoMajor != want {
			t.Errorf("%s: HTTP/%d", proto, resp.ProtoMajor)
		}
	}
}

func TestTheLogTellsNoNames(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := serve(t, initFolder(t), Options{Log: testLog(t, &out)})
	c := s.client(t, "agent")
	name, data := object(1000, "canary")
	if err := c.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), name, nil); err != nil {
		t.Fatal(err)
	}
	s.stop()
	text := out.String()
	if strings.Contains(text, name.String()) || strings.Contains(text, "127.0.0.1") {
		t.Errorf("the log names an object or a peer:\n%s", text)
	}
	if !strings.Contains(text, "objects/{name}") || !strings.Contains(text, "status=201") {
		t.Errorf("control: the log does not tell of the request:\n%s", text)
	}
}

func TestServeEndsWithRequestsAtWork(t *testing.T) {
	noLeaks(t)
	s := serve(t, initFolder(t), Options{Log: slog.New(slog.DiscardHandler)})
	c := s.client(t, "agent")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 8)
	for i := range 8 {
		go func() {
			for n := 0; ; n++ {
				name, data := object(100_000, "work", i, n)
				if err := c.Put(ctx, name, data); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for s.state().catalog.totals().objects < 20 {
		time.Sleep(time.Millisecond)
	}
	s.stop()
	cancel()
	for range 8 {
		if err := <-done; !errors.Is(err, ErrUnreachable) {
			t.Errorf("a request at the end: %v", err)
		}
	}
	c.Close()
}

// Whoever shows the certificate of another, fails, and then answers over a handshake of its own has proven its own key
// only.
func TestIdentifyBelievesNoKeyThatAFailedHandshakeShowed(t *testing.T) {
	t.Parallel()
	honest, liar := keyOf("honest"), keyOf("liar")
	shown, err := peer.Certificate(honest)
	if err != nil {
		t.Fatal(err)
	}
	own, err := peer.Certificate(liar)
	if err != nil {
		t.Fatal(err)
	}
	stolen := *shown
	stolen.PrivateKey = liar
	for name, test := range map[string]struct {
		says ed25519.PrivateKey
		ok   bool
	}{"the other's": {honest, false}, "control: its own": {liar, true}} {
		var handshakes atomic.Int32
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		hs := &http.Server{
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(identityJSON{Name: "lu", Country: "LU", Key: base64.StdEncoding.EncodeToString(publicOf(test.says))})
			}),
		}
		cfg := tlsConfig(own)
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if handshakes.Add(1) == 1 {
				return &stolen, nil
			}
			return own, nil
		}
		cfg.Certificates = nil
		go func() { _ = hs.Serve(tls.NewListener(ln, cfg)) }()
		id, err := Identify(t.Context(), "https://"+ln.Addr().String())
		if test.ok != (err == nil) || test.ok && !id.Key.Equal(publicOf(liar)) {
			t.Errorf("%s: %v, %v", name, id, err)
		}
		if handshakes.Load() < 2 {
			t.Errorf("%s: %d handshakes: nothing was tried", name, handshakes.Load())
		}
		if err := hs.Close(); err != nil {
			t.Error(err)
		}
	}
}
