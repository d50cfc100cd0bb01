package shard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	labelEmbassy = "chancery/shares/v1 embassy\x00"
	labelStream  = "chancery/shares/v1 stream\x00"
)

// fuseSize is how many bytes are masked before they are hashed, or hashed before they are unmasked:
// small enough to stay in the fastest cache between the two.
const fuseSize = 16 << 10

// MaskKey is a register's mask key, or one that [EmbassyMaskKey] derived from it for an embassy. It
// prints as "shard.MaskKey(secret)" under every verb and refuses to marshal itself.
type MaskKey [32]byte

// String returns a fixed text without any key bytes.
func (MaskKey) String() string { return "shard.MaskKey(secret)" }

// GoString returns a fixed text without any key bytes.
func (k MaskKey) GoString() string { return k.String() }

// Format writes a fixed text without any key bytes, whatever the verb.
func (k MaskKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// MarshalText always fails: who wants to store a key converts it to bytes and says so.
func (MaskKey) MarshalText() ([]byte, error) { return nil, errors.New("mask key: is a secret") }

// EmbassyMaskKey returns the mask key of one register at one embassy:
// HMAC-SHA-256(register, "chancery/shares/v1 embassy" ‖ 0x00 ‖ embassy).
func EmbassyMaskKey(register MaskKey, embassy [16]byte) MaskKey {
	mac := hmac.New(sha256.New, register[:])
	mac.Write([]byte(labelEmbassy))
	mac.Write(embassy[:])
	var key MaskKey
	mac.Sum(key[:0])
	return key
}

// Mask XORs data, a whole share, with the keystream of (key, pack, share): AES-256 in counter mode
// with the counter block beginning at zero, under
// HMAC-SHA-256(key, "chancery/shares/v1 stream" ‖ 0x00 ‖ pack 16 ‖ share 4, big-endian).
// It is its own inverse. key is the embassy's, from [EmbassyMaskKey].
func Mask(key MaskKey, packID [16]byte, share int, data []byte) {
	stream := keystream(key, packID, share, 0)
	stream.XORKeyStream(data, data)
}

// MaskAt is [Mask] for the part of a share that begins at byte off, which is not negative. An offset
// that is a multiple of 16 costs nothing extra.
func MaskAt(key MaskKey, packID [16]byte, share int, off int64, data []byte) {
	stream := keystream(key, packID, share, uint64(off/aes.BlockSize))
	var skip [aes.BlockSize]byte
	stream.XORKeyStream(skip[:], skip[:off%aes.BlockSize])
	stream.XORKeyStream(data, data)
}

// MaskAndHash masks data in place, as [Mask] does, and returns the name of the masked bytes, as [Root]
// does, walking over the memory once.
func MaskAndHash(key MaskKey, packID [16]byte, share int, data []byte) Name {
	stream := keystream(key, packID, share, 0)
	var h Hasher
	for len(data) > 0 {
		part := data[:min(len(data), fuseSize)]
		stream.XORKeyStream(part, part)
		h.add(part)
		data = data[len(part):]
	}
	return h.Name()
}

// HashAndUnmask returns the name of data, a masked share, and unmasks it in place, walking over the
// memory once. The caller compares the name before it uses the bytes.
func HashAndUnmask(key MaskKey, packID [16]byte, share int, data []byte) Name {
	stream := keystream(key, packID, share, 0)
	var h Hasher
	for len(data) > 0 {
		part := data[:min(len(data), fuseSize)]
		h.add(part)
		stream.XORKeyStream(part, part)
		data = data[len(part):]
	}
	return h.Name()
}

// keystream returns the stream of (key, pack, share) from this 16-byte block on.
func keystream(key MaskKey, packID [16]byte, share int, block uint64) cipher.Stream {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(labelStream))
	mac.Write(packID[:])
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(share)))
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], block)
	c, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil // cannot be: the key is 32 bytes
	}
	return cipher.NewCTR(c, iv[:])
}
