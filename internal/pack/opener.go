package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"chancery.dev/chancery/internal/seal"
)

// maxSessions bounds how many unwrapped sessions an Opener keeps.
const maxSessions = 64

// Opener opens what Sessions sealed to one register's key. It keeps the last 64 session secrets, since
// the packs of one backup share one. It may be used concurrently.
type Opener struct {
	priv *seal.PrivateKey

	mu     sync.Mutex // guards recent
	recent []opened   // most recently used first
}

type opened struct {
	name [32]byte // SHA-256 of HPKE info ‖ wrapped session
	key  *seal.Key
}

// NewOpener returns an Opener for a register's private key.
func NewOpener(priv *seal.PrivateKey) *Opener { return &Opener{priv: priv} }

// Open appends the payload of a sealed pack to dst, which must not share memory with sealed. Everything
// m says is verified. Errors: ErrMeta, ErrSize, ErrVersion, seal.ErrUnwrap when the session is of another
// register, epoch or key, seal.ErrContext when the pack is not what m says, seal.ErrDamaged.
func (o *Opener) Open(dst []byte, m Meta, sealed []byte) ([]byte, error) {
	if err := m.check(Data, Tree); err != nil {
		return nil, err
	}
	if len(sealed) != m.Class.Size() {
		return nil, fmt.Errorf("pack %v: %w: %d bytes, want %d", m.ID, ErrSize, len(sealed), m.Class.Size())
	}
	return o.open(dst, &m, sealed)
}

// OpenAt appends n bytes of the payload from offset off, and reads only the segments that hold them.
// sealed must give the whole sealed pack's bytes. Errors as of Open, and those of sealed.
func (o *Opener) OpenAt(dst []byte, m Meta, sealed io.ReaderAt, off, n int) ([]byte, error) {
	if err := m.check(Data, Tree); err != nil {
		return nil, err
	}
	wrapped := make([]byte, WrappedSize)
	if _, err := sealed.ReadAt(wrapped, 0); err != nil {
		return nil, fmt.Errorf("pack %v: %w", m.ID, err)
	}
	key, err := o.session(&m, wrapped)
	if err != nil {
		return nil, err
	}
	size := int64(m.Class.Size() - WrappedSize)
	body := io.NewSectionReader(sealed, WrappedSize, size)
	out, err := seal.OpenAt(dst, key, m.Context(), body, size, off, n)
	if err != nil {
		return nil, fmt.Errorf("pack %v: %w", m.ID, err)
	}
	return out, nil
}

func (o *Opener) open(dst []byte, m *Meta, sealed []byte) ([]byte, error) {
	key, err := o.session(m, sealed[:WrappedSize])
	if err != nil {
		return nil, err
	}
	out, err := seal.Open(dst, key, m.Context(), sealed[WrappedSize:])
	if err != nil {
		return nil, fmt.Errorf("pack %v: %w", m.ID, err)
	}
	return out, nil
}

// session returns the secret of a wrapped session of exactly WrappedSize bytes.
func (o *Opener) session(m *Meta, wrapped []byte) (*seal.Key, error) {
	if v := binary.BigEndian.Uint32(wrapped); v != Version {
		return nil, fmt.Errorf("pack %v: session: %w: %d", m.ID, ErrVersion, v)
	}
	if e := binary.BigEndian.Uint32(wrapped[4:]); e != m.Epoch {
		return nil, fmt.Errorf("pack %v: session of epoch %d, want %d: %w", m.ID, e, m.Epoch, seal.ErrContext)
	}
	info := sessionInfo(m.State, m.Register, m.Epoch)
	name := sha256.Sum256(append(info[:len(info):len(info)], wrapped...))
	if key := o.cached(name); key != nil {
		return key, nil
	}
	secret, err := seal.Unwrap(o.priv, info, wrapped[wrappedHeader:])
	if err != nil {
		return nil, fmt.Errorf("pack %v: session: %w", m.ID, err)
	}
	if len(secret) != len(seal.Key{}) {
		return nil, fmt.Errorf("pack %v: session: %w: secret of %d bytes", m.ID, ErrSize, len(secret))
	}
	key := new(seal.Key)
	copy(key[:], secret)
	clear(secret)
	o.remember(name, key)
	return key, nil
}

// cached returns the secret kept under the name and makes it the most recent, or returns nil.
func (o *Opener) cached(name [32]byte) *seal.Key {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, s := range o.recent {
		if s.name == name {
			copy(o.recent[1:i+1], o.recent[:i])
			o.recent[0] = s
			return s.key
		}
	}
	return nil
}

// remember keeps a secret and forgets the one unused for longest when there are too many. Two
// goroutines may unwrap the same session at once; both copies are the same secret.
func (o *Opener) remember(name [32]byte, key *seal.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.recent) < maxSessions {
		o.recent = append(o.recent, opened{})
	}
	copy(o.recent[1:], o.recent)
	o.recent[0] = opened{name, key}
}
