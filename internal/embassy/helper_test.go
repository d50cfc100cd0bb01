package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/shard"
)

// seeded returns n bytes that depend on the words only.
func seeded(n int, words ...any) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, words...))).Read(b) // never fails
	return b
}

func keyOf(who string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(seeded(32, "key", who))
}

// ageLike makes a recipient of the right form; a charter does not look inside.
func ageLike(n int) string {
	const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	b := seeded(1952, "age", n)
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return "age1pq1" + string(b)
}

// sampleCharter is charter 1 of a state with one signer, the agent "agent" and
// the recovery key "recovery".
func sampleCharter(t testing.TB, state string) *charter.Charter {
	t.Helper()
	signer, err := charter.SSHPublicKey(publicOf(keyOf("signer")))
	if err != nil {
		t.Fatal(err)
	}
	c := charter.Charter{
		Version: charter.Version, Number: 1, Suite: charter.Suite, Threshold: 1,
		State:   charter.State{ID: charter.StateID(seeded(16, "state", state)), Name: state, Code: "UM"},
		Signers: []charter.Signer{{Name: "mari", Key: signer}},
		Custody: charter.Custody{
			Generation: 1, Threshold: 1,
			OpeningKey:  charter.EncodeKey(seeded(charter.OpeningKeySize, "opening")),
			RecoveryKey: charter.EncodeKey(publicOf(keyOf("recovery"))),
			Custodians: []charter.Custodian{{
				Name: "jaan", X: 1, Recipient: ageLike(1), Commitment: charter.EncodeDigest([32]byte(seeded(32, "commitment"))),
			}},
		},
		Agents: []charter.Agent{{Name: "home-1", Key: charter.EncodeKey(publicOf(keyOf("agent")))}},
	}
	return made(t, c)
}

func made(t testing.TB, c charter.Charter) *charter.Charter {
	t.Helper()
	n, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func signed(t testing.TB, c *charter.Charter, who string) []byte {
	t.Helper()
	sig, err := charter.Sign(c.Bytes(), keyOf(who))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// site is a served embassy.
type site struct {
	server *Server
	addr   string
	stop   func()

	mu      sync.Mutex
	clients map[string]*Client // by whose key they have
}

func initFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	c := sampleCharter(t, "one")
	unboundFolder(t, dir, "lux", "LU", c.Bytes(), signed(t, c, "signer"))
	return dir
}

// unboundFolder makes a folder of layout 1, as an earlier release did: one state, served without an agreement.
func unboundFolder(t testing.TB, dir, name, country string, doc, sigs []byte) {
	t.Helper()
	c, err := readCharter(doc, sigs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Establish(dir, name, country); err != nil {
		t.Fatal(err)
	}
	if err := initState(filepath.Join(dir, "states", c.State.ID.String()), c, sigs); err != nil {
		t.Fatal(err)
	}
	text := fmt.Appendf(nil, "version: %d\nname: %s\ncountry: %s\n", unbound, name, country)
	if err := os.WriteFile(filepath.Join(dir, settingsFile), text, filePerm); err != nil {
		t.Fatal(err)
	}
}

// serve opens and serves dir until stop or the test's end.
func serve(t testing.TB, dir string, opts Options) *site {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return serveOpen(t, s)
}

func serveOpen(t testing.TB, s *Server) *site {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, s, ln)
}

func serveAt(t testing.TB, s *Server, ln net.Listener) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return &site{server: s, addr: ln.Addr().String(), stop: stop}
}

// client speaks to the site as who.
// client is one for each key: a test that asks until something is so would use up the connections that a server takes.
func (s *site) client(t testing.TB, who string) *Client {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[who]
	if c == nil {
		c = s.dial(t, who, nil)
		if s.clients == nil {
			s.clients = make(map[string]*Client)
		}
		s.clients[who] = c
	}
	return c
}

func (s *site) dial(t testing.TB, who string, change func(*ClientConfig)) *Client {
	t.Helper()
	cfg := ClientConfig{
		URL: "https://" + s.addr, ServerKey: publicOf(s.server.key), ClientKey: keyOf(who),
		State: charter.StateID(seeded(16, "state", "one")), Timeout: time.Minute,
	}
	if change != nil {
		change(&cfg)
	}
	c := Dial(cfg)
	t.Cleanup(c.Close)
	return c
}

// object is n bytes and their name.
func object(n int, words ...any) (shard.Name, []byte) {
	b := seeded(n, words...)
	return shard.Root(b), b
}

// testLog keeps the test's log where its failure shows it.
func testLog(t testing.TB, into *bytes.Buffer) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(&locked{w: into}, nil))
}

type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (s *site) state() *state {
	for _, st := range s.server.states {
		return st
	}
	return nil
}

// noLeaks fails the test if it leaves goroutines behind.
func noLeaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
	})
}

func charterKey(who string) string { return charter.EncodeKey(publicOf(keyOf(who))) }

func mustName(t *testing.T, n int) shard.Name {
	t.Helper()
	return shard.Root(seeded(n, "v"))
}

func nameList(n ...shard.Name) []shard.Name { return n }
