package peer

import (
	"bytes"
	"strings"
	"testing"
)

// A seed has one form: what EncodeSeed writes is read, and nothing else.
func TestSeedsHaveOneForm(t *testing.T) {
	seed := new([32]byte)
	for i := range seed {
		seed[i] = byte(200 + i)
	}
	good := EncodeSeed(seed)
	if got, err := ParseSeed(good); err != nil || *got != *seed || len(good) != 65 {
		t.Fatalf("%v, %v", got, err)
	}
	for what, text := range map[string][]byte{
		"empty": {}, "short": good[2:], "long": append([]byte("00"), good...), "no newline": good[:64],
		"two newlines": append(bytes.Clone(good), '\n'), "capitals": bytes.ToUpper(good), "a space": append([]byte(" "), good[1:]...),
		"no digits": []byte(strings.Repeat("x", 64) + "\n"),
	} {
		if _, err := ParseSeed(text); err == nil {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzParseSeed(f *testing.F) {
	f.Add(EncodeSeed(new([32]byte)))
	f.Add([]byte("00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if seed, err := ParseSeed(text); err == nil && !bytes.Equal(EncodeSeed(seed), text) {
			t.Errorf("%q is read and written otherwise", text)
		}
	})
}
