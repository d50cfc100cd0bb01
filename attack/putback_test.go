package attack

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// sawOf is what witness show answers of one log.
type sawOf struct {
	Origin   string
	Size     uint64
	Cosigned string
}

func shown(t *testing.T, dir string) map[string]sawOf {
	t.Helper()
	var list []sawOf
	answer(t, &list, []int{0}, "witness", "show", "--dir", dir)
	out := map[string]sawOf{}
	for _, s := range list {
		out[s.Origin] = s
	}
	return out
}

// TestAWitnessPutBackLearnsFromTheOthers runs a witness of a charter beside three embassies, over HTTPS. Put back to
// yesterday's folder while nobody answers, it stays frozen; when the embassies answer, it learns from them how far the
// ledgers were, and from then on refuses what is smaller.
func TestAWitnessPutBackLearnsFromTheOthers(t *testing.T) {
	t.Parallel()
	s := found(t, t.TempDir(), "reader", nil, "lu", "is", "pt")
	folder, address := s.in("witness"), freeAddress(t)
	var made struct{ VKeys []string }
	answer(t, &made, []int{0}, "witness", "init", "--dir", folder, "--mldsa")
	must(t, "witness", "add", "--home", s.home, "--name", "fi", "--country", "FI", "--vkey", made.VKeys[0],
		"--mldsa-vkey", made.VKeys[1], "--url", "https://"+address)
	w := &sentinel{args: []string{"--dir", folder, "--charter", filepath.Join(s.home, "charter.yaml"), "--listen", address, "--tls"}}
	w.start(t)
	h, err := home.Open(s.home, false)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.AgentKey()
	if err != nil {
		t.Fatal(err)
	}
	fi, _ := h.Charter.WitnessByName("fi")
	keys, err := fi.Keys()
	if err != nil {
		t.Fatal(err)
	}
	e := h.Charter.Embassies[0]
	client := embassy.Dial(embassy.ClientConfig{URL: e.URLs[0], ServerKey: e.PublicKey(), ClientKey: key, State: h.Charter.State.ID})
	t.Cleanup(client.Close)
	http, err := witness.NewClient(fi.PublicKey(), key)
	if err != nil {
		t.Fatal(err)
	}
	remote := &witness.Remote{Prefix: w.url, HTTP: http, Key: keys}
	sees := func(size uint64) func() bool {
		return func() bool {
			all := shown(t, folder)
			return len(all) == len(s.hosts) && all[e.Origin].Size >= size && all[e.Origin].Cosigned != ""
		}
	}
	if !waitFor(sees(1)) {
		t.Fatalf("the witness does not cosign: %+v", shown(t, folder))
	}
	old := shown(t, folder)[e.Origin]
	yesterday := s.in("yesterday")
	w.stop()
	if err := copyTree(folder, yesterday); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(yesterday, "logs", witness.ID(e.Origin)))
	if err != nil {
		t.Fatal(err)
	}
	w.start(t)
	tree := s.in("tree")
	smallTree(t, tree)
	s.add(t, "land", tree, 2)
	must(t, "backup", "land", "--home", s.home)
	cp, err := client.Checkpoint(t.Context())
	if err != nil || cp.Size <= old.Size {
		t.Fatalf("%d leaves after %d, %v", cp.Size, old.Size, err)
	}
	if !waitFor(sees(cp.Size)) {
		t.Fatalf("the witness does not follow: %+v", shown(t, folder))
	}
	// With it, the checkpoint that the embassy shows carries both its cosignatures.
	if !waitFor(func() bool {
		note, err := client.Cosigned(t.Context())
		if err != nil {
			return false
		}
		v, err := ledger.NewVerifier(e.Origin, e.PublicKey())
		if err != nil {
			return false
		}
		shows, err := ledger.ParseCheckpoint(note, v)
		if err != nil {
			return false
		}
		found, err := ledger.Cosignatures(shows, keys)
		return err == nil && len(found) == 2
	}) {
		t.Error("the embassy shows no checkpoint with the witness's two cosignatures")
	}
	// Put back, with nobody to tell it.
	w.stop()
	for _, x := range s.hosts {
		x.stop(syscall.SIGTERM)
	}
	w.args[slices.Index(w.args, folder)] = yesterday
	folder = yesterday
	w.start(t)
	smaller := &ledger.AddCheckpoint{Old: old.Size, Checkpoint: raw}
	if _, err := remote.Add(t.Context(), smaller); !errors.Is(err, witness.ErrFrozen) {
		t.Fatalf("put back, it cosigns yesterday's tree: %v", err)
	}
	for _, x := range s.hosts {
		if err := x.start(); err != nil {
			t.Fatal(err)
		}
	}
	var is *witness.OldSize
	if !waitFor(func() bool {
		_, err := remote.Add(t.Context(), smaller)
		return !errors.Is(err, witness.ErrFrozen)
	}) {
		t.Fatal("it stays frozen though all answer")
	}
	if _, err := remote.Add(t.Context(), smaller); !errors.As(err, &is) || is.Size < cp.Size {
		t.Errorf("yesterday's tree: %v, want a refusal that tells %d leaves", err, cp.Size)
	}
	if !waitFor(sees(cp.Size)) {
		t.Errorf("it goes on at %+v", shown(t, folder))
	}
	if text := chancery("witness", "show", "--dir", folder).out; !strings.Contains(text, e.Origin) {
		t.Errorf("witness show: %s", text)
	}
}
