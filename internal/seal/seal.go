// Package seal makes bytes unreadable and unalterable for whoever holds no key.
//
// Two constructions, both of one fixed suite, and nothing in a sealed message chooses between them:
//
//   - [Seal], [Open], [OpenAt]: C2SP chunked-encryption (https://c2sp.org/chunked-encryption) with
//     HKDF-SHA-256 and AEAD_AES_256_GCM, for anything of any length under a symmetric key.
//   - [Wrap], [Unwrap]: HPKE (RFC 9180) in base mode with MLKEM768-X25519, HKDF-SHA-256 and
//     AES-256-GCM, for a short secret to a public key.
//
// Old data: what this package has sealed stays openable by every later version of it. A new suite
// would be new functions beside these, named by the charter and by the version in the caller's
// context, never a new meaning of the same bytes. The bytes are specified in docs/spec/sealing.md.
//
// All cryptography is the standard library's and works with GODEBUG=fips140=on. The package reads no
// clock, file or network; randomness is an argument, except that HPKE draws its ephemeral keys from
// the cryptographic module's own generator.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// SegmentSize is how many plaintext bytes each segment of a sealed message carries, in bytes.
	// The last segment always carries fewer, and may carry none.
	SegmentSize = 16 << 10
	// Prefix is the length in bytes of what stands before the first segment: the salt (24 bytes)
	// and the commitment (32 bytes).
	Prefix = saltSize + commitmentSize
	// Tag is the length in bytes of the authentication tag that ends each segment.
	Tag = 16
)

const (
	saltSize       = 24
	commitmentSize = 32
	nonceSize      = 12
	sealedSegment  = SegmentSize + Tag
	infoPrefix     = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
)

var (
	// ErrContext means that the commitment differs: the key is not the one that the message was
	// sealed with, or the message is not what the context says it is, or its first [Prefix] bytes
	// were altered. Nothing of it was decrypted.
	ErrContext = errors.New("wrong key or wrong context")
	// ErrTruncated means that no sealed message has this length: its end is missing.
	ErrTruncated = errors.New("truncated")
	// ErrDamaged means that a segment does not authenticate: its bytes were altered, moved, cut or
	// added to.
	ErrDamaged = errors.New("damaged")
	// ErrRange means that the range asked for is not inside the plaintext.
	ErrRange = errors.New("range outside the plaintext")
)

// Salt makes every message under one key independent. It is public, must never repeat under one
// key, and is best drawn at random for each message.
type Salt [saltSize]byte

// Size returns the sealed length in bytes of a plaintext of this many bytes.
func Size(plain int) int {
	return Prefix + plain + (plain/SegmentSize+1)*Tag
}

// PlainSize returns the plaintext's length in bytes of a message of this sealed length, or
// [ErrTruncated] if no message has it.
func PlainSize(sealed int) (int, error) {
	n, err := plainSize(int64(sealed))
	return int(n), err
}

func plainSize(sealed int64) (int64, error) {
	full, last := (sealed-Prefix)/sealedSegment, (sealed-Prefix)%sealedSegment
	if sealed < Prefix+Tag || last < Tag {
		return 0, fmt.Errorf("sealed message: no message is %d bytes long: %w", sealed, ErrTruncated)
	}
	return full*SegmentSize + last - Tag, nil
}

// Seal appends the sealed plaintext to dst and returns the extended slice; [Size] says how much it
// appends. The context is everything that the message means; it is not stored, and who opens the
// message must know it. The pair of key and salt must never be used twice.
//
// plaintext must not share memory with the part of dst's capacity that is written. Memory: about
// 2 KiB for the key schedule whatever the length, and dst only if its capacity is too small.
//
// The message: https://c2sp.org/chunked-encryption
//
//	salt 24 | commitment 32 | segment 0 | segment 1 | … | last segment
//	                          16384+16    16384+16        0…16383 + 16
func Seal(dst []byte, key *Key, salt Salt, context, plaintext []byte) []byte {
	m, err := newMessage(key, &salt, context)
	if err != nil {
		return nil // cannot be: every size that the primitives check is fixed here
	}
	dst = slices.Grow(dst, Size(len(plaintext)))
	dst = append(dst, salt[:]...)
	dst = append(dst, m.commitment[:]...)
	for i := uint64(0); ; i++ {
		n := min(len(plaintext), SegmentSize)
		dst = m.aead.Seal(dst, m.at(i), plaintext[:n], nil)
		if plaintext = plaintext[n:]; n < SegmentSize {
			return dst
		}
	}
}

// Open appends the plaintext of a sealed message to dst and returns the extended slice. It returns
// [ErrTruncated], [ErrContext] or [ErrDamaged], and then no plaintext: what it had written to dst's
// memory is cleared.
//
// sealed must not share memory with the part of dst's capacity that is written.
func Open(dst []byte, key *Key, context, sealed []byte) ([]byte, error) {
	plain, err := PlainSize(len(sealed))
	if err != nil {
		return nil, err
	}
	m, err := openMessage(key, context, sealed[:Prefix])
	if err != nil {
		return nil, err
	}
	start := len(dst)
	dst = slices.Grow(dst, plain)
	sealed = sealed[Prefix:]
	for i := uint64(0); len(sealed) > 0; i++ {
		n := min(len(sealed), sealedSegment)
		out, err := m.aead.Open(dst, m.at(i), sealed[:n], nil)
		if err != nil {
			clear(dst[start:])
			return nil, damaged(i)
		}
		dst, sealed = out, sealed[n:]
	}
	return dst, nil
}

// OpenAt appends n bytes of the plaintext, from offset off, to dst and returns the extended slice.
// sealedSize is the length of the whole sealed message. It reads the first [Prefix] bytes and the
// segments that the range touches, and nothing else; so it vouches for those bytes and their place,
// and not for the rest of the message.
//
// Errors are those of [Open], [ErrRange], and what sealed returns. Memory: one segment.
func OpenAt(dst []byte, key *Key, context []byte, sealed io.ReaderAt, sealedSize int64, off, n int) ([]byte, error) {
	plain, err := plainSize(sealedSize)
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || int64(off) > plain || int64(n) > plain-int64(off) {
		return nil, fmt.Errorf("sealed message: %d bytes at %d of %d: %w", n, off, plain, ErrRange)
	}
	buf := make([]byte, sealedSegment)
	if err := readAt(sealed, buf[:Prefix], 0); err != nil {
		return nil, err
	}
	m, err := openMessage(key, context, buf[:Prefix])
	if err != nil {
		return nil, err
	}
	start := len(dst)
	dst = slices.Grow(dst, n)
	for n > 0 {
		i := off / SegmentSize
		at := Prefix + int64(i)*sealedSegment
		segment := buf[:min(sealedSegment, sealedSize-at)]
		err := readAt(sealed, segment, at)
		if err == nil {
			if segment, err = m.aead.Open(segment[:0], m.at(uint64(i)), segment, nil); err != nil {
				err = damaged(uint64(i))
			}
		}
		if err != nil {
			clear(dst[start:])
			return nil, err
		}
		segment = segment[off%SegmentSize:]
		segment = segment[:min(n, len(segment))]
		dst = append(dst, segment...)
		off, n = off+len(segment), n-len(segment)
	}
	return dst, nil
}

// message is what one (key, salt, context) derives.
type message struct {
	aead       cipher.AEAD
	base       [nonceSize]byte
	nonce      [nonceSize]byte
	commitment [commitmentSize]byte
}

func newMessage(key *Key, salt *Salt, context []byte) (*message, error) {
	info := make([]byte, 0, 256)
	info = append(info, infoPrefix...)
	info = append(info, salt[:]...)
	info = append(info, context...)
	okm, err := hkdf.Expand(sha256.New, key[:], string(info), 32+nonceSize+commitmentSize)
	if err != nil {
		return nil, fmt.Errorf("sealed message: derive the keys: %w", err)
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		return nil, fmt.Errorf("sealed message: prepare the cipher: %w", err)
	}
	m := &message{
		base:       [nonceSize]byte(okm[32:]),
		commitment: [commitmentSize]byte(okm[32+nonceSize:]),
	}
	clear(okm)
	if m.aead, err = cipher.NewGCM(block); err != nil {
		return nil, fmt.Errorf("sealed message: prepare the cipher: %w", err)
	}
	return m, nil
}

// openMessage derives from a message's first bytes, and checks the commitment before anything else.
func openMessage(key *Key, context, prefix []byte) (*message, error) {
	m, err := newMessage(key, (*Salt)(prefix), context)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(m.commitment[:], prefix[saltSize:]) != 1 {
		return nil, fmt.Errorf("sealed message: the commitment differs: %w", ErrContext)
	}
	return m, nil
}

// at returns the nonce of segment i, valid until the next call.
func (m *message) at(i uint64) []byte {
	m.nonce = m.base
	low := m.nonce[nonceSize-8:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)^i)
	return m.nonce[:]
}

func damaged(segment uint64) error {
	return fmt.Errorf("sealed message: segment %d does not authenticate: %w", segment, ErrDamaged)
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("sealed message: ends at byte %d: %w", off+int64(n), ErrTruncated)
	}
	return fmt.Errorf("sealed message: read at byte %d: %w", off, err)
}
