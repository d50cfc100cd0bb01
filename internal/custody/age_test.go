package custody

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

func identity(t testing.TB, name string) (secret, recipient string) {
	t.Helper()
	secret, recipient, err := GenerateIdentity(name)
	if err != nil {
		t.Fatal(err)
	}
	return secret, recipient
}

// A tidy has pulled age down to a version without post-quantum keys before.
func TestAgeIsPinned(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^(?:require)?\s*filippo\.io/age (\S+)`).FindSubmatch(mod)
	if m == nil || string(m[1]) != "v1.3.2" {
		t.Errorf("go.mod has age %s, want v1.3.2", m)
	}
}

func TestIdentityFileIsOneOfAge(t *testing.T) {
	secret, recipient := identity(t, "mari")
	if !strings.HasPrefix(secret, "# name: mari\n# public key: "+recipient+"\nAGE-SECRET-KEY-PQ-1") || !strings.HasSuffix(secret, "\n") {
		t.Error("the file does not say whose it is")
	}
	if len(recipient) != 1959 {
		t.Errorf("recipient of %d characters", len(recipient))
	}
	ids, err := age.ParseIdentities(strings.NewReader(secret))
	if err != nil || len(ids) != 1 {
		t.Fatalf("age reads %d identities: %v", len(ids), err)
	}
	id, err := ParseIdentity([]byte(secret))
	if err != nil || id.Name != "mari" || id.Recipient != recipient {
		t.Errorf("%v: %v", id, err)
	}
	if err := CheckRecipient(recipient); err != nil {
		t.Error(err)
	}

	// age itself opens what we seal, and we open what it seals.
	sealed, err := SealTo(recipient, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), ids...)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(r); err != nil || plain.String() != "hello" {
		t.Errorf("age opens %q: %v", &plain, err)
	}
	rcpt, err := age.ParseHybridRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	w, err := age.Encrypt(&raw, rcpt)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte("binary"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenWith([]byte(secret), raw.Bytes()); err != nil || string(got) != "binary" {
		t.Errorf("we open %q: %v", got, err)
	}
}

func TestOnlyPostQuantumKeysAreTaken(t *testing.T) {
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	secret, recipient := identity(t, "mari")
	_, err = SealTo(classic.Recipient().String(), nil)
	if !errors.Is(err, ErrRecipient) || !strings.Contains(err.Error(), "classic") {
		t.Errorf("classic recipient: %v", err)
	}
	_, err = ParseIdentity([]byte(classic.String() + "\n"))
	if !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "classic") || strings.Contains(err.Error(), "AGE-SECRET-KEY-1") {
		t.Errorf("classic identity: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "upper case": strings.ToUpper(recipient), "damaged": recipient[:100] + "q" + recipient[101:len(recipient)-1] + "z",
		"short": recipient[:1000], "space": " " + recipient, "private key": strings.Split(secret, "\n")[2],
	} {
		err := CheckRecipient(text)
		if !errors.Is(err, ErrRecipient) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "AGE-SECRET-KEY-PQ-1Q") {
			t.Error("a private key is shown")
		}
	}
	key := strings.Split(secret, "\n")[2]
	for name, file := range map[string]string{
		"empty": "", "comments only": "# name: x\n", "damaged": key[:40] + "\n", "two keys": secret + secret,
		"long": strings.Repeat("#\n", maxIdentityFile), "many": strings.Repeat(key+"\n", maxIdentities+1),
	} {
		_, err := ParseIdentity([]byte(file))
		if !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), key[20:40]) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	if _, _, err := GenerateIdentity("no name"); !errors.Is(err, ErrParameters) {
		t.Errorf("name: %v", err)
	}
}

func TestOpenWithTellsWhy(t *testing.T) {
	mari, toMari := identity(t, "mari")
	jaan, _ := identity(t, "jaan")
	sealed, err := SealTo(toMari, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenWith([]byte(jaan+mari), sealed); err != nil || string(got) != "hello" {
		t.Errorf("two keys in the file: %q, %v", got, err)
	}
	if _, err := OpenWith([]byte(jaan), sealed); !errors.Is(err, ErrNotForMe) {
		t.Errorf("other key: %v", err)
	}
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-60] ^= 1
	for name, file := range map[string][]byte{"damaged": damaged, "cut": sealed[:len(sealed)/2], "text": []byte("hello"), "empty": nil, "huge": make([]byte, maxAgeFile+1)} {
		if _, err := OpenWith([]byte(mari), file); !errors.Is(err, ErrAgeFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SealTo(toMari, make([]byte, MaxPlaintext+1)); err == nil {
		t.Error("sealed more than the cap")
	}
}

func TestShareTextRoundTrips(t *testing.T) {
	_, shares, commitments := split(t, 20, 3, 5)
	mari, toMari := identity(t, "mari")
	for _, want := range shares[:2] {
		sealed, err := SealShare(want, toMari)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(sealed, []byte(armor.Header)) || bytes.Contains(sealed, []byte("chancery")) {
			t.Error("not an armored age file")
		}
		got, err := OpenShare(sealed, mari)
		if err != nil || got != want {
			t.Fatalf("got %v: %v", got, err)
		}
		if err := Check(got, commitments); err != nil {
			t.Error(err)
		}
	}
	bad := shares[0]
	bad.Holder = "x\nvalue: 00"
	if _, err := SealShare(bad, toMari); !errors.Is(err, ErrMalformed) {
		t.Errorf("a holder that breaks the text: %v", err)
	}
	sealed, err := SealTo(toMari, []byte("not a share"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenShare(sealed, mari); !errors.Is(err, ErrMalformed) {
		t.Errorf("not a share: %v", err)
	}
}

func TestShareParserIsStrict(t *testing.T) {
	_, shares, _ := split(t, 21, 3, 5)
	good := string(shares[0].Marshal())
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, bad := range map[string]string{
		"empty": "", "no last newline": strings.TrimSuffix(good, "\n"), "more": good + "x\n", "other version": swap("v1", "v2"),
		"order": swap("share: 1\nthreshold: 3\n", "threshold: 3\nshare: 1\n"), "leading zero": swap("share: 1", "share: 01"),
		"plus": swap("share: 1", "share: +1"), "share 0": swap("share: 1", "share: 0"), "share above total": swap("share: 1", "share: 6"),
		"threshold above total": swap("threshold: 3", "threshold: 6"), "huge": swap("total: 5", "total: 300"),
		"space": swap("share: 1", "share: 1 "), "upper case": swap("value: ", "value: A"), "carriage returns": strings.ReplaceAll(good, "\n", "\r\n"),
		"holder": swap("holder: mari", "holder: Mari"), "holder missing": swap("holder: mari\n", "holder: \n"), "generation": swap("generation: 1", "generation: 4294967296"),
	} {
		if bad == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := ParseShare([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
	if _, err := ParseShare([]byte(good)); err != nil {
		t.Errorf("control: %v", err)
	}
}
