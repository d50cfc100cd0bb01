package attack

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// The public witness, which make install-deps puts here.
const litewitness = "../.test/bin/litewitness"

// lite is a running litewitness.
type lite struct {
	vkey, url, db string
}

// startLite runs litewitness with a key of its own, which it asks an SSH agent to use.
func startLite(t *testing.T, dir string) *lite {
	t.Helper()
	path, err := filepath.Abs(litewitness)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; make install-deps builds it", err)
	}
	key := ed25519.NewKeyFromSeed(noise(31, ed25519.SeedSize))
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	socket, err := os.MkdirTemp("", "agent-") // a path of few bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	ln, err := net.Listen("unix", filepath.Join(socket, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c); c.Close() }()
		}
	}()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	x := &lite{url: "http://" + address, db: filepath.Join(dir, "lite.db")}
	const name = "lite.example/witness"
	k, err := ledger.NewWitnessKey(name, ed25519.PublicKey(key[32:]))
	if err != nil {
		t.Fatal(err)
	}
	x.vkey = k.String()
	c := exec.Command(path, "-name", name, "-db", x.db, "-ssh-agent", filepath.Join(socket, "s"),
		"-key", ssh.FingerprintSHA256(public), "-listen", address)
	out := &bytes.Buffer{}
	c.Stderr = out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-ended })
	if !waitFor(func() bool { return dials(address) }) {
		_ = c.Process.Kill()
		<-ended
		t.Fatalf("litewitness does not serve:\n%s", out)
	}
	return x
}

// know makes litewitness know a log.
func (x *lite) know(t *testing.T, origin, vkey string) {
	t.Helper()
	empty := sha256.Sum256(nil)
	sql := fmt.Sprintf(".timeout 20000\nINSERT INTO log VALUES ('%s', 0, '%s');\nINSERT INTO key VALUES ('%s', '%s');\n",
		origin, base64.StdEncoding.EncodeToString(empty[:]), origin, vkey)
	c := exec.Command("sqlite3", "-bail", x.db)
	c.Stdin = strings.NewReader(sql)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// freeAddress is one of loopback where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", ownAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func dials(address string) bool {
	c, err := net.Dial("tcp", address)
	return err == nil && c.Close() == nil
}

// waitFor waits for a condition: so long that only what never comes about fails, however busy the machine is.
func waitFor(holds func() bool) bool {
	for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(10 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

// TestLitewitnessCosignsOurLedger has a public witness cosign the ledger of a real embassy, as it grows: handed to it by
// our client, and by the embassy itself once the charter names it.
func TestLitewitnessCosignsOurLedger(t *testing.T) {
	t.Parallel()
	s := found(t, t.TempDir(), "reader", nil, "lu")
	x := startLite(t, s.dir)
	h, err := home.Open(s.home, false)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.AgentKey()
	if err != nil {
		t.Fatal(err)
	}
	e := h.Charter.Embassies[0]
	vkey, err := note.NewEd25519VerifierKey(e.Origin, e.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	client := embassy.Dial(embassy.ClientConfig{URL: e.URLs[0], ServerKey: e.PublicKey(), ClientKey: key, State: h.Charter.State.ID})
	t.Cleanup(client.Close)
	k, err := ledger.ParseWitnessKey(x.vkey)
	if err != nil {
		t.Fatal(err)
	}
	remote := &witness.Remote{Prefix: x.url, Key: []ledger.WitnessKey{k}}
	verifier, err := tnote.NewVerifierForCosignatureV1(x.vkey)
	if err != nil {
		t.Fatal(err)
	}
	cosign := func() (size uint64, err error) {
		cp, err := client.Checkpoint(t.Context())
		if err != nil {
			return 0, err
		}
		lines, err := remote.Submit(t.Context(), cp.Raw, 0, func(ctx context.Context, old uint64) ([][32]byte, error) {
			return proofWithin(ctx, client, old, cp)
		})
		if err != nil {
			return cp.Size, err
		}
		both, err := ledger.AddSignatures(cp.Raw, lines)
		if err != nil {
			return cp.Size, err
		}
		_, err = note.Open(both, note.VerifierList(verifier)) // the other library's word on it
		return cp.Size, err
	}
	if _, err := cosign(); err == nil {
		t.Error("it cosigns a log that it does not know")
	}
	x.know(t, e.Origin, vkey)
	tree := s.in("tree")
	smallTree(t, tree)
	first, err := cosign()
	if err != nil {
		t.Fatal(err)
	}
	s.add(t, "land", tree, 1)
	must(t, "backup", "land", "--home", s.home)
	second, err := cosign()
	if err != nil || second <= first {
		t.Fatalf("%d leaves after %d: %v", second, first, err)
	}
	cp, err := client.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := remote.SizeOf(t.Context(), cp.Raw); err != nil || n < second {
		t.Errorf("it saw %d leaves, %v; want %d", n, err, second)
	}
	// Named in the charter, it is asked by the embassy itself.
	must(t, "witness", "add", "--home", s.home, "--name", "lite", "--country", "FI", "--vkey", x.vkey, "--url", x.url)
	cosigned := func() bool {
		raw, err := client.Cosigned(t.Context())
		if err != nil {
			return false
		}
		_, err = note.Open(raw, note.VerifierList(verifier))
		return err == nil
	}
	if !waitFor(cosigned) {
		raw, err := client.Cosigned(t.Context())
		text, _ := os.ReadFile(s.hosts[0].log)
		t.Fatalf("the embassy shows no checkpoint that litewitness cosigned: %q, %v\n%s", raw, err, text)
	}
}

// sentinel is a process of our witness.
type sentinel struct {
	args  []string
	url   string
	vkeys []string
	proc  *os.Process
	ended chan struct{}
}

func (w *sentinel) start(t *testing.T, args ...string) {
	t.Helper()
	c := exec.Command(program, append(append([]string{"--json", "witness", "serve"}, w.args...), args...)...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var a struct {
		URL   string
		VKeys []string
	}
	if err := json.NewDecoder(out).Decode(&a); err != nil {
		t.Fatal(err)
	}
	w.url, w.vkeys, w.proc, w.ended = a.URL, a.VKeys, c.Process, make(chan struct{})
	go func() { _ = c.Wait(); close(w.ended) }()
	t.Cleanup(w.stop)
}

func (w *sentinel) stop() {
	_ = w.proc.Signal(syscall.SIGTERM)
	<-w.ended
}

// TestOurWitnessCosignsAForeignLog has our witness, as a process of its own, cosign a log of Tessera's server through
// Tessera's own client of witnesses.
func TestOurWitnessCosignsAForeignLog(t *testing.T) {
	t.Parallel()
	const origin = "foreign.example/log"
	dir := t.TempDir()
	key := ed25519.NewKeyFromSeed(noise(41, ed25519.SeedSize))
	signer, err := ledger.NewSigner(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, ed25519.PublicKey(key[32:]))
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "w")
	must(t, "witness", "init", "--dir", folder)
	w := &sentinel{args: []string{"--dir", folder, "--log", vkey, "--listen", freeAddress(t)}}
	w.start(t, "--alone")
	where, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := tessera.NewWitness(w.vkeys[0], where)
	if err != nil {
		t.Fatal(err)
	}
	grow := newForeignLog(t, filepath.Join(dir, "log"), signer, tessera.NewWitnessGroup(1, peer))
	first := grow(3)
	checkCosigned(t, first, w.vkeys[0], peer)
	second := grow(300)
	checkCosigned(t, second, w.vkeys[0], peer)
	var saw []struct {
		Origin   string
		Size     uint64
		Cosigned string
	}
	answer(t, &saw, []int{0}, "witness", "show", "--dir", folder)
	if len(saw) != 1 || saw[0].Origin != origin || saw[0].Size < 303 || saw[0].Cosigned == "" {
		t.Errorf("witness show: %+v", saw)
	}
	// Started again it is frozen, for nobody can tell it how far others saw this log; a person can, once.
	remote := &witness.Remote{Prefix: w.url}
	k, err := ledger.ParseWitnessKey(w.vkeys[0])
	if err != nil {
		t.Fatal(err)
	}
	remote.Key = []ledger.WitnessKey{k}
	again := &ledger.AddCheckpoint{Old: saw[0].Size, Checkpoint: second}
	for _, want := range []string{"frozen", "thawed", "frozen"} {
		w.stop()
		if want == "thawed" {
			must(t, "witness", "thaw", "--dir", folder, "--origin", origin)
		}
		w.start(t)
		_, err := remote.Add(t.Context(), again)
		if want == "thawed" && err != nil || want == "frozen" && (err == nil || !strings.Contains(err.Error(), "frozen")) {
			t.Errorf("%s: %v", want, err)
		}
		if r := chancery("witness", "thaw", "--dir", folder, "--origin", origin); r.code != 1 || !strings.Contains(r.err, "end the witness's server first") {
			t.Errorf("thawed while it serves: %v", r)
		}
	}
}

// newForeignLog starts a log on Tessera's own server, which publishes no checkpoint before the group cosigned it, and
// returns what adds entries and waits for the checkpoint that covers them.
func newForeignLog(t *testing.T, dir string, signer note.Signer, group tessera.WitnessGroup) (grow func(n int) []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	options := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(64, 10*time.Millisecond).
		WithCheckpointInterval(100*time.Millisecond).WithWitnesses(group, &tessera.WitnessOptions{Timeout: time.Minute})
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shutdown(ctx); cancel() })
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)
	total := 0
	return func(n int) []byte {
		t.Helper()
		var last tessera.IndexFuture
		for range n {
			last = appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", total)))
			total++
		}
		within, end := context.WithTimeout(ctx, 5*time.Minute)
		defer end()
		_, raw, err := awaiter.Await(within, last)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

// checkCosigned checks a checkpoint's cosignature by Tessera's rules and by ours.
func checkCosigned(t *testing.T, raw []byte, vkey string, peer tessera.Witness) {
	t.Helper()
	if !peer.Satisfied(raw) {
		t.Errorf("Tessera does not find the cosignature in %q", raw)
	}
	_, lines, err := ledger.SplitSignatures(raw)
	if err != nil || len(lines) != 2 {
		t.Errorf("%d signatures in %q, %v", len(lines), raw, err)
	}
	name, _, _ := strings.Cut(vkey, "+")
	if !bytes.Contains(raw, []byte("\u2014 "+name+" ")) {
		t.Errorf("no line of %s in %q", name, raw)
	}
}

// proofWithin is a consistency proof out of an embassy's tiles.
func proofWithin(ctx context.Context, x *embassy.Client, old uint64, cp ledger.Checkpoint) ([][32]byte, error) {
	prover, err := ledger.NewProver(cp.Size, func(tile ledger.Tile) ([]byte, error) {
		return x.Tile(ctx, layout.TilePath(uint64(tile.Level), tile.Index, uint8(tile.Width%layout.TileWidth)))
	})
	if err != nil {
		return nil, err
	}
	return prover.Consistency(old)
}
