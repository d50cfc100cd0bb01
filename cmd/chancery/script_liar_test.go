package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/peer"
)

// cmdLiar serves an embassy, whose own server must have ended, that hides of streams and snapshots what another does not
// hold: it lists no such record and hands none out. All else is as the embassy has it, its ledger too.
func cmdLiar(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "liar NAME OTHER")
	w := worldOf(ts)
	shown := map[string]uint64{}
	for _, kind := range []string{"stretch", "gathering", "head"} {
		held, err := filepath.Glob(filepath.Join(w.dir, args[1], "states", "*", "records", kind, "*", "*"))
		ts.Check(err)
		for _, path := range held {
			n, err := strconv.ParseUint(filepath.Base(path), 10, 64)
			ts.Check(err)
			shown[kind] = max(shown[kind], n)
		}
	}
	dir := filepath.Join(w.dir, args[0])
	s, err := embassy.Open(dir, embassy.Options{})
	ts.Check(err)
	text, err := os.ReadFile(filepath.Join(dir, "embassy.key"))
	ts.Check(err)
	key, err := peer.ParseOnlyKey(text)
	ts.Check(err)
	cert, err := peer.Certificate(key)
	ts.Check(err)
	cfg := peer.Config(cert)
	cfg.ClientAuth = tls.RequestClientCert
	ln, err := net.Listen("tcp", w.addresses[args[0]])
	ts.Check(err)
	hs := &http.Server{Handler: hiding(s.Handler(), shown), TLSConfig: cfg}
	go func() { _ = hs.Serve(tls.NewListener(ln, cfg)) }()
	w.endings = append(w.endings, func() {
		_ = hs.Shutdown(context.Background())
		_ = s.Close()
	})
}

// hiding answers as a server does, without records of these kinds above a number.
func hiding(server http.Handler, shown map[string]uint64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, path, found := strings.Cut(r.URL.Path, "/records/")
		parts := strings.Split(path, "/")
		last, hides := shown[parts[0]]
		if hides = hides || parts[0] == "gathering"; !found || !hides || r.Method != http.MethodGet {
			server.ServeHTTP(w, r)
			return
		}
		if len(parts) == 3 {
			if n, err := strconv.ParseUint(parts[2], 10, 64); err == nil && n > last {
				r = r.Clone(r.Context())
				r.URL.Path = strings.TrimSuffix(r.URL.Path, parts[2]) + "18446744073709551615" // which it never had
			}
			server.ServeHTTP(w, r)
			return
		}
		all := httptest.NewRecorder()
		server.ServeHTTP(all, r)
		var list struct {
			Records []struct {
				Sequence uint64 `json:"sequence"`
				Hash     string `json:"hash"`
				Size     uint64 `json:"size"`
			} `json:"records"`
		}
		if all.Code == http.StatusOK && json.Unmarshal(all.Body.Bytes(), &list) == nil && list.Records != nil {
			for i := range list.Records {
				if list.Records[i].Sequence > last {
					list.Records = list.Records[:i]
					break
				}
			}
			text, err := json.Marshal(list)
			if err != nil {
				panic(err) // it was read a moment ago
			}
			all.Body.Reset()
			all.Body.Write(text)
			all.Header().Del("Content-Length")
		}
		for k, v := range all.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(all.Code)
		_, _ = w.Write(all.Body.Bytes())
	})
}
