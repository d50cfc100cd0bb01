package custody

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func seeded(n uint64) *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, n)))
}

func take32(n uint64) (b [32]byte) {
	_, _ = seeded(n).Read(b[:])
	return b
}

func names(n int) []string {
	all := []string{"mari", "jaan", "tiit", "kati", "mati", "leena"}
	for len(all) < n {
		all = append(all, fmt.Sprintf("custodian-%d", len(all)+1))
	}
	return all[:n]
}

func split(t testing.TB, n uint64, threshold, total int) (*[32]byte, []Share, []Commitment) {
	t.Helper()
	seed := take32(n)
	shares, commitments, err := Split(seeded(n+1000), &seed, [16]byte{1, 2, 3}, 1, threshold, names(total))
	if err != nil {
		t.Fatal(err)
	}
	return &seed, shares, commitments
}

// slowMul multiplies polynomials and divides: another way to the same field.
func slowMul(a, b byte) byte {
	var p uint16
	for i := range 8 {
		if b>>i&1 == 1 {
			p ^= uint16(a) << i
		}
	}
	for i := 15; i >= 8; i-- {
		if p>>i&1 == 1 {
			p ^= 0x11b << (i - 8)
		}
	}
	return byte(p)
}

func TestFieldAgainstPolynomialDivision(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			if got, want := mul(byte(a), byte(b)), slowMul(byte(a), byte(b)); got != want {
				t.Fatalf("%#x times %#x is %#x, want %#x", a, b, got, want)
			}
		}
		if a != 0 && mul(byte(a), inv(byte(a))) != 1 {
			t.Fatalf("%#x times its inverse is not 1", a)
		}
	}
	if inv(0) != 0 {
		t.Error("inverse of 0")
	}
}

func TestExactlyTheSubsetsOfThresholdSizeOpen(t *testing.T) {
	for total := 1; total <= 6; total++ {
		for threshold := 1; threshold <= total; threshold++ {
			seed, shares, commitments := split(t, uint64(10*total+threshold), threshold, total)
			for set := range 1 << total {
				var some []Share
				for i := range total {
					if set>>i&1 == 1 {
						some = append(some, shares[i])
					}
				}
				got, err := Combine(some, commitments)
				if bits.OnesCount(uint(set)) >= threshold {
					if err != nil || *got != *seed {
						t.Fatalf("%d of %d, subset %b: %v", threshold, total, set, err)
					}
				} else if !errors.Is(err, ErrTooFew) || got != nil {
					t.Fatalf("%d of %d, subset %b: error %v, want ErrTooFew", threshold, total, set, err)
				}
			}
		}
	}
}

func TestSplitAndCombineAtAnySize(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		total := rapid.IntRange(1, MaxHolders).Draw(rt, "total")
		threshold := rapid.IntRange(1, total).Draw(rt, "threshold")
		seed, shares, commitments := split(t, rapid.Uint64Range(0, 1<<32).Draw(rt, "seed"), threshold, total)
		picked := rapid.Permutation(shares).Draw(rt, "order")[:threshold]
		got, err := Combine(picked, commitments)
		if err != nil || *got != *seed {
			rt.Fatalf("%d of %d: %v", threshold, total, err)
		}
	})
}

func TestTooFewSaysHowManyAreMissing(t *testing.T) {
	_, shares, commitments := split(t, 1, 4, 6)
	_, err := Combine(shares[:1], commitments)
	if !errors.Is(err, ErrTooFew) || !strings.Contains(err.Error(), "1 of the 4 needed, 3 missing") {
		t.Errorf("error %v", err)
	}
	twice := []Share{shares[2], shares[2], shares[2], shares[2], shares[5]}
	_, err = Combine(twice, commitments)
	if !errors.Is(err, ErrTooFew) || !strings.Contains(err.Error(), "2 of the 4 needed, 2 missing") {
		t.Errorf("the same share four times: %v", err)
	}
}

func TestEveryWrongShareIsNamedAndNeverUsed(t *testing.T) {
	seed, shares, commitments := split(t, 2, 3, 5)
	changes := map[string]struct {
		change func(*Share)
		want   error
	}{
		"value":      {func(s *Share) { s.Value[31] ^= 1 }, ErrForged},
		"salt":       {func(s *Share) { s.Salt[0] ^= 1 }, ErrForged},
		"threshold":  {func(s *Share) { s.Threshold-- }, ErrForged},
		"total":      {func(s *Share) { s.Total++ }, ErrForged},
		"generation": {func(s *Share) { s.Generation++ }, ErrForeign},
		"state":      {func(s *Share) { s.State[0]++ }, ErrForeign},
	}
	for name, change := range changes {
		for i := range shares {
			given := append([]Share{}, shares...)
			change.change(&given[i])
			err := Check(given[i], commitments)
			say := fmt.Sprintf("share %d of custodian %s", i+1, given[i].Holder)
			if !errors.Is(err, change.want) || !strings.Contains(err.Error(), say) {
				t.Errorf("%s of share %d: %v", name, i+1, err)
			}
			if got, err := Combine(given, commitments); got != nil || !errors.Is(err, change.want) || !strings.Contains(err.Error(), say) {
				t.Errorf("%s of share %d: combine: %v", name, i+1, err)
			}
			good, bad := Sift(given, commitments)
			if len(good) != 4 || len(bad) != 1 {
				t.Fatalf("%s of share %d: %d good, %d bad", name, i+1, len(good), len(bad))
			}
			if got, err := Combine(good, commitments); err != nil || *got != *seed {
				t.Errorf("%s of share %d: without it: %v", name, i+1, err)
			}
		}
	}
	forged := shares[2]
	forged.Value[0]++
	if err := Check(forged, commitments); err.Error() != "custody: share 3 of custodian tiit is not the one the charter commits to" {
		t.Errorf("the words: %v", err)
	}
}

func TestAShareUnderAnotherNumberOrNameIsForged(t *testing.T) {
	_, shares, commitments := split(t, 3, 2, 3)
	for _, x := range []uint8{0, 2, 4, 255} {
		s := shares[0]
		s.X = x
		if err := Check(s, commitments); !errors.Is(err, ErrForged) {
			t.Errorf("as share %d: %v", x, err)
		}
	}
	s := shares[0]
	s.Holder = "jaan"
	if err := Check(s, commitments); !errors.Is(err, ErrForged) {
		t.Errorf("as jaan's: %v", err)
	}
	s.Holder = "\x1b[2Jevil"
	if err := Check(s, commitments); !errors.Is(err, ErrForged) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("as a terminal's: %q", err)
	}
}

func TestForgedAndTooFewAreBothSaid(t *testing.T) {
	_, shares, commitments := split(t, 4, 3, 5)
	shares[1].Value[0]++
	_, err := Combine(shares[:3], commitments)
	if !errors.Is(err, ErrForged) || !errors.Is(err, ErrTooFew) || !strings.Contains(err.Error(), "1 missing") {
		t.Errorf("error %v", err)
	}
}

func TestACheatingSplitterIsFoundWhereMoreSharesAreThere(t *testing.T) {
	seed, shares, commitments := split(t, 5, 2, 4)
	shares[3].Value[0]++
	commitments[3] = shares[3].Commit() // the charter commits to the wrong share
	if got, err := Combine(shares[:3], commitments); err != nil || *got != *seed {
		t.Errorf("control: %v", err)
	}
	if _, err := Combine(shares, commitments); !errors.Is(err, ErrInconsistent) {
		t.Errorf("error %v, want ErrInconsistent", err)
	}
}

func TestImpossibleParameters(t *testing.T) {
	seed := take32(1)
	for name, test := range map[string]struct {
		generation uint32
		threshold  int
		holders    []string
	}{
		"threshold 0": {1, 0, names(3)}, "threshold below 0": {1, -1, names(3)}, "threshold above": {1, 4, names(3)},
		"no holders": {1, 1, nil}, "too many": {1, 1, names(MaxHolders + 1)}, "generation 0": {0, 1, names(3)},
		"one person twice": {1, 2, []string{"mari", "mari"}}, "not a name": {1, 1, []string{"Mari"}},
	} {
		if _, _, err := Split(seeded(1), &seed, [16]byte{1}, test.generation, test.threshold, test.holders); !errors.Is(err, ErrParameters) {
			t.Errorf("%s: error %v, want ErrParameters", name, err)
		}
	}
	if _, _, err := Split(strings.NewReader("short"), &seed, [16]byte{1}, 1, 3, names(3)); err == nil {
		t.Error("split with too little randomness")
	}
	_, shares, good := split(t, 6, 2, 3)
	for name, change := range map[string]func([]Commitment) []Commitment{
		"none":             func([]Commitment) []Commitment { return nil },
		"one missing":      func(c []Commitment) []Commitment { return c[:2] },
		"order":            func(c []Commitment) []Commitment { c[0], c[1] = c[1], c[0]; return c },
		"two generations":  func(c []Commitment) []Commitment { c[1].Generation = 2; return c },
		"two states":       func(c []Commitment) []Commitment { c[1].State[0]++; return c },
		"two thresholds":   func(c []Commitment) []Commitment { c[1].Threshold = 1; return c },
		"threshold 0":      func(c []Commitment) []Commitment { c[0].Threshold, c[1].Threshold, c[2].Threshold = 0, 0, 0; return c },
		"one person twice": func(c []Commitment) []Commitment { c[1].Holder = c[0].Holder; return c },
	} {
		bad := change(append([]Commitment{}, good...))
		if err := Check(shares[0], bad); !errors.Is(err, ErrParameters) {
			t.Errorf("%s: check: %v", name, err)
		}
		if _, err := Combine(shares, bad); !errors.Is(err, ErrParameters) {
			t.Errorf("%s: combine: %v", name, err)
		}
	}
}

// Any two shares of a 3-of-n split take every pair of values, each as often as
// the other, whatever the secret is: here for all coefficients of one byte.
func TestFewerSharesThanTheThresholdTellNothing(t *testing.T) {
	for _, secret := range []byte{0x00, 0x5a, 0xff} {
		seen := make([]int, 1<<16)
		for a := range 256 {
			for b := range 256 {
				p := []byte{secret, byte(a), byte(b)}
				seen[int(evaluate(p, 2))<<8|int(evaluate(p, 5))]++
			}
		}
		for v, n := range seen {
			if n != 1 {
				t.Fatalf("secret %#x: shares %04x come %d times", secret, v, n)
			}
		}
	}
}

func TestSharesUseAllRandomness(t *testing.T) {
	seed := [32]byte{}
	shares, commitments, err := Split(seeded(7), &seed, [16]byte{1}, 1, 3, names(5))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, s := range shares {
		for _, v := range [][]byte{s.Value[:], s.Salt[:], commitments[i].Hash[:]} {
			if seen[string(v)] || bytes.Equal(v, seed[:]) {
				t.Errorf("share %d repeats a value", i+1)
			}
			seen[string(v)] = true
		}
	}
}

func TestDerivedKeysAreApartAndHKDF(t *testing.T) {
	seed := take32(8)
	opening, access := DeriveOpeningSeed(&seed), DeriveAccessKey(&seed)
	for label, got := range map[string][]byte{"chancery opening key v1": opening[:], "chancery recovery access v1": access.Seed()} {
		want, err := hkdf.Key(sha256.New, seed[:], nil, label, 32)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not HKDF: %v", label, err)
		}
	}
	if bytes.Equal(opening[:], access.Seed()) || opening == seed {
		t.Error("two uses share a key")
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	_, shares, _ := split(t, 9, 2, 3)
	s := shares[0]
	r := Released{Share: s}
	secret, _, err := GenerateIdentity("mari")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ParseIdentity([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&printed, strings.Repeat(verb+" ", 7)+"\n", s, &s, shares, r, &r, id, *id)
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&printed, nil), slog.NewTextHandler(&printed, nil)} {
		slog.New(h).Info("x", "share", s, "pointer", &s, "all", shares, "released", r, "identity", id)
	}
	js, err := json.Marshal([]any{s, &s, shares, r, id})
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(js)
	for _, share := range shares {
		for _, form := range []string{hex.EncodeToString(share.Value[:4]), strings.ToUpper(hex.EncodeToString(share.Value[:4])), strings.Trim(fmt.Sprint(share.Value[:4]), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(share.Value[:4]), "[]"), " ", ","), string(share.Value[:4])} {
			if strings.Contains(printed.String(), form) {
				t.Errorf("%q is printed", form)
			}
		}
	}
	if strings.Contains(strings.ToUpper(printed.String()), "AGE-SECRET") {
		t.Error("an identity is printed")
	}
	if !strings.Contains(printed.String(), "custodian mari") {
		t.Error("control: nothing was printed")
	}
}
