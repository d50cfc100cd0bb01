package embassy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/peer"
	"chancery.dev/chancery/internal/shard"
)

// neighbour adds another state to an embassy's folder, with the agent "other".
func neighbour(t *testing.T, dir string) *charter.Charter {
	t.Helper()
	c := *sampleCharter(t, "two")
	c.Agents = []charter.Agent{{Name: "home-1", Key: charterKey("other")}}
	two := made(t, c)
	if _, err := Admit(dir, admission(t, two, agreed(t, dir, two, nil))); err != nil {
		t.Fatal(err)
	}
	return two
}

// probe asks an embassy everything that a key could ask of a state, and returns what came back: status lines, headers and
// bodies, but for the clock of the asked state itself.
func probe(t *testing.T, s *site, who, state string, names []shard.Name) []string {
	t.Helper()
	cert, err := peer.Certificate(keyOf(who))
	if err != nil {
		t.Fatal(err)
	}
	tc := tlsConfig(cert)
	tc.InsecureSkipVerify = true // what it answers is looked at, not who it is
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: tc}, Timeout: 30 * time.Second}
	defer h.CloseIdleConnections()
	var all []string
	ask := func(method, path string, body []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.addr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s\n%s %s\n", method, path, resp.Proto, resp.Status)
		resp.Header.Del("Date")
		_ = resp.Header.Write(&b)
		b.Write(ownClock.ReplaceAll(data, []byte("CLOCK")))
		all = append(all, b.String())
	}
	base := "/v1/states/" + state + "/"
	order := append([]byte{0, 0, 0, 3}, "abc"...)
	for _, name := range names {
		ask("GET", base+"objects/"+name.String(), nil)
		ask("GET", base+"objects/"+name.String()+"/leaves", nil)
		ask("POST", base+"objects/has", []byte(`{"names":["`+name.String()+`"]}`))
		ask("POST", base+"objects/scrub", []byte(`{"names":["`+name.String()+`"]}`))
		ask("POST", base+"receipts", []byte(`{"objects":["`+name.String()+`"],"records":[]}`))
	}
	for _, path := range []string{
		"objects", "records/head", "records/charter", "charter", "status", "agreement", "orders", "orders/1", "cosigned",
		"witness/seen/" + strings.Repeat("0", 64), "nowhere", "tile/9/000",
	} {
		ask("GET", base+path, nil)
	}
	ask("PUT", base+"objects/"+names[0].String(), []byte("not its bytes"))
	ask("PUT", base+"charter", []byte(`{"document":"","signature":""}`))
	ask("POST", base+"orders", order)
	ask("POST", base+"orders", []byte("x"))
	ask("POST", base+"orders/1/vetoes", order)
	ask("GET", "/v1/identity", nil)
	ask("GET", "/v1/states", nil)
	return all
}

var ownClock = regexp.MustCompile(`"(cosigned_time|ended)":"[^"]*"`)

// tenants is what a tenant and a stranger see of an embassy, alone or beside another state that holds the same objects.
func tenants(t *testing.T, dir string, beside bool) [][]string {
	t.Helper()
	one := charter.StateID(seeded(16, "state", "one")).String()
	two := charter.StateID(seeded(16, "state", "two")).String()
	s := serve(t, dir, Options{Version: "x"})
	s.server.strange = newBucket(1e6)
	defer s.stop()
	shared, data := object(3000, "held by both")
	theirs, more := object(4000, "held by the other")
	if beside {
		other := s.dial(t, "other", func(c *ClientConfig) { c.State = charter.StateID(seeded(16, "state", "two")) })
		for name, data := range map[shard.Name][]byte{shared: data, theirs: more} {
			if err := other.Put(t.Context(), name, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.client(t, "agent").Put(t.Context(), shared, data); err != nil {
		t.Fatal(err)
	}
	until(t, "a checkpoint of it", func() bool {
		cp, err := s.client(t, "agent").Checkpoint(t.Context())
		return err == nil && cp.Size >= 3
	})
	names := nameList(shared, theirs)
	return [][]string{
		probe(t, s, "agent", one, names), probe(t, s, "agent", two, names),
		probe(t, s, "a stranger", one, names), probe(t, s, "a stranger", two, names),
		probe(t, s, "a stranger", strings.Repeat("ab", 16), names),
		probe(t, s, "other", two, names),
	}
}

// No answer differs by whether another state is served beside, which holds the same objects and others: not to a tenant
// that asks about itself or the other, and not to a stranger.
func TestTenantsCannotProbeEachOther(t *testing.T) {
	t.Parallel()
	dir, _ := admitted(t, nil)
	copied := t.TempDir()
	copyTree(t, dir, copied)
	neighbour(t, copied)
	alone, beside := tenants(t, dir, false), tenants(t, copied, true)
	who := []string{"a tenant of itself", "a tenant of the other", "a stranger of one", "a stranger of the other", "a stranger of none"}
	receipts := func(text string) bool {
		return strings.Contains(text, "/receipts\n") && strings.Contains(text, "200 OK")
	}
	for i := range who {
		for k := range alone[i] {
			if alone[i][k] != beside[i][k] && !receipts(alone[i][k]) { // whose leaves hold its own clock
				t.Errorf("%s sees a difference:\n%s\n----\n%s", who[i], alone[i][k], beside[i][k])
			}
		}
	}
	// To a stranger all states look alike, here or not, but for the path that they ask for.
	plain := func(texts []string, state string) (out []string) {
		for _, x := range texts {
			out = append(out, strings.ReplaceAll(x, state, "STATE"))
		}
		return out
	}
	one := plain(beside[2], charter.StateID(seeded(16, "state", "one")).String())
	if !slices.Equal(one, plain(beside[3], charter.StateID(seeded(16, "state", "two")).String())) ||
		!slices.Equal(one, plain(beside[4], strings.Repeat("ab", 16))) {
		t.Error("a stranger tells states that are here from others")
	}
	// Control: where the other does see something, the comparison sees it too.
	last := len(alone) - 1
	if slices.Equal(alone[last], beside[last]) || len(alone[0]) < 20 {
		t.Error("control: the other state's own key sees no difference")
	}
}
