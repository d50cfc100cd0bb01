package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/seal"
)

// unhex is a hexadecimal string in a vector.
type unhex []byte

func (u *unhex) UnmarshalText(b []byte) (err error) {
	*u, err = hex.DecodeString(string(b))
	return err
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/seal/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// pattern is the plaintext that the vectors mean.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// The vectors were computed by a second implementation, in another language, from the specification.
func TestVectorsMessage(t *testing.T) {
	var file struct {
		Vectors []struct {
			Name            string
			Key             unhex
			Salt            unhex
			Context         unhex
			PlaintextLength int `json:"plaintext_length"`
			Sealed          unhex
			SealedLength    int   `json:"sealed_length"`
			SealedSHA256    unhex `json:"sealed_sha256"`
			Expect          string
		}
	}
	load(t, "message.json", &file)
	errs := map[string]error{
		"context": seal.ErrContext, "damaged": seal.ErrDamaged, "truncated": seal.ErrTruncated,
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			key := seal.Key(v.Key)
			if want, bad := errs[v.Expect]; bad {
				if out, err := seal.Open(nil, &key, v.Context, v.Sealed); !errors.Is(err, want) || out != nil {
					t.Fatalf("Open: %d bytes, %v; want %v", len(out), err, want)
				}
				return
			}
			sealed := seal.Seal(nil, &key, seal.Salt(v.Salt), v.Context, pattern(v.PlaintextLength))
			if sum := sha256.Sum256(sealed); len(sealed) != v.SealedLength || !bytes.Equal(sum[:], v.SealedSHA256) {
				t.Fatalf("Seal: %d bytes with SHA-256 %x; want %d with %x", len(sealed), sum, v.SealedLength, v.SealedSHA256)
			}
			if v.Sealed != nil && !bytes.Equal(sealed, v.Sealed) {
				t.Fatalf("Seal: %x, want %x", sealed, v.Sealed)
			}
			if out, err := seal.Open(nil, &key, v.Context, sealed); err != nil || !bytes.Equal(out, pattern(v.PlaintextLength)) {
				t.Fatalf("Open: another plaintext or %v", err)
			}
		})
	}
}

func TestVectorsDerive(t *testing.T) {
	var file struct {
		Vectors []struct {
			Secret, Context unhex
			Label           string
			Length          int
			SHA256          unhex
		}
	}
	load(t, "derive.json", &file)
	for _, v := range file.Vectors {
		out := seal.Derive(v.Secret, v.Label, v.Context, v.Length)
		if sum := sha256.Sum256(out); len(out) != v.Length || !bytes.Equal(sum[:], v.SHA256) {
			t.Errorf("Derive(%x, %q, %x, %d): SHA-256 %x, want %x", v.Secret, v.Label, v.Context, v.Length, sum, v.SHA256)
		}
	}
}

func TestVectorsWrap(t *testing.T) {
	var file struct {
		Seed      unhex
		PublicKey unhex `json:"public_key"`
		Vectors   []struct {
			Name                  string
			Info, Secret, Wrapped unhex
			Expect                string
		}
	}
	load(t, "wrap.json", &file)
	priv, err := seal.NewPrivateKey([32]byte(file.Seed))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(priv.Public().Bytes(), file.PublicKey) {
		t.Fatal("the seed gives another public key")
	}
	errs := map[string]error{"ok": nil, "unwrap": seal.ErrUnwrap, "truncated": seal.ErrTruncated}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			want, known := errs[v.Expect]
			if !known {
				t.Fatalf("unknown expectation %q", v.Expect)
			}
			secret, err := seal.Unwrap(priv, v.Info, v.Wrapped)
			if !errors.Is(err, want) {
				t.Fatalf("Unwrap: %v, want %v", err, want)
			}
			if err == nil && !bytes.Equal(secret, v.Secret) {
				t.Fatalf("Unwrap: %x, want %x", secret, v.Secret)
			}
		})
	}
}

// The program runs with GODEBUG=fips140=on: the same bytes must come out there.
func TestVectorsHoldInFIPSMode(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestVectors(Message|Derive|Wrap)$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=on")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"Message", "Derive", "Wrap"} {
		if !strings.Contains(string(out), "--- PASS: TestVectors"+name) {
			t.Errorf("TestVectors%s did not run\n%s", name, out)
		}
	}
}
