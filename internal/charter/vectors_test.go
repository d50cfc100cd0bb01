package charter

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/vectest"
)

func vector[T any](t *testing.T, name string, fresh func() T) T {
	t.Helper()
	return vectest.Of(t, "charter/"+name, fresh)
}

type charterVector struct {
	Name       string `json:"name"`
	Document   string `json:"document"`
	Hash       string `json:"hash"`
	Signatures string `json:"signatures"`
	Expect     string `json:"expect"` // ok, invalid, quorum or signature
}

func TestCharterVectors(t *testing.T) {
	all := vector(t, "charters.json", func() []charterVector {
		c := mustNew(t, sampleOfVersion1())
		doc := string(c.Bytes())
		v := func(name, doc string, sigs []byte, expect string) charterVector {
			return charterVector{name, doc, EncodeDigest((&Charter{doc: []byte(doc)}).Hash()), string(sigs), expect}
		}
		two := signed(t, c.Bytes(), 10, 11)
		return []charterVector{
			v("two of three signed", doc, two, "ok"),
			v("one signed", doc, signed(t, c.Bytes(), 10), "quorum"),
			v("one signed twice", doc, signed(t, c.Bytes(), 10, 10), "quorum"),
			v("a comment changed after signing", strings.Replace(doc, "# Charter", "# The charter", 1), two, "signature"),
			v("threshold 0", strings.Replace(doc, "threshold: 2", "threshold: 0", 1), two, "invalid"),
			v("a field twice", strings.Replace(doc, "number: 1\n", "number: 1\nnumber: 1\n", 1), two, "invalid"),
			v("an unknown suite", strings.Replace(doc, Suite, "chancery-2", 1), two, "invalid"),
			v("text without quotes", strings.Replace(doc, `"mari"`, "mari", 1), two, "invalid"),
		}
	})
	for _, v := range all {
		if got := outcomeOf(t, v); got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}

// outcomeOf is what becomes of a charter vector, in its words.
func outcomeOf(t *testing.T, v charterVector) string {
	t.Helper()
	c, err := Parse([]byte(v.Document))
	if err != nil {
		return "invalid"
	}
	if EncodeDigest(c.Hash()) != v.Hash {
		t.Errorf("%s: hash", v.Name)
	}
	err = c.Verify([]byte(v.Signatures))
	switch {
	case err == nil:
		return "ok"
	case strings.Contains(err.Error(), ErrQuorum.Error()):
		return "quorum"
	}
	return "signature"
}

type registerVector struct {
	Name   string `json:"name"`
	Record string `json:"record"` // base64
	Agent  string `json:"agent"`  // base64
	Expect string `json:"expect"` // ok, invalid or signature
}

type secretsVector struct {
	Name    string `json:"name"`
	Secrets string `json:"secrets"` // hexadecimal
	Seed    string `json:"seed"`    // hexadecimal; empty where absent
	Path    string `json:"path"`    // hexadecimal
	Expect  string `json:"expect"`
}

func TestRegisterVectors(t *testing.T) {
	all := vector(t, "registers.json", func() []registerVector {
		good := mustMarshal(t, sampleRegister(t))
		forged := bytes.Clone(good)
		forged[len(forged)-1] ^= 1
		v := func(name string, b []byte, expect string) registerVector {
			return registerVector{name, base64.StdEncoding.EncodeToString(b), EncodeKey(pub(40)), expect}
		}
		return []registerVector{
			v("three embassies and one reader", good, "ok"), v("signature changed", forged, "signature"),
			v("a byte more", append(bytes.Clone(good), 0), "invalid"), v("a longer length than needed", nonMinimal(good), "invalid"),
		}
	})
	for _, v := range all {
		b, err := base64.StdEncoding.DecodeString(v.Record)
		if err != nil {
			t.Fatal(err)
		}
		got := "ok"
		if r, err := ParseRegister(b); err != nil {
			got = "invalid"
		} else if err := r.Verify(); err != nil {
			got = "signature"
		} else if EncodeKey(r.Agent[:]) != v.Agent {
			t.Errorf("%s: agent", v.Name)
		}
		if got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}

func TestSecretsVectors(t *testing.T) {
	all := vector(t, "secrets.json", func() []secretsVector {
		v := func(name string, s *RegisterSecrets, change func([]byte) []byte, expect string) secretsVector {
			b, err := s.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			out := secretsVector{Name: name, Secrets: hex.EncodeToString(change(b)), Path: hex.EncodeToString([]byte(s.Path)), Expect: expect}
			if s.HasSeed() {
				out.Seed = hex.EncodeToString(s.Seed[:])
			}
			return out
		}
		same := func(b []byte) []byte { return b }
		return []secretsVector{
			v("with the seed", sampleSecrets(), same, "ok"), v("as home keeps them", sampleSecrets().WithoutSeed(), same, "ok"),
			v("padding not zero", sampleSecrets(), func(b []byte) []byte { b[len(b)-1] = 1; return b }, "invalid"),
			v("a step too many", sampleSecrets(), func(b []byte) []byte { return append(b, make([]byte, SecretsStep)...) }, "invalid"),
		}
	})
	for _, v := range all {
		b, err := hex.DecodeString(v.Secrets)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseRegisterSecrets(b)
		if (err == nil) != (v.Expect == "ok") {
			t.Errorf("%s: %v", v.Name, err)
		}
		if err == nil && (hex.EncodeToString([]byte(s.Path)) != v.Path || s.HasSeed() != (v.Seed != "") || s.HasSeed() && hex.EncodeToString(s.Seed[:]) != v.Seed) {
			t.Errorf("%s: path or seed", v.Name)
		}
	}
}

type keyVector struct {
	Key         string `json:"key"` // base64
	Fingerprint string `json:"fingerprint"`
	EmbassyID   string `json:"embassy_id"`
	SSH         string `json:"ssh"`
}

func TestKeyVectors(t *testing.T) {
	row := func(k ed25519.PublicKey) keyVector {
		text, err := SSHPublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return keyVector{EncodeKey(k), Fingerprint(k), EmbassyIDOf(k).String(), text}
	}
	for _, v := range vector(t, "keys.json", func() []keyVector { return []keyVector{row(pub(1)), row(pub(2))} }) {
		k, err := ParseKey(v.Key)
		if err != nil || row(k) != v {
			t.Errorf("%s: %v", v.Key, err)
		}
	}
}
