package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"chancery.dev/chancery/internal/seal"
)

func testPrivate(t testing.TB, b byte) *seal.PrivateKey {
	t.Helper()
	priv, err := seal.NewPrivateKey([32]byte{b})
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

func TestWrappedSecretOpensForItsKeyAndInfoOnly(t *testing.T) {
	priv, info, secret := testPrivate(t, 1), []byte("session of register 7"), pattern(32)
	pub, err := seal.ParsePublicKey(priv.Public().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := seal.Wrap(pub, info, secret)
	if err != nil {
		t.Fatal(err)
	}
	if len(wrapped) != len(secret)+seal.WrapOverhead {
		t.Errorf("%d bytes, want %d", len(wrapped), len(secret)+seal.WrapOverhead)
	}
	if out, err := seal.Unwrap(priv, info, wrapped); err != nil || !bytes.Equal(out, secret) {
		t.Errorf("Unwrap: %x, %v", out, err)
	}
	if _, err := seal.Unwrap(testPrivate(t, 2), info, wrapped); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("another key: %v", err)
	}
	if _, err := seal.Unwrap(priv, []byte("session of register 8"), wrapped); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("another info: %v", err)
	}
	if _, err := seal.Unwrap(priv, info, wrapped[:seal.WrapOverhead-1]); !errors.Is(err, seal.ErrTruncated) {
		t.Errorf("too short: %v", err)
	}
	again, err := seal.Wrap(pub, info, secret)
	if err != nil || bytes.Equal(again, wrapped) {
		t.Errorf("wrapping twice gives the same bytes, or %v", err)
	}
}

func TestEveryAlteredByteOfAWrappedSecretIsDetected(t *testing.T) {
	priv := testPrivate(t, 1)
	wrapped, err := seal.Wrap(priv.Public(), nil, pattern(32))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(wrapped); i += 3 { // 3: each costs a decapsulation
		// The top bit of an X25519 point is ignored by RFC 7748, and bound by the KEM's hash all the same.
		wrapped[i] ^= 0x80
		if _, err := seal.Unwrap(priv, nil, wrapped); !errors.Is(err, seal.ErrUnwrap) {
			t.Errorf("byte %d altered: %v", i, err)
		}
		wrapped[i] ^= 0x80
	}
}

func TestPublicKeysOfAnotherShapeAreRefused(t *testing.T) {
	good := testPrivate(t, 1).Public().Bytes()
	outOfField := bytes.Clone(good)
	outOfField[0], outOfField[1] = 0xff, 0xff // a coefficient of 4095, above the modulus 3329
	for name, b := range map[string][]byte{
		"nothing": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "not reduced": outOfField,
	} {
		if _, err := seal.ParsePublicKey(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := seal.Wrap(seal.PublicKey{}, nil, nil); err == nil {
		t.Error("the zero key wraps")
	}
	if b := (seal.PublicKey{}).Bytes(); b != nil {
		t.Errorf("the zero key has %d bytes", len(b))
	}
	for _, none := range []*seal.PrivateKey{nil, {}} {
		if _, err := seal.Unwrap(none, nil, make([]byte, seal.WrapOverhead)); err == nil {
			t.Error("no private key unwraps")
		}
	}
}

func TestSeedNeedsAllItsRandomness(t *testing.T) {
	if seed, err := seal.GenerateSeed(bytes.NewReader(pattern(32))); err != nil || !bytes.Equal(seed[:], pattern(32)) {
		t.Errorf("%x, %v", seed, err)
	}
	for name, r := range map[string][]byte{"too little": pattern(31), "none": nil} {
		if seed, err := seal.GenerateSeed(bytes.NewReader(r)); err == nil || seed != [32]byte{} {
			t.Errorf("%s: %x, %v", name, seed, err)
		}
	}
	broken := errors.New("broken")
	if _, err := seal.GenerateSeed(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a failing source: %v", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	key := seal.Key(bytes.Repeat([]byte{0xab}, 32))
	priv, err := seal.NewPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	holder := struct {
		K seal.Key
		P *seal.PrivateKey
	}{key, priv}
	for _, v := range []any{key, &key, priv, *priv, holder, &holder, []seal.Key{key}, fmt.Errorf("with %v", key)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%08b"} {
			out := strings.ToLower(fmt.Sprintf(verb, v))
			for _, leak := range []string{"abab", "ab, ", "0xab", "171", "253", "10101011"} {
				if strings.Contains(out, leak) {
					t.Errorf("%s of %T: %s", verb, v, out)
				}
			}
		}
	}
	for _, v := range []any{key, priv, holder} {
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("%T marshals to %s", v, out)
		}
	}
	if out := fmt.Sprintf("%x", [32]byte(key)); !strings.Contains(out, "abab") {
		t.Errorf("control: the bytes themselves print as %s", out)
	}
}

func TestDerivedBytesDependOnEveryInput(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []struct{ secret, label, context string }{
		{"s", "label", "context"},
		{"t", "label", "context"},
		{"s", "labe", "lcontext"},
		{"s", "label", ""},
		{"s", "label", "context\x00"},
		{"s", "", "context"},
	} {
		out := string(seal.Derive([]byte(c.secret), c.label, []byte(c.context), 32))
		if other, again := seen[out]; again || len(out) != 32 {
			t.Errorf("%q derives the same as %q", c, other)
		}
		seen[out] = fmt.Sprintf("%q", c)
	}
	if seal.Derive(nil, "x", nil, -1) != nil || seal.Derive(nil, "x", nil, 8161) != nil {
		t.Error("an impossible length gives bytes")
	}
}

func FuzzUnwrap(f *testing.F) {
	priv := testPrivate(f, 1)
	wrapped, err := seal.Wrap(priv.Public(), nil, []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapped)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := seal.Unwrap(priv, nil, b); err != nil && out != nil {
			t.Fatal("bytes beside an error")
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(testPrivate(f, 1).Public().Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if pub, err := seal.ParsePublicKey(b); err == nil && !bytes.Equal(pub.Bytes(), b) {
			t.Fatal("not canonical")
		}
	})
}
