package attack

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// tenants is one embassy that serves two states, the second of which holds objects of which the first knows the names.
type tenants struct {
	host     *host
	one, two *charter.Charter
	keys     [2]ed25519.PrivateKey // of their agents
	theirs   [][]byte              // held by two, not by one
	asked    int                   // how often all was asked: each time about other objects
}

// rounds is about how many objects each question is asked.
const rounds = 15

func newTenants(t *testing.T) *tenants {
	t.Helper()
	dir := t.TempDir()
	first := found(t, filepath.Join(dir, "one"), "reader", nil, "lu")
	second := found(t, filepath.Join(dir, "two"), "reader", nil)
	w := &tenants{host: first.hosts[0]}
	w.host.stop(syscall.SIGTERM)
	second.agree(t, w.host)
	for i, s := range []*state{first, second} {
		h, err := home.Open(s.home, false)
		if err != nil {
			t.Fatal(err)
		}
		if w.keys[i], err = h.AgentKey(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			w.one = h.Charter
		} else {
			w.two = h.Charter
		}
		h.Close()
	}
	if err := w.host.start(); err != nil {
		t.Fatal(err)
	}
	c := rawClient(t, clientTLS(w.keys[1]))
	for i := range 3 * rounds {
		data := noise(byte(i), 3000)
		status, err := ask(c, "PUT", w.host.url+w.object(w.two, data), data)
		if err != nil || status != http.StatusCreated {
			t.Fatalf("two stores: %d, %v", status, err)
		}
		w.theirs = append(w.theirs, data)
	}
	w.host.stop(syscall.SIGTERM)
	return w
}

func (w *tenants) object(c *charter.Charter, data []byte) string {
	return "/v1/states/" + c.State.ID.String() + "/objects/" + shard.Root(data).String()
}

// question is one that a tenant or a stranger may ask in two ways: about what is another's, and about what is nobody's.
// In path and body STATE, NAME and DATA stand for a state's id, an object's name and its bytes.
type question struct {
	who, method, path, body string
	key                     ed25519.PrivateKey
	state                   [2]charter.StateID        // another's, nobody's
	data                    [2]func(round int) []byte // likewise
	order                   [2][]byte                 // the body, where it is an order
	only                    string                    // the part of the folder that shows it, where the rest is busy
}

func (q *question) String() string { return q.who + ": " + q.method + " " + q.path }

// request is the question as it is asked.
func (q *question) request(round, side int) (path string, body []byte) {
	data := q.data[side](round)
	fill := strings.NewReplacer("STATE", q.state[side].String(), "NAME", shard.Root(data).String(), "DATA", string(data))
	if body = q.order[side]; body == nil && q.body != "" {
		body = []byte(fill.Replace(q.body))
	}
	return fill.Replace("/v1/states/STATE/" + q.path), body
}

const (
	namesBody    = `{"names":["NAME"]}`
	receiptsBody = `{"objects":["NAME"],"records":[]}`
)

// questions are those about another state, by one's agent and by a stranger, and those of one about itself, which name
// what two holds and one does not.
func (w *tenants) questions(t *testing.T) (all []question) {
	t.Helper()
	nowhere := charter.StateID([]byte(strings.Repeat("\xab", 16)))
	others := [2]charter.StateID{w.two.State.ID, nowhere}
	own := [2]charter.StateID{w.one.State.ID, w.one.State.ID}
	theirs := func(round int) []byte { return w.theirs[w.asked*rounds+round] }
	nobodys := func(round int) []byte { return noise(byte(100+w.asked*rounds+round), 3000) }
	same, either := [2]func(int) []byte{theirs, theirs}, [2]func(int) []byte{theirs, nobodys}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	about := []struct{ method, path, body string }{
		{"GET", "objects/NAME", ""},
		{"GET", "objects/NAME/leaves", ""},
		{"POST", "objects/has", namesBody},
		{"POST", "objects/scrub", namesBody},
		{"POST", "receipts", receiptsBody},
	}
	for _, a := range about {
		all = append(all, question{who: "a tenant of itself", method: a.method, path: a.path, body: a.body, key: w.keys[0], state: own, data: either})
	}
	// It stores what two holds already as if nobody did. Each name is stored once.
	all = append(all, question{who: "a tenant of itself", method: "PUT", path: "objects/NAME", body: "DATA", key: w.keys[0], state: own, data: either, only: "/objects/|/tmp/"})
	for who, key := range map[string]ed25519.PrivateKey{"a tenant": w.keys[0], "a stranger": stranger} {
		for _, a := range append(about, []struct{ method, path, body string }{
			{"PUT", "objects/NAME", "DATA"},
			{"GET", "status", ""},
			{"GET", "charter", ""},
			{"GET", "agreement", ""},
			{"GET", "checkpoint", ""},
			{"GET", "cosigned", ""},
			{"GET", "tile/0/000", ""},
			{"GET", "records/charter/" + strings.Repeat("0", 32) + "/1", ""},
			{"GET", "orders", ""},
		}...) {
			all = append(all, question{who: who, method: a.method, path: a.path, body: a.body, key: key, state: others, data: same})
		}
	}
	for _, path := range []string{"orders", "orders/1/vetoes"} {
		all = append(all, question{
			who: "a stranger", method: "POST", path: path, key: stranger, state: others, data: same,
			order: [2][]byte{unsigned(t, others[0]), unsigned(t, others[1])},
		})
	}
	return all
}

// unsigned is the body of an order that is well formed, and that a stranger alone signed.
func unsigned(t *testing.T, state charter.StateID) []byte {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	o, err := order.New(order.Order{
		Kind: charter.ActHold, State: state, Charter: 2, CharterHash: [32]byte{1}, Embassies: []string{"lu"}, Proposer: "mari",
		Created: now, Expires: now.Add(time.Hour), Nonce: [16]byte{1}, Reason: "to see who is here",
		Content: order.Content{Register: charter.RegisterID{1}, Label: "land", Hold: "hold"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := charter.SignIn(order.Namespace, o.Bytes(), ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	rec, err := order.NewRecord(o.Bytes(), sig).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(rec))), rec...)
}

// probed is what came of asking everything in both ways.
type probed struct {
	differ  []string // where what the server did tells the two apart
	touched int      // questions for which it touched any file
}

// probe serves the embassy with a program, under a tracer, and asks it.
func (w *tenants) probe(t *testing.T, program string, questions []question) (p probed) {
	t.Helper()
	var pid atomic.Int64
	seen := touches(w.host.dir, func() int { return int(pid.Load()) })
	x := &tracer{saw: seen.saw}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := x.run([]string{program, "--json", "embassy", "serve", "--dir", w.host.dir, "--listen", w.host.listen}, out, out, func(n int) { pid.Store(int64(n)) })
		ended <- err
	}()
	defer func() {
		w.asked++
		_ = syscall.Kill(int(pid.Load()), syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	await(t, out.Name(), `"url":`)
	clients := map[string]*http.Client{}
	for _, q := range questions {
		id := string(q.key)
		if clients[id] == nil {
			clients[id] = rawClient(t, clientTLS(q.key))
		}
		sides := w.ask(t, clients[id], seen, &q)
		if sides[0] != sides[1] {
			p.differ = append(p.differ, fmt.Sprintf("%v\nof another's:\n%s\nof nobody's:\n%s", &q, sides[0], sides[1]))
		}
		if sides[0] != "" {
			p.touched++
		}
	}
	return p
}

// await waits until a file holds a text.
func await(t *testing.T, path, text string) {
	t.Helper()
	for began := time.Now(); !strings.Contains(string(readFile(t, path)), text); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%s never says %s: %s", path, text, readFile(t, path))
		}
	}
}

// ask asks one question in both ways by turns, and returns what the server did to answer each: the least that it did in
// any round, because what it does beside the answer only adds to it. It asks again until the two are alike, or will not be.
func (w *tenants) ask(t *testing.T, c *http.Client, seen *touched, q *question) (least [2]string) {
	t.Helper()
	patience := 60
	if q.method == http.MethodPut {
		patience = rounds // each object is new once
	}
	for round := range patience {
		for side := range least {
			path, body := q.request(round%rounds, side)
			mark := seen.mark()
			for {
				status, err := ask(c, q.method, w.host.url+path, body)
				if err != nil {
					t.Fatalf("%v: %v", q, err)
				}
				if status != http.StatusServiceUnavailable {
					break
				}
				time.Sleep(300 * time.Millisecond) // strangers bring only so many orders a second
				mark = seen.mark()
			}
			did := seen.since(mark, q.only)
			if n, m := strings.Count(did, "\n"), strings.Count(least[side], "\n"); round == 0 || n < m || n == m && did < least[side] {
				least[side] = did
			}
		}
		if round >= 2 && least[0] == least[1] {
			break
		}
	}
	return least
}

// TestTenantsCannotProbeEachOtherByTheDisk holds that an embassy's server makes the same system calls on its files, in
// number and order and with the same outcome, whether a request names what another tenant has or what nobody has. No
// clock is needed: what is not done takes no time. The controls are servers built with one line changed, which look
// further than the tenant's own part, and are found.
func TestTenantsCannotProbeEachOtherByTheDisk(t *testing.T) {
	t.Parallel()
	w := newTenants(t)
	questions := w.questions(t)
	p := w.probe(t, program, questions)
	for _, d := range p.differ {
		t.Error(d)
	}
	if p.touched == 0 {
		t.Error("no question touched a file: nothing was compared")
	}
	for what, change := range map[string]struct{ file, old, new, found string }{
		"looks for an object everywhere": {
			"internal/embassy/handle_objects.go", "func (s *Server) getObject(q *session) error {\n\tname, err := q.name()\n",
			`func (s *Server) getObject(q *session) error {
				name, err := q.name()
				for _, other := range s.states {
					if other != q.state {
						_, _ = other.store.stat(name)
					}
				}
			`, "a tenant of itself: GET objects/NAME\n",
		},
		"looks at a state's folder before it knows who asks": {
			"internal/embassy/handler.go", "ok, known, why := need.allows(st, key)\n",
			"_, _ = st.store.free()\nok, known, why := need.allows(st, key)\n", "a stranger: GET status\n",
		},
	} {
		p := w.probe(t, variant(t, change.file, change.old, change.new), questions)
		if !strings.Contains(strings.Join(p.differ, "\n"), change.found) {
			t.Errorf("control: a server that %s is not told from one that does not: %q", what, p.differ)
		}
	}
}

// variant builds the program with one piece of a file replaced.
func variant(t *testing.T, file, old, new string) string {
	t.Helper()
	dir := t.TempDir()
	path, err := filepath.Abs(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(readFile(t, path))
	if strings.Count(text, old) != 1 {
		t.Fatalf("%s does not hold this once: %q", file, old)
	}
	changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	write(t, changed, []byte(strings.Replace(text, old, new, 1)))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, overlay, list)
	built := filepath.Join(dir, "chancery")
	build := exec.Command("go", "build", "-buildvcs=false", "-overlay", overlay, "-o", built, "chancery.dev/chancery/cmd/chancery")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building a variant: %v\n%s", err, out)
	}
	return built
}
