package pack

import (
	"encoding/binary"
	"fmt"
	"io"

	"chancery.dev/chancery/internal/seal"
)

// MaxMessage is the longest plaintext of a sealed message, in bytes.
const MaxMessage = 512 << 10

// messageStep is what padded messages are a multiple of, in bytes.
const messageStep = 1 << 10

// paddedMessage returns the length of a message of n bytes before it is sealed.
func paddedMessage(n int) int { return (4 + n + messageStep - 1) / messageStep * messageStep }

// SealMessage seals a short message, the secret part of a head: the wrapped session, then under C2SP
// chunked-encryption the length as 4 bytes, the plaintext, and zeros up to a multiple of 1 KiB. The
// Kind is Head. Errors: ErrMeta, ErrSize above MaxMessage, those of rand.
func SealMessage(rand io.Reader, s *Session, m Meta, plaintext []byte) ([]byte, error) {
	if err := m.check(Head); err != nil {
		return nil, err
	}
	if err := s.checkOwner(&m); err != nil {
		return nil, err
	}
	if len(plaintext) > MaxMessage {
		return nil, fmt.Errorf("%w: message of %d bytes, at most %d", ErrSize, len(plaintext), MaxMessage)
	}
	padded := make([]byte, paddedMessage(len(plaintext)))
	binary.BigEndian.PutUint32(padded, uint32(len(plaintext)))
	copy(padded[4:], plaintext)
	dst := make([]byte, 0, WrappedSize+seal.Size(len(padded)))
	return sealWith(append(dst, s.wrapped...), rand, &s.key, &m, padded)
}

// OpenMessage returns the plaintext of a sealed message, in memory of its own. Errors as of Open, and
// ErrFormat when what was sealed is not in canonical form.
func (o *Opener) OpenMessage(m Meta, sealed []byte) ([]byte, error) {
	if err := m.check(Head); err != nil {
		return nil, err
	}
	if len(sealed) < WrappedSize || len(sealed) > WrappedSize+seal.Size(paddedMessage(MaxMessage)) {
		return nil, fmt.Errorf("message %v: %w: %d bytes", m.ID, ErrSize, len(sealed))
	}
	padded, err := o.open(nil, &m, sealed)
	if err != nil {
		return nil, err
	}
	plaintext, err := UnpadPayload(padded)
	if err != nil {
		return nil, fmt.Errorf("message %v: %w", m.ID, err)
	}
	if len(padded) != paddedMessage(len(plaintext)) {
		return nil, fmt.Errorf("message %v: %w: padded to %d bytes", m.ID, ErrFormat, len(padded))
	}
	return plaintext, nil
}

// PadPayload appends a payload of exactly Payload(class, kind) bytes to dst: the length of body as 4
// bytes big endian, body, zeros. It returns nil when the body does not fit the class; Smallest(4 +
// len(body), kind) is a class that it fits.
func PadPayload(dst []byte, class Class, kind Kind, body []byte) []byte {
	padding := Payload(class, kind) - 4 - len(body)
	if padding < 0 {
		return nil
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	dst = append(dst, body...)
	return append(dst, make([]byte, padding)...)
}

// UnpadPayload is the inverse of PadPayload and returns a part of payload's memory. It returns
// ErrFormat when the length is beyond the end or the padding is not zero.
func UnpadPayload(payload []byte) ([]byte, error) {
	if len(payload) < 4 {
		return nil, fmt.Errorf("%w: payload of %d bytes", ErrFormat, len(payload))
	}
	n, rest := binary.BigEndian.Uint32(payload), payload[4:]
	if uint64(n) > uint64(len(rest)) {
		return nil, fmt.Errorf("%w: body of %d bytes in a payload of %d", ErrFormat, n, len(payload))
	}
	if !zero(rest[n:]) {
		return nil, fmt.Errorf("%w: padding is not zero", ErrFormat)
	}
	return rest[:n:n], nil
}
