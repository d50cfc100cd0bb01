package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// proof returns a sound signed proof.
func proof() *Note {
	p := &Note{
		Kind: ProofNote, Version: 1, State: [16]byte{1}, Register: [16]byte{2}, Sequence: 3, Content: []byte("sealed"),
		CharterVersion: 4, CharterHash: [32]byte{5}, Time: 1_700_000_000_000_000_000,
	}
	p.Sign(agent(1))
	return p
}

// proven returns the result of a register that came back.
func proven() *ProofResult {
	return &ProofResult{
		Snapshot: 7, Position: []byte{1, 2, 3}, Moment: 1_700_000_000_000_000_000, Began: 1_700_000_001_000_000_000,
		Ended: 1_700_000_100_000_000_000, Lost: 1_000_000_000, Behind: 4096, Took: 30_000_000_000, Server: "PostgreSQL 15.14",
		Checks: []ProofCheck{{"backup files", CheckHeld, "1,024 files"}, {"sorting", CheckWarned, "libc 2.36, not 2.31"}, {"checksums", CheckNotDone, "off"}},
	}
}

func TestProofs(t *testing.T) {
	p := proof()
	got, err := ParseNote(ProofNote, p.Bytes())
	if err != nil || !reflect.DeepEqual(got, p) || got.Verify() != nil {
		t.Fatal(err, got)
	}
	for i := range p.Bytes() {
		b := bytes.Clone(p.Bytes())
		b[i] ^= 1
		if q, err := ParseNote(ProofNote, b); err == nil && q.Verify() == nil {
			t.Errorf("byte %d changed, and it counts", i)
		}
	}
	for what, change := range map[string]func(*Note){
		"version 2": func(p *Note) { p.Version = 2 }, "number 0": func(p *Note) { p.Sequence = 0 }, "no content": func(p *Note) { p.Content = nil },
	} {
		p := proof()
		change(p)
		p.Sign(agent(1))
		if _, err := ParseNote(ProofNote, p.Bytes()); !errors.Is(err, ErrNote) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestAProofIsNoOtherDocument: a signature under a proof is none under a stretch, whatever bytes are signed.
func TestAProofIsNoOtherDocument(t *testing.T) {
	if proofContext == cutContext || proofContext == stretchContext || proofContext == gatheringContext || !strings.HasSuffix(proofContext, "\x00") {
		t.Error("one context for two kinds")
	}
}

// TestAResultThatClaimsTooMuchIsRefused: no result is proven without what a proof shows.
func TestAResultThatClaimsTooMuchIsRefused(t *testing.T) {
	for what, change := range map[string]func(*ProofResult){
		"no snapshot": func(r *ProofResult) { r.Snapshot = 0 }, "no position": func(r *ProofResult) { r.Position = nil },
		"never served": func(r *ProofResult) { r.Took = 0 }, "a failed check": func(r *ProofResult) { r.Checks[0].Outcome = CheckFailed },
		"loss not known": func(r *ProofResult) { r.Lost = -1 },
		"outcome 5":      func(r *ProofResult) { r.Checks[0].Outcome = 5 }, "outcome 0": func(r *ProofResult) { r.Checks[0].Outcome = 0 },
		"no name": func(r *ProofResult) { r.Checks[0].Name = "" }, "backwards": func(r *ProofResult) { r.Ended = r.Began - 1 },
	} {
		r := proven()
		change(r)
		if _, err := r.Bytes(); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", what, err)
		}
		if b, err := r.encode(); err != nil {
			t.Error(what, err)
		} else if _, err := ParseProofResult(b); !errors.Is(err, ErrProof) {
			t.Errorf("%s: read: %v", what, err)
		}
	}
	failed := &ProofResult{Failed: "nobody answered", Lost: -1, Behind: -1}
	if b, err := failed.Bytes(); err != nil {
		t.Error(err)
	} else if got, err := ParseProofResult(b); err != nil || got.Proven() {
		t.Error(err, got)
	}
}

// TestAFullResultKeepsWhatFailed: whatever is said, a trimmed result fits, and tells of the check that failed.
func TestAFullResultKeepsWhatFailed(t *testing.T) {
	for _, n := range []int{0, 3, 50, 1000} {
		r := proven()
		r.Failed = strings.Repeat("why\xff", 500)
		for i := range n {
			r.Checks = append(r.Checks, ProofCheck{fmt.Sprintf("assertion %d %s", i, strings.Repeat("é", 60)), CheckHeld, strings.Repeat("x\x80", i)})
		}
		r.Checks = append(r.Checks, ProofCheck{"amcheck", CheckFailed, strings.Repeat("page ", 1000)})
		all := uint64(len(r.Checks))
		r.Trim()
		b, err := r.Bytes()
		if err != nil {
			t.Fatal(n, err)
		}
		got, err := ParseProofResult(b)
		if err != nil {
			t.Fatal(err)
		}
		last := got.Checks[len(got.Checks)-1]
		if last.Name != "amcheck" || last.Outcome != CheckFailed || uint64(len(got.Checks))+got.More != all || got.Proven() {
			t.Errorf("%d checks: %+v", n, got)
		}
	}
}

func FuzzProof(f *testing.F) {
	f.Add(proof().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseNote(ProofNote, b)
		if err != nil {
			if !errors.Is(err, ErrNote) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Bytes(), b) || p.Check() != nil {
			t.Fatal("accepted another spelling")
		}
	})
}

func FuzzProofResult(f *testing.F) {
	for _, r := range []*ProofResult{proven(), {Failed: "nobody answered", Lost: -1, Behind: -1}} {
		if b, err := r.Bytes(); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseProofResult(b)
		if err != nil {
			if !errors.Is(err, ErrProof) {
				t.Fatal(err)
			}
			return
		}
		if again, err := r.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted another spelling", err)
		}
	})
}

func TestProofVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "snapshot", "proofs.json")
	parse := func(format string, b []byte) (any, []byte, error) {
		if format == "result" {
			r, err := ParseProofResult(b)
			if err != nil {
				return nil, nil, err
			}
			again, err := r.Bytes()
			return r, again, err
		}
		p, err := ParseNote(ProofNote, b)
		if err == nil {
			err = p.Verify()
		}
		if err != nil {
			return nil, nil, err
		}
		return p, p.Bytes(), nil
	}
	if *update {
		writeJSON(t, path, makeProofVectors(t, parse))
	}
	var vectors []vector
	readJSON(t, path, &vectors)
	if len(vectors) < 10 {
		t.Fatal("few vectors")
	}
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Bytes)
		if err != nil {
			t.Fatal(v.What, err)
		}
		value, again, err := parse(v.Format, b)
		switch {
		case v.Expect != "accepted" && err == nil:
			t.Errorf("%s: was accepted", v.What)
		case v.Expect == "accepted" && (err != nil || !bytes.Equal(again, b) || !reflect.DeepEqual(plain(t, value), v.Value)):
			t.Errorf("%s: %v", v.What, err)
		}
	}
}

func makeProofVectors(t *testing.T, parse func(string, []byte) (any, []byte, error)) []vector {
	var out []vector
	add := func(format, what string, b []byte, accepted bool) {
		v := vector{What: what, Format: format, Expect: "refused", Bytes: hex.EncodeToString(b)}
		if accepted {
			value, _, err := parse(format, b)
			if err != nil {
				t.Fatal(what, err)
			}
			v.Expect, v.Value = "accepted", plain(t, value)
		}
		out = append(out, v)
	}
	some := func(format, what string, b []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		add(format, what, b, true)
		add(format, what+", cut short", b[:len(b)-1], false)
		add(format, what+", a byte behind", append(bytes.Clone(b), 0), false)
	}
	some("proof", "a proof", proof().Bytes(), nil)
	forged := proof()
	forged.Time++
	add("proof", "with another time under the same signature", forged.Bytes(), false)
	b, err := proven().Bytes()
	some("result", "a register that came back", b, err)
	failed := &ProofResult{Failed: "amcheck: 1 index", Lost: -1, Behind: -1, Took: 5, Snapshot: 1, Checks: []ProofCheck{{"amcheck", CheckFailed, "index plot_pkey"}}, More: 2}
	b, err = failed.Bytes()
	some("result", "one that did not", b, err)
	claim := proven()
	claim.Checks[0].Outcome = CheckFailed
	if b, err = claim.encode(); err != nil {
		t.Fatal(err)
	}
	add("result", "proven, and a check failed", b, false)
	return out
}
