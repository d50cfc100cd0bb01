package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
)

func TestIDIsHMAC(t *testing.T) {
	key := IDKey{1, 2, 3}
	h := key.NewHasher()
	for _, data := range [][]byte{nil, {0}, random(1, 100), random(2, 1<<20)} {
		mac := hmac.New(sha256.New, key[:])
		mac.Write(data)
		if got := h.Sum(data); got != ID(mac.Sum(nil)) {
			t.Errorf("%d bytes: %v is not the HMAC", len(data), got)
		}
	}
}

func TestIDNeedsTheKey(t *testing.T) {
	a, b := IDKey{1}, IDKey{2}
	if a.NewHasher().Sum([]byte("x")) == b.NewHasher().Sum([]byte("x")) {
		t.Error("two keys give one id")
	}
}

func TestHasherKeepsItsKeyWhenTheCallerWipesTheirs(t *testing.T) {
	key := IDKey{9}
	h := key.NewHasher()
	want := h.Sum([]byte("x"))
	clear(key[:])
	if h.Sum([]byte("x")) != want {
		t.Error("the hasher shares memory with the key")
	}
}

func TestSumDoesNotAllocate(t *testing.T) {
	h := new(IDKey).NewHasher()
	data := random(1, 4096)
	if n := testing.AllocsPerRun(20, func() { h.Sum(data) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestIDVectors(t *testing.T) {
	for _, v := range readVectors(t, "ids.json") {
		key := IDKey(key32(t, v.Key))
		if got := key.NewHasher().Sum(v.data()).String(); got != v.ID {
			t.Errorf("%s: id %s, want %s", v.Name, got, v.ID)
		}
	}
}

func TestParseIDTakesTheCanonicalFormOnly(t *testing.T) {
	good := ID{0xab, 31: 1}.String()
	if id, err := ParseID(good); err != nil || id.String() != good {
		t.Fatalf("%v, %v", id, err)
	}
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), "g" + good[1:], " " + good[1:]} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(ID{1}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && id.String() != s {
			t.Errorf("%q is not canonical", s)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	h := new(IDKey).NewHasher()
	data := random(1, Avg)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		h.Sum(data)
	}
}
