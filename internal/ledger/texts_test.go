package ledger

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func hashes(n int) [][32]byte {
	var out [][32]byte
	for i := range n {
		out = append(out, [32]byte{byte(i), 1})
	}
	return out
}

func TestAddCheckpointIsCanonical(t *testing.T) {
	cp := filled(t, "a", 9).checkpoint(t, 9)
	for _, a := range []AddCheckpoint{
		{Old: 0, Checkpoint: cp}, {Old: 5, Proof: hashes(4), Checkpoint: cp}, {Old: 1 << 60, Proof: hashes(63), Checkpoint: cp},
	} {
		got, err := ParseAddCheckpoint(a.Bytes())
		if err != nil || got.Old != a.Old || len(got.Proof) != len(a.Proof) || !bytes.Equal(got.Checkpoint, cp) || !bytes.Equal(got.Bytes(), a.Bytes()) {
			t.Errorf("old %d: %+v, %v", a.Old, got, err)
		}
	}
	h := base64.StdEncoding.EncodeToString(make([]byte, 32))
	note := string(cp)
	for name, body := range map[string]string{
		"empty": "", "no old": h + "\n\n" + note, "no number": "old \n\n" + note, "a leading zero": "old 05\n\n" + note, "a sign": "old +5\n\n" + note,
		"above 2^60": "old 1152921504606846977\n\n" + note, "above 2^64": "old 18446744073709551616\n\n" + note, "a carriage return": "old 5\r\n\n" + note,
		"no empty line": "old 5\n" + note, "hex": "old 5\n" + strings.Repeat("0", 64) + "\n\n" + note, "a short hash": "old 5\n" + h[:40] + "\n\n" + note,
		"a hash unpadded": "old 5\n" + h[:43] + "\n\n" + note, "loose bits": "old 5\n" + h[:42] + "B=\n\n" + note, "a space": "old 5\n" + h + " \n\n" + note,
		"64 hashes": string((&AddCheckpoint{Old: 5, Proof: hashes(64), Checkpoint: cp}).Bytes()), "no checkpoint": "old 5\n\n",
		"no signature": "old 5\n\nx\n1\n" + h + "\n", "a large note": "old 5\n\n" + strings.Repeat("x\n", maxCheckpoint/2) + note,
		"huge": "old 5\n\n" + strings.Repeat("x\n", maxCheckpoint) + note,
	} {
		if _, err := ParseAddCheckpoint([]byte(body)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseAddCheckpoint([]byte("old 5\n" + h + "\n\n" + note)); err != nil {
		t.Errorf("control: %v", err)
	}
}

func TestProofIsCanonical(t *testing.T) {
	note := string(filled(t, "a", 9).checkpoint(t, 9))
	h := base64.StdEncoding.EncodeToString(make([]byte, 32))
	good := proofHeader + "extra eA==\nindex 5\n" + h + "\n\n" + note
	p, err := ParseProof([]byte(good))
	if err != nil || p.Index != 5 || string(p.Extra) != "x" || len(p.Path) != 1 || string(p.Checkpoint) != note || string(p.Bytes()) != good {
		t.Fatalf("control: %+v, %v", p, err)
	}
	long := Proof{Extra: make([]byte, MaxExtra), Index: 1 << 60, Path: hashes(63), Checkpoint: p.Checkpoint}
	if _, err := ParseProof(long.Bytes()); err != nil {
		t.Errorf("the largest: %v", err)
	}
	long.Path = hashes(64)
	large := Proof{Extra: make([]byte, MaxExtra+1), Checkpoint: p.Checkpoint}
	for name, text := range map[string]string{
		"empty": "", "version 2": strings.Replace(good, "@v1", "@v2", 1), "no newline": strings.Replace(good, "@v1\n", "@v1", 1),
		"an empty extra": strings.Replace(good, "eA==", "", 1), "a loose extra": strings.Replace(good, "eA==", "eB==", 1), "extra twice": strings.Replace(good, "index", "extra eA==\nindex", 1),
		"no index": strings.Replace(good, "index 5\n", "", 1), "a zero before": strings.Replace(good, "index 5", "index 05", 1), "below 0": strings.Replace(good, "index 5", "index -5", 1),
		"no path's end": strings.Replace(good, "\n\n", "\n", 1), "a short hash": strings.Replace(good, h, h[4:], 1), "64 hashes": string(long.Bytes()),
		"large": string(large.Bytes()), "huge": good + strings.Repeat("x", maxProofText), "no checkpoint": strings.TrimSuffix(good, note), "a byte behind": good + "x",
	} {
		if _, err := ParseProof([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Path = hashes(64)
	l := filled(t, "a", 9)
	if _, err := p.Verify(l.leaves[5], l.verifier(t)); !errors.Is(err, ErrProof) {
		t.Errorf("an endless path: %v", err)
	}
}

func TestOwnSignaturesLeavesOutEverybodyElses(t *testing.T) {
	l := filled(t, "a", 3)
	raw := l.checkpoint(t, 3)
	cosigned := append(bytes.Clone(raw), "\u2014 witness.example AAAAAAAA\n"...)
	if got := OwnSignatures(cosigned); !bytes.Equal(got, raw) {
		t.Errorf("%q", got)
	}
	for _, other := range [][]byte{raw, []byte("no note"), nil} {
		if got := OwnSignatures(other); !bytes.Equal(got, other) {
			t.Errorf("%q became %q", other, got)
		}
	}
}
