package ledger

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
)

// Sizes of a delivery.
const (
	MaxDelivered = 16384     // objects of one part
	MaxParts     = 1<<16 - 1 // parts of one head at one embassy
	maxHeadNo    = 1<<48 - 1
	// StreamDelivery and what is above it are numbers not of snapshots but, less
	// this, of stretches. Their slots stay below 2^53, which JSON's numbers hold.
	StreamDelivery = 1 << 36
)

const (
	deliveryVersion = 1
	deliveryContext = "chancery delivery v1\x00" // what the signature is over starts with this
)

// Delivery is an agent's signed list of objects that it had one embassy store
// for one snapshot, in parts of at most 16,384. Embassies keep it as a record. It
// settles later what was asked of whom: an object of no delivery was never
// ordered there, and one of a delivery that the embassy took was.
//
//	CBOR array(11) [ version 1, state bytes(16), register bytes(16), head,
//	                 embassy bytes(16), part, parts, salt bytes(32),
//	                 array of bytes(32), agent bytes(32), signature bytes(64) ]
type Delivery struct {
	_           struct{} `cbor:",toarray"`
	Version     uint8    // 1
	State       [16]byte
	Register    [16]byte
	Head        uint64     // the snapshot's number, from 1, below 2^48; see StreamDelivery
	Embassy     [16]byte   // first 16 bytes of SHA-256 of its public key
	Part, Parts uint32     // part Part of Parts, from 0
	Salt        [32]byte   // random, so that the record's hash in the ledger tells nothing
	Objects     [][32]byte // Merkle roots, strictly rising; none only where Parts is 1
	Agent       [32]byte   // Ed25519 public key of who signed
	Signature   [64]byte
}

// NewDelivery fills in the version.
func NewDelivery() Delivery { return Delivery{Version: deliveryVersion} }

// signed is what the signature is over: the context and the encoding with a
// signature of zeros.
func (d *Delivery) signed() ([]byte, error) {
	u := *d
	u.Signature = [64]byte{}
	b, err := u.Bytes()
	return append([]byte(deliveryContext), b...), err
}

// Sign sets Agent to the key's public half and signs the delivery, whose other
// fields are final. It fails where ParseDelivery would refuse the result.
func (d *Delivery) Sign(priv ed25519.PrivateKey) error {
	if len(priv) != ed25519.PrivateKeySize {
		return fmt.Errorf("ledger: delivery: not an Ed25519 key: %w", ErrSignature)
	}
	copy(d.Agent[:], priv[ed25519.SeedSize:])
	msg, err := d.signed()
	if err != nil {
		return err
	}
	d.Signature = [64]byte(ed25519.Sign(priv, msg))
	return nil
}

// Verify checks the signature by the agent that the delivery names
// (ErrSignature). Whether the charter names that agent is for the caller to ask.
func (d *Delivery) Verify() error {
	msg, err := d.signed()
	if err != nil {
		return err
	}
	if !ed25519.Verify(d.Agent[:], msg, d.Signature[:]) {
		return fmt.Errorf("ledger: delivery %d of head %d: not signed by its agent: %w", d.Part, d.Head, ErrSignature)
	}
	return nil
}

// Bytes is the canonical encoding. It fails where ParseDelivery would refuse it.
func (d *Delivery) Bytes() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	return encode(d)
}

// ParseDelivery reads the canonical form and nothing else: ErrFormat or
// ErrUnknown. It keeps no reference to data. The signature is not checked: call
// Verify.
func ParseDelivery(data []byte) (Delivery, error) {
	var d Delivery
	if err := decode(data, MaxRecord, &d); err != nil {
		return Delivery{}, fmt.Errorf("ledger: delivery: %w", err)
	}
	if err := d.check(); err != nil {
		return Delivery{}, err
	}
	return d, nil
}

func (d *Delivery) check() error {
	if d.Version != deliveryVersion {
		return fmt.Errorf("ledger: delivery: version %d: %w", d.Version, ErrUnknown)
	}
	n := len(d.Objects)
	if d.Head == 0 || d.Head > maxHeadNo || d.Part >= d.Parts || d.Parts > MaxParts ||
		n > MaxDelivered || n == 0 && d.Parts != 1 {
		return fmt.Errorf("ledger: delivery: part %d of %d of head %d, %d objects: %w", d.Part, d.Parts, d.Head, n, ErrFormat)
	}
	for i := 1; i < n; i++ {
		if bytes.Compare(d.Objects[i-1][:], d.Objects[i][:]) >= 0 {
			return fmt.Errorf("ledger: delivery: object %d is not above the one before: %w", i, ErrFormat)
		}
	}
	return nil
}

// Slot is where embassies keep this delivery.
func (d *Delivery) Slot() Slot { return DeliverySlot(d.Register, d.Head, d.Part) }

// DeliverySlot is the slot of a part, counted from 0, of a head's delivery: its
// sequence is head<<16 | part+1.
func DeliverySlot(register [16]byte, head uint64, part uint32) Slot {
	return Slot{Kind: DeliveryRecord, Register: register, Sequence: head<<16 | (uint64(part)+1)&0xffff}
}
