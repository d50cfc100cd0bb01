package custody

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 12, 12, 0, 0, 0, time.UTC)

func request(t testing.TB) (*Request, string) {
	t.Helper()
	r, id, err := NewRequest(seeded(30), [16]byte{1, 2, 3}, "Republic of Ümlaut", 1, "abroad-1", "Drill of 12 May in Luxembourg", noon, 12*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return r, id
}

func TestRequestRoundTripsAndCanBeRead(t *testing.T) {
	want, _ := request(t)
	text := want.Marshal()
	got, err := ParseRequest(text)
	if err != nil || *got != *want {
		t.Fatalf("got %+v: %v", got, err)
	}
	for _, line := range []string{"state name: Republic of Ümlaut\n", "node: abroad-1\n", "purpose: Drill of 12 May in Luxembourg\n", "created: 2026-05-12T12:00:00Z\n", "expires: 2026-05-13T00:00:00Z\n", "recipient: age1pq1"} {
		if !bytes.Contains(text, []byte(line)) {
			t.Errorf("the text lacks %q", line)
		}
	}
	sum := sha256.Sum256(text)
	if got.Hash() != sum {
		t.Error("the hash is not over the text")
	}
	f := strings.Fields(got.Fingerprint())
	if len(f) != 8 || strings.Join(f, "") != hex.EncodeToString(sum[:16]) {
		t.Errorf("fingerprint %s", got.Fingerprint())
	}
}

func TestRequestParserIsStrict(t *testing.T) {
	r, _ := request(t)
	good := string(r.Marshal())
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, bad := range map[string]string{
		"empty": "", "without its warning": good[strings.Index(good, "state:"):], "more": good + "x\n", "other version": swap("v1", "v2"),
		"other warning": swap("release nothing", "release it"), "zone": swap("12:00:00Z", "12:00:00+00:00"), "fraction": swap("12:00:00Z", "12:00:00.5Z"),
		"no purpose": swap("Drill of 12 May in Luxembourg", ""), "hidden purpose": swap("Drill", "\u202eDrill"), "two lines": swap("Drill", "Drill\npurpose: x"),
		"node": swap("abroad-1", "Abroad"), "generation": swap("generation: 1", "generation: 0"), "year": swap("expires: 2026", "expires: 2099"),
		"over before it began": swap("expires: 2026-05-13", "expires: 2026-05-11"), "classic key": swap("recipient: age1pq1", "recipient: age1"),
		"damaged key": swap("age1pq1", "age1pq1q"), "state zero": swap("01020300", "00000000"), "huge": good + strings.Repeat("x", MaxRequestSize),
		"no newline": strings.TrimSuffix(good, "\n"),
	} {
		if bad == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := ParseRequest([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
}

func TestReleaseReachesOnlyTheRequest(t *testing.T) {
	seed, shares, commitments := split(t, 31, 2, 3)
	r, id := request(t)
	var got []Share
	for _, s := range shares[:2] {
		sealed, err := SealRelease(s, r, noon.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		released, err := OpenRelease([]byte(id), sealed, r, noon.Add(2*time.Hour))
		if err != nil || released.Share != s || released.RequestHash != r.Hash() {
			t.Fatalf("%v: %v", released, err)
		}
		got = append(got, released.Share)
	}
	if combined, err := Combine(got, commitments); err != nil || *combined != *seed {
		t.Errorf("combine: %v", err)
	}

	sealed, err := SealRelease(shares[0], r, noon)
	if err != nil {
		t.Fatal(err)
	}
	// The same key and another purpose: a request that was swapped afterwards.
	other := *r
	other.Purpose = "Something else"
	if _, err := OpenRelease([]byte(id), sealed, &other, noon); !errors.Is(err, ErrOtherRequest) {
		t.Errorf("other request: %v, want ErrOtherRequest", err)
	}
	_, otherID := request(t)
	if _, err := OpenRelease([]byte(otherID), sealed, r, noon); !errors.Is(err, ErrNotForMe) {
		t.Errorf("other key: %v, want ErrNotForMe", err)
	}
	plain, err := SealShare(shares[0], r.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRelease([]byte(id), plain, r, noon); !errors.Is(err, ErrMalformed) {
		t.Errorf("a share that is bound to nothing: %v, want ErrMalformed", err)
	}
}

func TestReleaseIsForOneStateAndGeneration(t *testing.T) {
	_, shares, _ := split(t, 32, 2, 3)
	r, id := request(t)
	for name, change := range map[string]func(*Share){
		"state": func(s *Share) { s.State[0]++ }, "generation": func(s *Share) { s.Generation++ },
	} {
		s := shares[0]
		change(&s)
		if _, err := SealRelease(s, r, noon); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: seal: %v, want ErrForeign", name, err)
		}
		// A custodian's own program that does not check.
		hash := r.Hash()
		inside := append([]byte("chancery release v1\nrequest: "+hex.EncodeToString(hash[:])+"\n"), s.Marshal()...)
		sealed, err := SealTo(r.Recipient, inside)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRelease([]byte(id), sealed, r, noon); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: open: %v, want ErrForeign", name, err)
		}
	}
}

func TestRequestHasItsTime(t *testing.T) {
	_, shares, _ := split(t, 33, 2, 3)
	r, id := request(t)
	sealed, err := SealRelease(shares[0], r, noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		now time.Time
		ok  bool
	}{
		"at creation": {noon, true}, "clock a little behind": {noon.Add(-clockSlack), true}, "last second": {r.Expires.Add(-time.Second), true},
		"expired": {r.Expires, false}, "long expired": {noon.AddDate(1, 0, 0), false}, "before creation": {noon.Add(-time.Hour), false},
	} {
		_, sealErr := SealRelease(shares[0], r, test.now)
		_, openErr := OpenRelease([]byte(id), sealed, r, test.now)
		for _, err := range []error{sealErr, openErr} {
			if (err == nil) != test.ok || !test.ok && !errors.Is(err, ErrExpired) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestRequestsAreLimited(t *testing.T) {
	make := func(state byte, name, node, purpose string, generation uint32, life time.Duration) error {
		_, _, err := NewRequest(seeded(1), [16]byte{state}, name, generation, node, purpose, noon, life)
		return err
	}
	if err := make(1, "A", "n", "p", 1, MaxRequestLife); err != nil {
		t.Errorf("control: %v", err)
	}
	for name, err := range map[string]error{
		"state": make(0, "A", "n", "p", 1, time.Hour), "state name": make(1, " A", "n", "p", 1, time.Hour), "node": make(1, "A", "N", "p", 1, time.Hour),
		"purpose": make(1, "A", "n", "a\nb", 1, time.Hour), "generation": make(1, "A", "n", "p", 0, time.Hour),
		"life": make(1, "A", "n", "p", 1, MaxRequestLife+time.Second), "no life": make(1, "A", "n", "p", 1, 0),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
	if _, _, err := NewRequest(strings.NewReader(""), [16]byte{1}, "A", 1, "n", "p", noon, time.Hour); err == nil {
		t.Error("a request from no randomness")
	}
}
