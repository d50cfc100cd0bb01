package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
)

var noon = time.Unix(1_800_000_000, 0).UTC()

func cosignerOf(t testing.TB, who string) *Cosigner {
	t.Helper()
	k := keyOf(who)
	c, err := NewCosigner(WitnessName(publicOf(k)), k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mldsaCosignerOf(t testing.TB, who string) *Cosigner {
	t.Helper()
	seed := sha256.Sum256([]byte("ml-dsa " + who))
	c, err := NewMLDSACosigner(WitnessName(publicOf(keyOf(who))), &seed)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cosigned is the checkpoint of size leaves with these cosignatures.
func (l *logOf) cosigned(t testing.TB, size int, at time.Time, by ...*Cosigner) Checkpoint {
	t.Helper()
	cp := l.parse(t, l.checkpoint(t, size))
	for _, c := range by {
		line, err := c.Cosign(cp, at)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := AddSignatures(cp.Raw, line)
		if err != nil {
			t.Fatal(err)
		}
		cp = l.parse(t, raw)
	}
	return cp
}

func (l *logOf) parse(t testing.TB, raw []byte) Checkpoint {
	t.Helper()
	cp, err := ParseCheckpoint(raw, l.verifier(t))
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func TestOurCosignaturesVerifyElsewhere(t *testing.T) {
	l := filled(t, "a", 5)
	for _, c := range []*Cosigner{cosignerOf(t, "w"), mldsaCosignerOf(t, "w")} {
		cp := l.cosigned(t, 5, noon, c)
		v, err := fnote.NewVerifierForCosignatureV1(c.Key().String())
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(cp.Raw, note.VerifierList(l.verifier(t), v))
		if err != nil || len(n.Sigs) != 2 {
			t.Errorf("algorithm %d: %v", c.Key().alg, err)
		}
		other := bytes.Replace(cp.Raw, []byte("\n5\n"), []byte("\n4\n"), 1)
		if _, err := note.Open(other, note.VerifierList(v)); err == nil {
			t.Errorf("algorithm %d: another tree verifies too", c.Key().alg)
		}
	}
}

func TestCosignaturesMadeElsewhereVerify(t *testing.T) {
	l := filled(t, "a", 5)
	raw := l.checkpoint(t, 5)
	text, _, err := SplitSignatures(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []byte{algEd25519, algCosigner, algMLDSA} {
		seed := sha256.Sum256([]byte{alg})
		skey := "PRIVATE+KEY+foreign.example/w+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{alg}, seed[:]...))
		s, err := fnote.NewSignerForCosignatureV1(skey)
		if err != nil {
			t.Fatal(err)
		}
		var key WitnessKey
		if alg == algMLDSA {
			c, err := NewMLDSACosigner("foreign.example/w", &seed)
			if err != nil {
				t.Fatal(err)
			}
			key = c.Key()
		} else {
			pub := publicOf(ed25519.NewKeyFromSeed(seed[:]))
			data := append([]byte{alg}, pub...)
			key, err = ParseWitnessKey(fmt.Sprintf("foreign.example/w+%08x+%s", keyID("foreign.example/w", alg, pub), base64.StdEncoding.EncodeToString(data)))
			if err != nil {
				t.Fatal(err)
			}
		}
		blob, err := s.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := AddSignatures(raw, makeLine(s.Name(), s.KeyHash(), blob))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Cosignatures(l.parse(t, signed), []WitnessKey{key})
		if err != nil || len(got) != 1 || got[0].Key != key || got[0].Time.Unix() <= 0 {
			t.Errorf("algorithm %d: %v, %v", alg, got, err)
		}
	}
}

func TestAFalseCosignatureFailsAndAStrangersIsIgnored(t *testing.T) {
	l := filled(t, "a", 9)
	for _, c := range []*Cosigner{cosignerOf(t, "w"), mldsaCosignerOf(t, "w")} {
		keys := []WitnessKey{c.Key()}
		cp := l.cosigned(t, 9, noon, c)
		got, err := Cosignatures(cp, keys)
		if want := []Cosignature{{c.Key(), noon}}; err != nil || !slices.Equal(got, want) {
			t.Fatalf("control: %v, %v", got, err)
		}
		_, lines, err := SplitSignatures(cp.Raw)
		if err != nil {
			t.Fatal(err)
		}
		mine, err := parseLine(lines[1])
		if err != nil {
			t.Fatal(err)
		}
		changed := func(i int) []byte {
			blob := bytes.Clone(mine.blob)
			blob[i] ^= 1
			return makeLine(mine.name, mine.id, blob)
		}
		signedAt := func(at uint64) []byte {
			sig, err := c.sign(&cp, at)
			if err != nil {
				t.Fatal(err)
			}
			return makeLine(mine.name, mine.id, append(binary.BigEndian.AppendUint64(nil, at), sig...))
		}
		smaller, err := c.Cosign(l.parse(t, l.checkpoint(t, 8)), noon)
		if err != nil {
			t.Fatal(err)
		}
		for name, line := range map[string][]byte{
			"another time": changed(7), "another signature": changed(len(mine.blob) - 1), "of another tree": smaller,
			"cut": makeLine(mine.name, mine.id, mine.blob[:len(mine.blob)-1]), "no time": signedAt(0), "beyond all time": signedAt(maxTime + 1),
		} {
			raw := append(l.checkpoint(t, 9), line...)
			if _, err := Cosignatures(l.parse(t, raw), keys); !errors.Is(err, ErrSignature) {
				t.Errorf("algorithm %d, %s: %v", c.Key().alg, name, err)
			}
			// A true line beside it does not help.
			raw = append(bytes.Clone(cp.Raw), line...)
			if _, err := Cosignatures(l.parse(t, raw), keys); !errors.Is(err, ErrSignature) {
				t.Errorf("algorithm %d, %s beside a true one: %v", c.Key().alg, name, err)
			}
			if got, err := Cosignatures(l.parse(t, raw), []WitnessKey{cosignerOf(t, "other").Key()}); err != nil || got != nil {
				t.Errorf("algorithm %d, %s by a stranger: %v, %v", c.Key().alg, name, got, err)
			}
		}
	}
}

func TestACheckpointThatIsNotItsNoteHasNoCosignatures(t *testing.T) {
	l, c := filled(t, "a", 9), cosignerOf(t, "w")
	cp := l.cosigned(t, 9, noon, c)
	cp.Size = 8
	if _, err := Cosignatures(cp, []WitnessKey{c.Key()}); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func TestALaterCosignatureReplacesAnEarlierOne(t *testing.T) {
	l, a, b := filled(t, "a", 3), cosignerOf(t, "w"), mldsaCosignerOf(t, "w")
	cp := l.cosigned(t, 3, noon, a, b, a)
	later, earlier := noon.Add(time.Hour), noon.Add(-time.Hour)
	for _, at := range []time.Time{earlier, later} {
		for _, c := range []*Cosigner{a, b} {
			line, err := c.Cosign(cp, at)
			if err != nil {
				t.Fatal(err)
			}
			if cp.Raw, err = AddSignatures(cp.Raw, append(bytes.Clone(line), line...)); err != nil {
				t.Fatal(err)
			}
			cp = l.parse(t, cp.Raw)
		}
		_, lines, err := SplitSignatures(cp.Raw)
		if err != nil || len(lines) != 3 {
			t.Fatalf("%d lines, %v", len(lines), err)
		}
		want := noon
		if at.After(want) {
			want = at
		}
		got, err := Cosignatures(cp, []WitnessKey{b.Key(), a.Key()})
		if err != nil || !slices.Equal(got, []Cosignature{{b.Key(), want}, {a.Key(), want}}) {
			t.Errorf("%v, %v", got, err)
		}
	}
	// Two lines of one key that came together: the later counts.
	one, err := a.Cosign(cp, noon.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cp = l.parse(t, append(bytes.Clone(cp.Raw), one...))
	if got, err := Cosignatures(cp, []WitnessKey{a.Key()}); err != nil || len(got) != 1 || !got[0].Time.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNotesKeepTheirCaps(t *testing.T) {
	l := filled(t, "a", 3)
	raw := l.checkpoint(t, 3)
	line := func(i int) []byte { return makeLine(fmt.Sprint("w", i), uint32(i), make([]byte, 72)) }
	var err error
	for i := range maxSignatures - 1 {
		if raw, err = AddSignatures(raw, line(i)); err != nil {
			t.Fatal(i, err)
		}
	}
	l.parse(t, raw) // a note of a hundred signatures is still read
	if _, err := AddSignatures(raw, line(maxSignatures)); !errors.Is(err, ErrFormat) {
		t.Errorf("101 signatures: %v", err)
	}
	if _, err := AddSignatures(raw, line(1)); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	raw = l.checkpoint(t, 3)
	for i := 0; err == nil; i++ {
		raw, err = AddSignatures(raw, makeLine(fmt.Sprint("w", i), 1, make([]byte, mldsaBlob)))
		if len(raw) > maxCheckpoint {
			t.Fatalf("a note of %d bytes", len(raw))
		}
	}
	if !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func TestMalformedNotesAreRefused(t *testing.T) {
	raw := string(filled(t, "a", 3).checkpoint(t, 3))
	last := raw[strings.LastIndex(raw, dash):]
	for name, bad := range map[string]string{
		"empty": "", "no signatures": "a\nb\n", "none after the empty line": "a\n\n", "no last newline": strings.TrimSuffix(raw, "\n"),
		"a line of text": raw + "text\n", "a carriage return": raw + strings.TrimSuffix(last, "\n") + "\r\n", "a hyphen": raw + "- w AAAAAAAA\n",
		"no name": raw + dash + " AAAAAAAA\n", "a plus": raw + dash + "w+1 AAAAAAAA\n", "short": raw + dash + "w AAAA\n",
		"loose base64": raw + dash + "w AAAAAAF=\n", "no padding": raw + dash + "w AAAAAAA\n", "not UTF-8": raw + dash + "\xff AAAAAAAA\n",
		"a second space": raw + dash + "w AAAA AAAA\n",
	} {
		if _, _, err := SplitSignatures([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, lines, err := SplitSignatures([]byte(raw + dash + "w AAAAAAA=\n")); err != nil || len(lines) != 2 {
		t.Errorf("control: %v", err)
	}
}

func TestWitnessKeysAreReadAsWritten(t *testing.T) {
	for _, k := range []WitnessKey{cosignerOf(t, "w").Key(), mldsaCosignerOf(t, "w").Key()} {
		text := k.String()
		if got, err := ParseWitnessKey(text); err != nil || got != k || got.Name() != k.Name() {
			t.Errorf("%v", err)
		}
		for name, bad := range map[string]string{
			"a byte too few": text[:len(text)-4], "another name": "x" + text, "no name": text[len(k.name):],
			"a digit": strings.Replace(text, fmt.Sprintf("+%08x+", k.id), fmt.Sprintf("+%08x+", k.id^1), 1), "a newline": text + "\n",
		} {
			if _, err := ParseWitnessKey(bad); !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	other := append([]byte{2}, make([]byte, 32)...)
	text := fmt.Sprintf("w+%08x+%s", keyID("w", 2, other[1:]), base64.StdEncoding.EncodeToString(other))
	if _, err := ParseWitnessKey(text); !errors.Is(err, ErrUnknown) {
		t.Errorf("algorithm 2: %v", err)
	}
	if _, err := NewCosigner("w", nil); err == nil {
		t.Error("a cosigner without a key")
	}
	if _, err := NewWitnessKey("a b", publicOf(keyOf("w"))); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func TestAClockBeforeTheEpochSignsNothing(t *testing.T) {
	cp := filled(t, "a", 1).cosigned(t, 1, noon)
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(maxTime+1, 0)} {
		if _, err := cosignerOf(t, "w").Cosign(cp, at); err == nil {
			t.Errorf("signed at %v", at)
		}
	}
}

func TestProofsAreReadElsewhereAndFromElsewhere(t *testing.T) {
	l := filled(t, "a", 300)
	for _, extra := range [][]byte{nil, []byte("extra")} {
		r := l.receipt(t, 257, 300)
		p := Proof{Extra: extra, Index: r.Index, Path: r.Proof, Checkpoint: r.Checkpoint}
		var theirs proof.TLogProof
		if err := theirs.Unmarshal(p.Bytes()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(theirs.Marshal(), p.Bytes()) {
			t.Error("written otherwise elsewhere")
		}
		got, err := ParseProof(theirs.Marshal())
		if err != nil || !bytes.Equal(got.Bytes(), p.Bytes()) || !bytes.Equal(got.Extra, extra) {
			t.Fatalf("%+v, %v", got, err)
		}
		cp, err := got.Verify(l.leaves[257], l.verifier(t))
		if err != nil || cp.Size != 300 {
			t.Errorf("%v", err)
		}
		if _, err := got.Verify(l.leaves[256], l.verifier(t)); !errors.Is(err, ErrProof) {
			t.Errorf("another leaf: %v", err)
		}
		got.Index = 300
		if _, err := got.Verify(l.leaves[257], l.verifier(t)); !errors.Is(err, ErrProof) {
			t.Errorf("beyond the tree: %v", err)
		}
		if _, err := got.Verify(l.leaves[257], filled(t, "b", 1).verifier(t)); !errors.Is(err, ErrSignature) {
			t.Errorf("another log: %v", err)
		}
	}
}
