package custody

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AttestNamespace is the SSH signature namespace of attestations.
const AttestNamespace = "attest@chancery"

// MaxAttestationSize is the most bytes the text of an attestation may have.
const MaxAttestationSize = 4 << 10

// ErrAttestation is returned for an attestation that is not of the share that the charter commits to.
var ErrAttestation = errors.New("not an attestation of that share")

// attestationIntro is part of every attestation, so that nobody signs one without it.
const attestationIntro = `chancery attestation v1

I am a custodian of the state named below. I have destroyed my share of this
generation of the opening key: every copy of the kit that held it, wherever it
lay, or the only private key that opens it. I keep nothing that could bring the
share back.

`

// Attestation is a custodian's word that one share is destroyed. Its text is signed, under [AttestNamespace], by the
// person of the charter who has the custodian's name; package custody checks what it says and not who signed it.
//
// What it is worth: nobody can prove that a copy does not exist. It names who answers for that, for one exact share.
type Attestation struct {
	State      [16]byte
	StateName  string // for people, at most 128 bytes
	Generation uint32 // of the opening key, from 1
	X          uint8
	Custodian  string    // name in the charter
	Commitment [32]byte  // to the share, see [Share.Commit]
	Destroyed  time.Time // the day, in UTC
	How        string    // one line, at most 512 bytes
}

// NewAttestation makes the attestation of the custodian of that name, for a share that one of the commitments is to.
func NewAttestation(commitments []Commitment, stateName, custodian string, destroyed time.Time, how string) (*Attestation, error) {
	if err := checkCommitments(commitments); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(commitments, func(c Commitment) bool { return c.Holder == custodian })
	if i < 0 {
		return nil, fmt.Errorf("attestation: %w: generation %d has no custodian %s",
			ErrAttestation, commitments[0].Generation, printName(custodian))
	}
	c := &commitments[i]
	y, m, d := destroyed.UTC().Date()
	a := &Attestation{
		State: c.State, StateName: stateName, Generation: c.Generation, X: c.X, Custodian: custodian,
		Commitment: c.Hash, Destroyed: time.Date(y, m, d, 0, 0, 0, 0, time.UTC), How: how,
	}
	return a, a.validate()
}

// Marshal writes the attestation's canonical text.
func (a *Attestation) Marshal() []byte {
	return fmt.Appendf([]byte(attestationIntro),
		"state: %x\nstate name: %s\ngeneration: %d\nshare: %d\ncustodian: %s\ncommitment: %x\ndestroyed: %s\nhow: %s\n",
		a.State[:], a.StateName, a.Generation, a.X, a.Custodian, a.Commitment[:], a.Destroyed.Format(time.DateOnly), a.How)
}

// ParseAttestation reads what [Attestation.Marshal] writes and nothing else.
func ParseAttestation(text []byte) (*Attestation, error) {
	if len(text) > MaxAttestationSize {
		return nil, fmt.Errorf("attestation: %w: %d bytes, at most %d", ErrMalformed, len(text), MaxAttestationSize)
	}
	var a Attestation
	l := lines{kind: "attestation", rest: string(text)}
	for line := range strings.Lines(attestationIntro) {
		l.exact(strings.TrimSuffix(line, "\n"))
	}
	l.hex("state", a.State[:])
	a.StateName = l.value("state name")
	a.Generation = uint32(l.number("generation", 1<<32-1))
	a.X = uint8(l.number("share", MaxHolders))
	a.Custodian = l.value("custodian")
	l.hex("commitment", a.Commitment[:])
	day := l.value("destroyed")
	if l.err == nil {
		t, err := time.Parse(time.DateOnly, day)
		if err != nil || t.Format(time.DateOnly) != day {
			l.fail("destroyed: want a day like 2026-05-12")
		}
		a.Destroyed = t
	}
	a.How = l.value("how")
	l.end()
	if l.err != nil {
		return nil, l.err
	}
	return &a, a.validate()
}

func (a *Attestation) validate() error {
	bad := func(why string) error { return fmt.Errorf("attestation: %w: %s", ErrMalformed, why) }
	switch {
	case a.State == [16]byte{}:
		return bad("state is zero")
	case !validText(a.StateName, 128):
		return bad("state name: want 1 to 128 bytes of visible text")
	case a.Generation < 1:
		return bad("generation counts from 1")
	case a.X < 1 || a.X > MaxHolders:
		return bad(fmt.Sprintf("share: want a number from 1 to %d", MaxHolders))
	case !validName(a.Custodian):
		return bad("custodian: not a name")
	case a.Destroyed.Year() < 2000 || a.Destroyed.Year() > 9999:
		return bad("destroyed: a year outside 2000 to 9999")
	case !validText(a.How, 512):
		return bad("how: want one line of 1 to 512 bytes of visible text")
	}
	return nil
}

// Check holds an attestation against all commitments of its generation's charter, in order of X. It is [ErrForeign]
// for a share of another state or generation, and [ErrAttestation] where number, custodian and commitment are not
// those of one share of the charter.
func (a *Attestation) Check(commitments []Commitment) error {
	if err := checkCommitments(commitments); err != nil {
		return err
	}
	first := &commitments[0]
	if a.State != first.State {
		return fmt.Errorf("attestation: share %d of custodian %s: %w: state %x, not %x",
			a.X, printName(a.Custodian), ErrForeign, a.State, first.State)
	}
	if a.Generation != first.Generation {
		return fmt.Errorf("attestation: share %d of custodian %s: %w: generation %d, not %d",
			a.X, printName(a.Custodian), ErrForeign, a.Generation, first.Generation)
	}
	if a.X >= 1 && int(a.X) <= len(commitments) {
		c := &commitments[a.X-1]
		if a.Custodian == c.Holder && subtle.ConstantTimeCompare(a.Commitment[:], c.Hash[:]) == 1 {
			return nil
		}
	}
	return fmt.Errorf("attestation: share %d of custodian %s, commitment %s: %w",
		a.X, printName(a.Custodian), hex.EncodeToString(a.Commitment[:]), ErrAttestation)
}

// Destruction says what the attestations of one generation come to.
type Destruction struct {
	Generation uint32
	Threshold  int
	Attested   []string // custodians, in order of X
	Missing    []string // the others
}

// Attested counts attestations, each of which must pass [Attestation.Check]; several of one share count once.
func Attested(list []*Attestation, commitments []Commitment) (*Destruction, error) {
	if err := checkCommitments(commitments); err != nil {
		return nil, err
	}
	gone := map[uint8]bool{}
	for _, a := range list {
		if err := a.Check(commitments); err != nil {
			return nil, err
		}
		gone[a.X] = true
	}
	d := &Destruction{Generation: commitments[0].Generation, Threshold: int(commitments[0].Threshold)}
	for _, c := range commitments {
		if gone[c.X] {
			d.Attested = append(d.Attested, c.Holder)
		} else {
			d.Missing = append(d.Missing, c.Holder)
		}
	}
	return d, nil
}

// Final reports whether fewer shares than the threshold can remain, if those who attested said the truth: then nobody
// opens with this generation again, not even with bytes that a host kept.
func (d *Destruction) Final() bool { return len(d.Missing) < d.Threshold }
