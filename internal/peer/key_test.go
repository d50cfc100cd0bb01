package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// keyOf is the same key for the same name.
func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func encodedKey(t testing.TB, name string) []byte {
	t.Helper()
	text, err := EncodeKey(keyOf(name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// oldKey is a key's file as every version wrote it: the first test key of RFC 8032, section 7.1.
const oldKey = "-----BEGIN PRIVATE KEY-----\n" +
	"MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpgunHsaSxETMBEkvSaxEqzfvQmlJ37fK5g\n" +
	"-----END PRIVATE KEY-----\n"

func TestKeyFilesAreReadForEver(t *testing.T) {
	want := ed25519.NewKeyFromSeed([]byte("\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x71\xec\x69\x2c\x44\x4c\xc0\x44\x92\xf4\x9a\xc4\x4a\xb3\x7e\xf4\x26\x94\x9d\xfb\x7c\xae\x60"))
	if key, err := ParseOnlyKey([]byte(oldKey)); err != nil || !key.Equal(want) {
		t.Errorf("%x, %v", key, err)
	}
	if text, err := EncodeKey(want); err != nil || string(text) != oldKey {
		t.Errorf("written as %s, %v", text, err)
	}
}

func TestWhatIsNotOneKeyIsRefused(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	good, _ := pem.Decode([]byte(oldKey))
	for name, text := range map[string][]byte{
		"nothing": nil, "words": []byte("a key\n"), "another type": block("ED25519 PRIVATE KEY", good.Bytes),
		"another curve": block("PRIVATE KEY", der), "cut": block("PRIVATE KEY", good.Bytes[:40]),
		"public": block("PUBLIC KEY", good.Bytes),
	} {
		if _, _, err := ParseKey(text); err == nil {
			t.Errorf("%s is taken", name)
		}
		if _, err := ParseOnlyKey(text); err == nil {
			t.Errorf("%s is taken for one key", name)
		}
	}
	for _, behind := range []string{"\n", " ", "words", oldKey} {
		text := []byte(oldKey + behind)
		if key, rest, err := ParseKey(text); err != nil || key == nil || string(rest) != behind {
			t.Errorf("%q is behind the key: %q, %v", behind, rest, err)
		}
		if key, err := ParseOnlyKey(text); err == nil || key != nil {
			t.Errorf("%q is not seen behind the key", behind)
		}
	}
}

func TestASecretIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := CheckSecret(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(path, encodedKey(t, "lux"), KeyPerm); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[fs.FileMode]bool{
		KeyPerm: true, 0o400: true, 0o700: true,
		0o640: false, 0o620: false, 0o610: false, 0o604: false, 0o602: false, 0o601: false,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := CheckSecret(path); (err == nil) != ok {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

// FuzzParseKey: whatever is accepted is a whole key, and is read again from what EncodeKey writes for it.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte(oldKey))
	f.Add(append(encodedKey(f, "lux"), oldKey...))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, rest, err := ParseKey(text)
		if err != nil {
			return
		}
		if len(key) != ed25519.PrivateKeySize || !bytes.HasSuffix(text, rest) {
			t.Fatalf("%d bytes of key, %q behind %q", len(key), rest, text)
		}
		again, err := EncodeKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseOnlyKey(again); err != nil || !back.Equal(key) {
			t.Errorf("%v", err)
		}
	})
}
