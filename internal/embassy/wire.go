package embassy

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Caps of the interface; docs/spec/embassy-api.md states them.
const (
	maxObject    = ledger.MaxObject
	maxRecord    = ledger.MaxRecord
	maxJSON      = 1 << 20 // bytes of a JSON request
	maxNames     = 4096    // names in one question
	maxReceipts  = 1024    // receipts in one answer
	maxScrub     = 64      // objects read in one scrub
	maxList      = 4096    // names in one page
	maxSlotPage  = 1000    // records in one page
	maxLeafCount = maxObject / shard.LeafSize
)

// repairHeader asks that a PUT of a stored object reads the disk's copy first
// and replaces it when it is damaged.
const repairHeader = "Chancery-Repair"

// What an error is about. Errors of a Client wrap exactly one of these.
var (
	// ErrNotFound: the embassy holds no such thing. It is also fs.ErrNotExist.
	ErrNotFound = fmt.Errorf("not found at the embassy (%w)", fs.ErrNotExist)
	// ErrRemoved: the embassy held it, and an order of the state had it removed.
	// It is also ErrNotFound.
	ErrRemoved = fmt.Errorf("removed by an order of the state: %w", ErrNotFound)
	// ErrConflict: the slot is taken by other bytes. It is also fs.ErrExist.
	ErrConflict = fmt.Errorf("taken by other bytes (%w)", fs.ErrExist)
	// ErrRefused: the embassy does not let this key do this.
	ErrRefused = errors.New("refused by the embassy")
	// ErrInvalid: the embassy did not understand the request, or the bytes are
	// not those of the name.
	ErrInvalid = errors.New("not a valid request")
	// ErrFull: the embassy's disk or the state's quota is full.
	ErrFull = errors.New("no room at the embassy")
	// ErrWrongKey: another key answers at the embassy's address.
	ErrWrongKey = errors.New("another key answers at this address")
	// ErrUnreachable: no answer, or none in time.
	ErrUnreachable = errors.New("embassy unreachable")
	// ErrForged: an answer that breaks the protocol or does not verify.
	ErrForged = errors.New("the embassy's answer does not verify")
	// ErrFailed: the embassy says that it failed; why is in its own log.
	ErrFailed = errors.New("the embassy failed")

	errOutOfOrder = errors.New("orders out of order")
)

// Error is what every call of a Client returns when it fails.
type Error struct {
	Kind    error  // one of the Err values of this package
	Embassy string // its address
	Op      string // what was asked, in words
	Err     error  // the cause
}

// Error says what was asked, of whom, and why it failed.
func (e *Error) Error() string {
	s := "embassy " + e.Embassy + ": " + e.Op + ": " + e.Kind.Error()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives errors.Is the kind and the cause.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// refusal is an error on its way to a client.
type refusal struct {
	status int
	Code   string `json:"code"` // for programs, never renamed
	What   string `json:"what"`
	Why    string `json:"why"`
	after  int    // seconds within which there will be room again; 0 where that is not known
	cause  error  // for the embassy's own log only
}

func (r *refusal) Error() string { return r.What + ": " + r.Why }

// Codes of refusals.
const (
	codeInvalid  = "invalid"
	codeRefused  = "refused"
	codeNotFound = "not-found"
	codeRemoved  = "removed"
	codeConflict = "conflict"
	codeFull     = "full"
	codeTooLarge = "too-large"
	codeMismatch = "mismatch"
	codeBusy     = "busy"
	codeDamaged  = "damaged"
	codeFailed   = "failed"
)

func invalid(what, why string) *refusal {
	return &refusal{status: http.StatusBadRequest, Code: codeInvalid, What: what, Why: why}
}

func notFound(what string) *refusal {
	return &refusal{status: http.StatusNotFound, Code: codeNotFound, What: what, Why: "not held for this state"}
}

func refused(why string) *refusal {
	return &refusal{status: http.StatusForbidden, Code: codeRefused, What: "access", Why: why}
}

func full(why string) *refusal {
	return &refusal{status: http.StatusInsufficientStorage, Code: codeFull, What: "store", Why: why}
}

func failed(what string, cause error) *refusal {
	return &refusal{
		status: http.StatusInternalServerError, Code: codeFailed,
		What: what, Why: "the embassy's log has the cause", cause: cause,
	}
}

// kindOf maps a refusal's code, as a client received it, to an error.
func kindOf(code string) error {
	switch code {
	case codeNotFound:
		return ErrNotFound
	case codeRemoved:
		return ErrRemoved
	case codeConflict:
		return ErrConflict
	case codeRefused:
		return ErrRefused
	case codeInvalid, codeTooLarge, codeMismatch:
		return ErrInvalid
	case codeFull:
		return ErrFull
	case codeBusy:
		return ErrUnreachable
	}
	return ErrFailed
}

// Identity is what an embassy says of itself to anyone. Key is proven by the TLS
// handshake that carried it.
type Identity struct {
	Name     string
	Country  string // two capital letters
	Key      ed25519.PublicKey
	MLDSAKey []byte // by which it cosigns beside Key; nil from an earlier release
}

// Status is what an embassy tells a state of itself. Fields are only ever added.
type Status struct {
	Name          string `json:"name"`
	Country       string `json:"country"`
	Objects       uint64 `json:"objects"`
	Bytes         uint64 `json:"bytes"` // of objects and records
	FreeBytes     uint64 `json:"free_bytes"`
	LedgerSize    uint64 `json:"ledger_size"`
	CharterNumber uint64 `json:"charter_number"`
	Version       string `json:"version"`

	CosignedSize uint64           `json:"cosigned_size"`          // leaves of the newest cosigned checkpoint; 0 is none
	CosignedTime time.Time        `json:"cosigned_time,omitzero"` // see ledger.Verdict
	Agreement    *AgreementStatus `json:"agreement,omitempty"`
	Scrub        *ScrubStatus     `json:"scrub,omitempty"`
	Witness      *WitnessStatus   `json:"witness,omitempty"`
}

// Damage is one thing that a scrub found wrong.
type Damage struct {
	Name shard.Name
	What string // "unknown", "lost", "length" or "altered"
}

// JSON bodies. Names and ids are lowercase hex.
type (
	identityJSON struct {
		Name    string `json:"name"`
		Country string `json:"country"`
		Key     string `json:"key"` // base64
		// MLDSAKey is the ML-DSA-44 key of charter.MLDSAKeySize bytes in base64; earlier releases have none.
		MLDSAKey string `json:"mldsa_key,omitempty"`
	}
	leafJSON struct {
		Leaf uint64 `json:"leaf"`
	}
	takenJSON struct {
		Number uint64 `json:"number"` // of the charter in force
	}
	namesJSON struct {
		Names []string `json:"names"`
	}
	missingJSON struct {
		Missing []string `json:"missing"`
	}
	scrubJSON struct {
		Checked int          `json:"checked"`
		Damaged []damageJSON `json:"damaged"`
	}
	damageJSON struct {
		Name string `json:"name"`
		What string `json:"what"`
	}
	slotJSON struct {
		Kind     string `json:"kind"`
		Register string `json:"register"`
		Sequence uint64 `json:"sequence"`
	}
	recordJSON struct {
		Sequence uint64 `json:"sequence"`
		Hash     string `json:"hash"`
		Size     uint64 `json:"size"`
	}
	recordsJSON struct {
		Records []recordJSON `json:"records"`
	}
	registersJSON struct {
		Registers []string `json:"registers"`
	}
	receiptsJSON struct {
		Objects []string   `json:"objects"`
		Records []slotJSON `json:"records"`
		// Cosigned asks for a checkpoint that satisfies the charter's policy.
		Cosigned bool `json:"cosigned,omitempty"`
	}
	charterJSON struct {
		Document  []byte `json:"document"`  // base64
		Signature []byte `json:"signature"` // base64
	}
)

func hexNames(names []shard.Name) []string {
	out := make([]string, len(names))
	for i := range names {
		out[i] = names[i].String()
	}
	return out
}

func parseNames(texts []string) ([]shard.Name, error) {
	names := make([]shard.Name, len(texts))
	for i, t := range texts {
		n, err := shard.ParseName(t)
		if err != nil {
			return nil, err
		}
		names[i] = n
	}
	return names, nil
}

// parseRegister reads 32 lowercase hex digits.
func parseRegister(s string) ([16]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 || hex.EncodeToString(b) != s {
		return [16]byte{}, errors.New("not 32 lowercase hex digits")
	}
	return [16]byte(b), nil
}

func (s slotJSON) slot() (ledger.Slot, error) {
	kind, err := ledger.ParseRecordKind(s.Kind)
	if err != nil {
		return ledger.Slot{}, err
	}
	register, err := parseRegister(s.Register)
	if err != nil {
		return ledger.Slot{}, err
	}
	if s.Sequence == 0 {
		return ledger.Slot{}, errors.New("sequences begin at 1")
	}
	return ledger.Slot{Kind: kind, Register: register, Sequence: s.Sequence}, nil
}

func parseKey(text string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("not an Ed25519 key in base64")
	}
	return b, nil
}
