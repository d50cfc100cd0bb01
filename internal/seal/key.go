package seal

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Key is a symmetric key of 32 uniformly random bytes. It prints as "seal.Key(secret)" under every
// verb and refuses to marshal itself, so that no log, error or file holds one by accident. (Package fmt
// does not ask a value in an unexported field of another type: a type that keeps a key there and may be
// printed needs a Format of its own.)
type Key [32]byte

// String returns a fixed text without any key bytes.
func (Key) String() string { return "seal.Key(secret)" }

// GoString returns a fixed text without any key bytes.
func (k Key) GoString() string { return k.String() }

// Format writes a fixed text without any key bytes, whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// MarshalText always fails: who wants to store a key converts it to bytes and says so.
func (Key) MarshalText() ([]byte, error) { return nil, errors.New("seal key: is a secret") }

// maxDerived is the most that HKDF-SHA-256 gives, in bytes.
const maxDerived = 255 * sha256.Size

// Derive returns n bytes (at most 8,160) derived from a secret of at least 32 bytes of entropy:
// HKDF-SHA-256 (RFC 5869), Extract without a salt, then Expand with info = label ‖ 0x00 ‖ context.
// A label contains no zero byte and begins with the name and version of the format that uses it.
// For an n below 0 or above 8,160 it returns nil.
func Derive(secret []byte, label string, context []byte, n int) []byte {
	if n < 0 || n > maxDerived {
		return nil
	}
	out, err := hkdf.Key(sha256.New, secret, nil, label+"\x00"+string(context), n)
	if err != nil {
		return nil
	}
	return out
}
