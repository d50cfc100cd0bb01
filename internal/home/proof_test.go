package home

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestProofsAreKeptApartFromTheirLogs: what is no proof in the folder is passed over.
func TestProofsAreKeptApartFromTheirLogs(t *testing.T) {
	r := &Register{Dir: t.TempDir()}
	if all, err := r.Proofs(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	for n, text := range map[uint64]string{1: "one", 12: "twelve"} {
		if err := r.SaveProof(n, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	path, err := r.SaveProofLog(12, []byte("the server's log"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "the server's log" {
		t.Error(string(b), err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "007"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := r.Proofs()
	if err != nil || len(all) != 2 || string(all[1]) != "one" || string(all[12]) != "twelve" {
		t.Error(all, err)
	}
}

// TestTwoProofsTakeTurns: while one is given its number, another waits, and goes on when the first is done or it must end.
func TestTwoProofsTakeTurns(t *testing.T) {
	r := &Register{Dir: t.TempDir()}
	unlock, err := r.LockProofs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := r.LockProofs(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	got := make(chan error)
	go func() {
		next, err := r.LockProofs(t.Context())
		if err == nil {
			next()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatal("two at once", err)
	case <-time.After(200 * time.Millisecond):
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
