package shard_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

// unhex is a hexadecimal string in a vector.
type unhex []byte

func (u *unhex) UnmarshalText(b []byte) (err error) {
	*u, err = hex.DecodeString(string(b))
	return err
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/shard/" + name)
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
func TestVectorsName(t *testing.T) {
	var file struct {
		Vectors []struct {
			Length int
			Name   string
		}
	}
	load(t, "name.json", &file)
	for _, v := range file.Vectors {
		if got := shard.Root(pattern(v.Length)).String(); got != v.Name {
			t.Errorf("%d bytes: %s, want %s", v.Length, got, v.Name)
		}
	}
}

func TestVectorsSplit(t *testing.T) {
	var file struct {
		Vectors []struct {
			K, N         int
			SealedLength int     `json:"sealed_length"`
			ShareLength  int     `json:"share_length"`
			Shares       []unhex `json:"shares"`
			SharesSHA256 []unhex `json:"shares_sha256"`
		}
	}
	load(t, "split.json", &file)
	for _, v := range file.Vectors {
		c := coder(t, v.K, v.N)
		shares, err := c.Split(nil, pattern(v.SealedLength))
		if err != nil || len(shares) != v.N || len(v.SharesSHA256) != v.N {
			t.Fatalf("%d of %d: %d shares, %v", v.K, v.N, len(shares), err)
		}
		for i, s := range shares {
			if sum := sha256.Sum256(s); len(s) != v.ShareLength || !bytes.Equal(sum[:], v.SharesSHA256[i]) {
				t.Errorf("%d of %d: share %d differs", v.K, v.N, i)
			}
			if v.Shares != nil && !bytes.Equal(s, v.Shares[i]) {
				t.Errorf("%d of %d: share %d is %x, want %x", v.K, v.N, i, s, v.Shares[i])
			}
		}
	}
}

func TestVectorsMask(t *testing.T) {
	var file struct {
		Vectors []struct {
			RegisterKey unhex `json:"register_key"`
			Embassy     unhex
			EmbassyKey  unhex `json:"embassy_key"`
			Pack        unhex
			Share       int
			Length      int
			Masked      unhex
			Name        string
		}
	}
	load(t, "mask.json", &file)
	for i, v := range file.Vectors {
		key := shard.EmbassyMaskKey(shard.MaskKey(v.RegisterKey), [16]byte(v.Embassy))
		if !bytes.Equal(key[:], v.EmbassyKey) {
			t.Errorf("vector %d: another embassy key", i)
		}
		data := pattern(v.Length)
		if name := shard.MaskAndHash(key, [16]byte(v.Pack), v.Share, data); name.String() != v.Name {
			t.Errorf("vector %d: %s, want %s", i, name, v.Name)
		}
		if v.Masked != nil && !bytes.Equal(data, v.Masked) {
			t.Errorf("vector %d: %x, want %x", i, data, v.Masked)
		}
	}
}
