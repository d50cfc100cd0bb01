package pack

import (
	"encoding/binary"
	"fmt"
	"io"

	"chancery.dev/chancery/internal/seal"
)

// WrappedSize is the length in bytes of a wrapped session:
//
//	version u32 ‖ epoch u32 ‖ HPKE encapsulation and ciphertext of the 32-byte secret
//
// with numbers big endian.
const WrappedSize = wrappedHeader + seal.WrapOverhead + 32

const wrappedHeader = 8

// sessionLabel starts the HPKE info of every wrapped session.
const sessionLabel = "chancery session v1"

// Session is one backup's secret, from which the key of each of its packs comes. The secret is wrapped
// once to the register's public key and never stored: who holds a Session can write packs, and only
// the holder of the private key can open them later. A Session may be used concurrently.
type Session struct {
	key             seal.Key
	wrapped         []byte
	state, register [16]byte
	epoch           uint32
}

// NewSession draws a fresh secret from rand and wraps it to the register's public key. The epoch is
// that of the key pair.
func NewSession(rand io.Reader, pub seal.PublicKey, state, register [16]byte, epoch uint32) (*Session, error) {
	s := &Session{state: state, register: register, epoch: epoch}
	if _, err := io.ReadFull(rand, s.key[:]); err != nil {
		return nil, fmt.Errorf("pack session: randomness: %w", err)
	}
	sealed, err := seal.Wrap(pub, sessionInfo(state, register, epoch), s.key[:])
	if err != nil {
		return nil, fmt.Errorf("pack session: %w", err)
	}
	s.wrapped = make([]byte, 0, WrappedSize)
	s.wrapped = binary.BigEndian.AppendUint32(s.wrapped, Version)
	s.wrapped = binary.BigEndian.AppendUint32(s.wrapped, epoch)
	s.wrapped = append(s.wrapped, sealed...)
	if len(s.wrapped) != WrappedSize {
		return nil, fmt.Errorf("pack session: %w: wrapped to %d bytes", ErrSize, len(s.wrapped))
	}
	return s, nil
}

// Wrapped returns the sealed secret, WrappedSize bytes. The caller must not change them.
func (s *Session) Wrapped() []byte { return s.wrapped }

// Seal appends a sealed pack of exactly m.Class.Size() bytes to dst: the wrapped session, then the
// payload under C2SP chunked-encryption with a salt from rand and m as context. The payload must be
// exactly Payload(m.Class, m.Kind) bytes and must not share memory with dst. The Kind is Data or Tree;
// State, Register and Epoch are the session's. Errors: ErrMeta, ErrSize, those of rand.
func (s *Session) Seal(dst []byte, rand io.Reader, m Meta, payload []byte) ([]byte, error) {
	if err := m.check(Data, Tree); err != nil {
		return nil, err
	}
	if err := s.checkOwner(&m); err != nil {
		return nil, err
	}
	if want := Payload(m.Class, m.Kind); len(payload) != want {
		return nil, fmt.Errorf("%w: payload of %d bytes, want %d", ErrSize, len(payload), want)
	}
	return sealWith(append(dst, s.wrapped...), rand, &s.key, &m, payload)
}

// checkOwner refuses a Meta of another register or epoch: it could never be opened.
func (s *Session) checkOwner(m *Meta) error {
	if m.State != s.state || m.Register != s.register || m.Epoch != s.epoch {
		return fmt.Errorf("%w: not of this session's register and epoch", ErrMeta)
	}
	return nil
}

// SealIndex appends a sealed index pack of exactly m.Class.Size() bytes to dst, under the register's
// index key, which agents hold, and without a wrapped session. The Kind is Index, the payload exactly
// Payload(m.Class, Index) bytes. Errors as of Session.Seal.
func SealIndex(dst []byte, rand io.Reader, key *seal.Key, m Meta, payload []byte) ([]byte, error) {
	if err := m.check(Index); err != nil {
		return nil, err
	}
	if want := Payload(m.Class, Index); len(payload) != want {
		return nil, fmt.Errorf("%w: payload of %d bytes, want %d", ErrSize, len(payload), want)
	}
	return sealWith(dst, rand, key, &m, payload)
}

// OpenIndex appends the payload of a sealed index pack to dst. Errors: ErrMeta, ErrSize,
// seal.ErrContext for another key or meaning, seal.ErrDamaged.
func OpenIndex(dst []byte, key *seal.Key, m Meta, sealed []byte) ([]byte, error) {
	if err := m.check(Index); err != nil {
		return nil, err
	}
	if len(sealed) != m.Class.Size() {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrSize, len(sealed), m.Class.Size())
	}
	out, err := seal.Open(dst, key, m.Context(), sealed)
	if err != nil {
		return nil, fmt.Errorf("pack %v: %w", m.ID, err)
	}
	return out, nil
}

func sealWith(dst []byte, rand io.Reader, key *seal.Key, m *Meta, payload []byte) ([]byte, error) {
	var salt seal.Salt
	if _, err := io.ReadFull(rand, salt[:]); err != nil {
		return nil, fmt.Errorf("pack %v: randomness: %w", m.ID, err)
	}
	out := seal.Seal(dst, key, salt, m.Context(), payload)
	if want := len(dst) + seal.Size(len(payload)); len(out) != want {
		return nil, fmt.Errorf("pack %v: %w: sealed to %d bytes, want %d", m.ID, ErrSize, len(out), want)
	}
	return out, nil
}

// sessionInfo is the HPKE info: everything that a session's secret is for.
func sessionInfo(state, register [16]byte, epoch uint32) []byte {
	b := make([]byte, 0, len(sessionLabel)+16+16+4)
	b = append(b, sessionLabel...)
	b = append(b, state[:]...)
	b = append(b, register[:]...)
	return binary.BigEndian.AppendUint32(b, epoch)
}
