package embassy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
	"chancery.dev/chancery/internal/shard"
)

// fullDisk is a file that finds no room at one step.
type fullDisk struct {
	file
	at string
}

func (f *fullDisk) Reserve(n int64) error {
	if f.at == "reserve" {
		return fmt.Errorf("reserve: %w", syscall.ENOSPC)
	}
	return f.file.Reserve(n)
}

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.at == "write" {
		return 0, fmt.Errorf("write: %w", syscall.EDQUOT)
	}
	return f.file.Write(p)
}

func (f *fullDisk) Commit() error {
	if f.at == "commit" {
		return errors.Join(fmt.Errorf("fsync: %w", syscall.ENOSPC), f.file.Abort())
	}
	return f.file.Commit()
}

func TestAFullDiskIsSaidAndSurvived(t *testing.T) {
	t.Parallel()
	server, err := Open(initFolder(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	at := ""
	for _, st := range server.states {
		create := st.store.create
		st.store.create = func(folder, path string) (file, error) {
			f, err := create(folder, path)
			mu.Lock()
			defer mu.Unlock()
			return &fullDisk{file: f, at: at}, err
		}
	}
	s := serveOpen(t, server)
	c := s.client(t, "agent")
	for _, step := range []string{"reserve", "write", "commit", ""} {
		mu.Lock()
		at = step
		mu.Unlock()
		name, data := object(300_000, "full", step)
		err := c.Put(t.Context(), name, data)
		if step == "" {
			if err != nil {
				t.Errorf("control: with room: %v", err)
			}
			continue
		}
		if !errors.Is(err, ErrFull) {
			t.Errorf("no room to %s: %v", step, err)
		}
		if left, err := filesIn(s.state().store.tmp()); err != nil || len(left) != 0 {
			t.Errorf("no room to %s: left in tmp: %v, %v", step, left, err)
		}
		if missing, err := c.Missing(t.Context(), []shard.Name{name}); err != nil || len(missing) != 1 {
			t.Errorf("no room to %s: %v, %v", step, missing, err)
		}
	}
}

func TestQuotaAndReserveAreKept(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{Quota: 250_000})
	c := s.client(t, "agent")
	for i := range 3 {
		name, data := object(100_000, "q", i)
		if err := c.Put(t.Context(), name, data); (err == nil) != (i < 2) || (i == 2 && !errors.Is(err, ErrFull)) {
			t.Errorf("object %d: %v", i, err)
		}
	}
	slot := ledger.Slot{Kind: ledger.Head, Sequence: 1}
	if err := c.PutRecord(t.Context(), slot, seeded(60_000, "r")); !errors.Is(err, ErrFull) {
		t.Errorf("a record beyond the quota: %v", err)
	}
	if err := c.PutRecord(t.Context(), slot, seeded(10_000, "r")); err != nil {
		t.Errorf("a record within the quota: %v", err)
	}
	s.stop()
	s = serve(t, initFolder(t), Options{Reserve: 1 << 60})
	name, data := object(10, "q")
	if err := s.client(t, "agent").Put(t.Context(), name, data); !errors.Is(err, ErrFull) {
		t.Errorf("into the disk's reserve: %v", err)
	}
}

func TestTwoProcessesNeverShareAFolder(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second server: %v", err)
	}
	s.stop()
	again, err := Open(dir, Options{})
	if err != nil {
		t.Fatalf("control: after the first ended: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheCatalogueIsRebuiltFromTheLedger(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	var names []shard.Name
	var stored sync.WaitGroup
	for i := range 20 {
		name, data := object(500, "c", i)
		names = append(names, name)
		stored.Go(func() {
			if err := s.putDirect(name, data); err != nil {
				t.Error(err)
			}
		})
	}
	stored.Wait()
	catalogue := filepath.Join(s.state().dir, "catalog.db")
	s.stop()
	for what, spoil := range map[string]func() error{
		"lost":      func() error { return os.Remove(catalogue) },
		"scribbled": func() error { return os.WriteFile(catalogue, seeded(40_000, "junk"), 0o600) },
		"empty":     func() error { return os.Truncate(catalogue, 0) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		s := serve(t, dir, Options{})
		missing, err := s.client(t, "agent").Missing(t.Context(), names)
		if err != nil || len(missing) != 0 {
			t.Errorf("%s: %d missing, %v", what, len(missing), err)
		}
		if got := s.state().catalog.totals(); got != (counts{20, 10_000}) {
			t.Errorf("%s: %+v", what, got)
		}
		s.stop()
	}
}

func TestALedgerShorterThanTheCatalogueIsRefused(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	name, data := object(500, "x")
	if err := s.client(t, "agent").Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	if err := s.state().catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(s.state().dir, "ledger")
	s.stop()
	if err := os.Rename(folder, folder+".kept"); err != nil {
		t.Fatal(err)
	}
	// An empty ledger under an old catalogue is yesterday's disk.
	if _, err := Open(dir, Options{}); !errors.Is(err, ledger.ErrShorter) {
		t.Errorf("Open: %v", err)
	}
}

func TestAnObjectWithoutItsLeafGetsOne(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	name, data := object(5000, "leafless")
	// What a crash between the object and its leaf leaves, and one before it.
	if err := s.state().store.write(name, bytes.NewReader(data), 5000); err != nil {
		t.Fatal(err)
	}
	f, err := durable.CreateIn(s.state().store.tmp(), s.state().store.path(name), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data[:100]); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = serve(t, dir, Options{})
	if left, err := filesIn(s.state().store.tmp()); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	c := s.client(t, "agent")
	if _, err := c.Get(t.Context(), name, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("before it has a leaf: %v", err)
	}
	if err := c.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receipts(t.Context(), []shard.Name{name}, nil); err != nil {
		t.Errorf("after: %v", err)
	}
}

// liar serves HTTP over the right TLS with a handler of the test's own.
func liar(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	cert, err := peer.Certificate(keyOf("liar"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := tlsConfig(cert)
	cfg.ClientAuth = tls.RequestClientCert
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = hs.Serve(ln) }()
	t.Cleanup(func() { _ = hs.Close() })
	s := &site{server: &Server{key: keyOf("liar")}, addr: ln.Addr().String()}
	return s.dial(t, "agent", func(c *ClientConfig) { c.Timeout = 20 * time.Second })
}

func TestALyingServerIsCut(t *testing.T) {
	t.Parallel()
	endless := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			for {
				if _, err := w.Write([]byte(`{"names":["` + strings.Repeat(" ", 1<<16))); err != nil {
					return
				}
			}
		}
	}
	says := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text) // the client may be gone
		}
	}
	name, _ := object(1000, "lie")
	get := func(c *Client) error { _, err := c.Get(context.Background(), name, nil); return err }
	list := func(c *Client) error { _, err := c.List(context.Background(), shard.Name{}, 10); return err }
	leaves := func(c *Client) error { _, err := c.Leaves(context.Background(), name); return err }
	missing := func(c *Client) error {
		_, err := c.Missing(context.Background(), []shard.Name{name})
		return err
	}
	receipts := func(c *Client) error {
		_, err := c.Receipts(context.Background(), []shard.Name{name}, nil)
		return err
	}
	cosigned := func(c *Client) error { _, err := c.Cosigned(context.Background()); return err }
	tile := func(c *Client) error { _, err := c.Tile(context.Background(), "tile/0/000"); return err }
	seen := func(c *Client) error {
		_, err := c.Seen(context.Background(), "o")
		return err
	}
	bring := func(c *Client) error { return c.PutCosignatures(context.Background(), []byte("note")) }
	auditing := func(c *Client) error {
		ch := audit.NewSample([16]byte{}, [16]byte{}, []byte("note"), [32]byte{}, 1)
		answer, err := c.Audit(context.Background(), ch)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, answer)
		return errors.Join(err, answer.Close())
	}
	cases := map[string]struct {
		h    http.HandlerFunc
		call func(*Client) error
		want error
	}{
		"endless cosigned":     {endless("text/plain"), cosigned, ErrForged},
		"another's checkpoint": {says(200, "o\n1\n"), cosigned, ErrForged},
		"a huge tile":          {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "99999999999") }, tile, ErrForged},
		"endless seen":         {endless("text/plain"), seen, ErrUnreachable},
		"no witness":           {says(404, "no"), seen, ErrNotFound},
		"not taken":            {says(200, "hello"), bring, ErrForged},
		"an audit refused":     {says(403, `{"code":"refused","what":"access","why":"no"}`), auditing, ErrRefused},
		"control: an answer":   {says(200, "anything"), auditing, nil},
		"endless object":       {endless("application/octet-stream"), get, ErrForged},
		"endless list":         {endless("application/json"), list, ErrForged},
		"endless receipts":     {endless("application/cbor"), receipts, ErrForged},
		"a huge length":        {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "99999999999") }, get, ErrForged},
		"unsorted names":       {says(200, `{"names":["`+strings.Repeat("2", 64)+`","`+strings.Repeat("1", 64)+`"]}`), list, ErrForged},
		"other missing":        {says(200, `{"missing":["`+strings.Repeat("2", 64)+`"]}`), missing, ErrForged},
		"not JSON":             {says(200, `hello`), list, ErrForged},
		"receipts of nothing":  {says(200, "\x82\x40\x80"), receipts, ErrForged},
		"other leaf hashes":    {says(200, strings.Repeat("x", 32)), leaves, ErrForged},
		"a bare error":         {says(500, `oops`), list, ErrForged},
		"a redirect":           {says(307, ``), list, ErrForged},
		"control: refused":     {says(403, `{"code":"refused","what":"access","why":"no"}`), list, ErrRefused},
		"control: no names":    {says(200, `{"names":[]}`), list, nil},
	}
	for what, k := range cases {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			err := k.call(liar(t, k.h))
			if !errors.Is(err, k.want) || (k.want == nil) != (err == nil) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestASlowServerIsCut(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	// Not until the request is given up: hanging up begins with a word to the server, and what it answers in that
	// instant is an answer in time.
	c := liar(t, func(http.ResponseWriter, *http.Request) { <-release })
	c.timeout = 10 * time.Millisecond
	began := time.Now()
	err := c.do(t.Context(), &call{op: "wait", method: http.MethodGet, path: "status", reply: 100})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took >= defaultTimeout { // what one attempt of a patient client takes
		t.Errorf("cut after %v", took)
	}
}

func TestASlowClientIsCutAndASlowEmbassyIsNot(t *testing.T) {
	t.Parallel()
	const patience = 2 * time.Second // what is written at once comes within it, however busy the machine is
	s := serve(t, initFolder(t), Options{patience: patience})
	cert, err := peer.Certificate(keyOf("agent"))
	if err != nil {
		t.Fatal(err)
	}
	tc := tlsConfig(cert)
	tc.InsecureSkipVerify = true
	for what, begin := range map[string]string{
		"headers": "GET /v1/identity HTTP/1.1\r\n",
		"object":  "PUT /v1/states/" + s.state().id.String() + "/objects/" + strings.Repeat("0", 64) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun",
		"JSON":    "POST /v1/states/" + s.state().id.String() + "/objects/has HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn, err := tls.Dial("tcp", s.addr, tc)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn) // ends when the embassy hangs up
		if took := time.Since(began); err != nil || took < patience || took > time.Minute {
			t.Errorf("%s: cut after %v: %v", what, took, err)
		}
		if what != "headers" && !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
			t.Errorf("%s: answered %q", what, answer)
		}
		_ = conn.Close()
	}
	// An embassy that works longer than a client may dawdle is not disturbed.
	for range maxScrubs {
		s.server.scrubs <- struct{}{}
	}
	timer := time.AfterFunc(2*patience, func() {
		for range maxScrubs {
			<-s.server.scrubs
		}
	})
	defer timer.Stop()
	if damage, err := s.client(t, "agent").Scrub(t.Context(), []shard.Name{{1}}); err != nil || len(damage) != 1 {
		t.Errorf("an answer that took long: %v, %v", damage, err)
	}
}

func TestOversizeAndMalformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := rawClient(t, nil, "agent")
	base := "https://" + s.addr + "/v1/states/" + s.state().id.String() + "/"
	zeros := strings.Repeat("0", 64)
	cases := []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "objects/" + zeros, "", 400},
		{"PUT", "objects/" + strings.ToUpper("a"+zeros[1:]), "x", 400},
		{"PUT", "objects/" + zeros, strings.Repeat("x", maxObject+1), 413},
		{"PUT", "records/head/" + zeros[:32] + "/1", strings.Repeat("x", maxRecord+1), 413},
		{"PUT", "records/head/" + zeros[:32] + "/0", "x", 400},
		{"PUT", "records/head/" + zeros[:32] + "/01", "x", 400},
		{"PUT", "records/tail/" + zeros[:32] + "/1", "x", 400},
		{"POST", "objects/has", `{"names":[],"more":1}`, 400},
		{"POST", "objects/has", `{"names":[]}{}`, 400},
		{"POST", "objects/has", `{"names":["` + strings.Repeat(" ", maxJSON) + `"]}`, 413},
		{"POST", "objects/has", `{"names":[` + strings.Repeat(`"",`, maxNames) + `""]}`, 413},
		{"POST", "receipts", `{"objects":[` + strings.Repeat(`"",`, maxReceipts) + `""]}`, 413},
		{"GET", "objects?limit=0", "", 400},
		{"GET", "tile/0/../../../catalog.db", "", 404},
		{"GET", "tile/0/%2e%2e/%2e%2e/catalog.db", "", 404},
		{"GET", "objects/" + zeros, "", 404},
		{"POST", "objects/has", `{"names":[]}`, 200}, // control
		{"GET", "tile/0/000.p/1", "", 200},           // control
	}
	for _, k := range cases {
		req, err := http.NewRequestWithContext(t.Context(), k.method, base+k.path, strings.NewReader(k.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("%s %.60s: %v", k.method, k.path, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != k.status {
			t.Errorf("%s %.60s: %d, want %d", k.method, k.path, resp.StatusCode, k.status)
		}
	}
}
