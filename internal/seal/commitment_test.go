package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
)

// AES-GCM alone does not commit: whoever knows two keys can make one ciphertext that both accept, and
// so show two readers two different documents. This makes such a ciphertext for two contexts; with the
// commitment switched off (the control) both open it, and with it on only the one does.
func TestCommitmentStopsOneMessageWithTwoMeanings(t *testing.T) {
	key, salt := &Key{1}, Salt{2}
	contexts := [2][]byte{[]byte("land titles"), []byte("court records")}
	var ms [2]*message
	var h, pad [2]element // GHASH key and tag mask
	for i := range ms {
		m, err := newMessage(key, &salt, contexts[i])
		if err != nil {
			t.Fatal(err)
		}
		ms[i], h[i] = m, ghashKey(t, key, &salt, contexts[i])
		// A tag of nothing is the mask itself: GHASH of an empty input is zero.
		pad[i] = toElement(m.aead.Seal(nil, m.at(0), nil, nil))
	}

	// tag = pad + c1·H³ + c2·H² + length·H must be the same under both: solve for c2.
	c1 := element{0x1234, 0x5678}
	length := element{0, 2 * 16 * 8}
	part := func(i int) element {
		return add(pad[i], add(mul(c1, mul(h[i], mul(h[i], h[i]))), mul(length, h[i])))
	}
	sum := add(part(0), part(1))
	c2 := mul(sum, invert(add(mul(h[0], h[0]), mul(h[1], h[1]))))
	tag := add(part(0), mul(c2, mul(h[0], h[0])))
	segment := bytes.Join([][]byte{c1.bytes(), c2.bytes(), tag.bytes()}, nil)

	var meanings [2][]byte
	for i, m := range ms {
		out, err := m.aead.Open(nil, m.at(0), segment, nil)
		if err != nil {
			t.Fatalf("control: without the commitment, context %d does not open it: %v", i, err)
		}
		meanings[i] = out
	}
	if bytes.Equal(meanings[0], meanings[1]) {
		t.Fatal("control: both see the same plaintext")
	}

	sealed := bytes.Join([][]byte{salt[:], ms[0].commitment[:], segment}, nil)
	if out, err := Open(nil, key, contexts[0], sealed); err != nil || !bytes.Equal(out, meanings[0]) {
		t.Errorf("the context committed to: %v", err)
	}
	if _, err := Open(nil, key, contexts[1], sealed); !errors.Is(err, ErrContext) {
		t.Errorf("the other context: %v, want ErrContext", err)
	}
	r := bytes.NewReader(sealed)
	if _, err := OpenAt(nil, key, contexts[1], r, r.Size(), 0, 1); !errors.Is(err, ErrContext) {
		t.Errorf("the other context, a range: %v, want ErrContext", err)
	}
}

// ghashKey returns AES(key of the message, zeros), which GCM multiplies by.
func ghashKey(t *testing.T, key *Key, salt *Salt, context []byte) element {
	t.Helper()
	info := infoPrefix + string(salt[:]) + string(context)
	block, err := aes.NewCipher(expandFirst(key, info))
	if err != nil {
		t.Fatal(err)
	}
	var b [16]byte
	block.Encrypt(b[:], b[:])
	return toElement(b[:])
}

// element is a member of GF(2¹²⁸) as GCM orders its bits: the first is the highest of the first word.
type element [2]uint64

func toElement(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (e element) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, e[0]), e[1])
}

func add(a, b element) element { return element{a[0] ^ b[0], a[1] ^ b[1]} }

func mul(a, b element) element {
	var z element
	for i := range 128 {
		if a[i/64]>>(63-i%64)&1 == 1 {
			z = add(z, b)
		}
		carry := b[1] & 1
		b[1] = b[1]>>1 | b[0]<<63
		b[0] = b[0]>>1 ^ carry*0xe1<<56
	}
	return z
}

// invert returns a^(2¹²⁸−2).
func invert(a element) element {
	r := element{1 << 63, 0}
	for range 127 {
		a = mul(a, a)
		r = mul(r, a)
	}
	return r
}

// expandFirst returns the first 32 bytes of HKDF-Expand, written out (RFC 5869, section 2.3).
func expandFirst(key *Key, info string) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(info + "\x01"))
	return mac.Sum(nil)
}
