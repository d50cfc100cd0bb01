package custody

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxRequestLife is the longest time between a request's creation and its expiry.
	MaxRequestLife = 7 * 24 * time.Hour
	// MaxRequestSize is the most bytes the text of a request may have.
	MaxRequestSize = 16 << 10

	clockSlack   = 10 * time.Minute
	releaseLabel = "chancery release v1"
)

var (
	// ErrExpired is returned for a request whose time is over, or lies in the future.
	ErrExpired = errors.New("not valid at this time")
	// ErrOtherRequest is returned for a share that was released for another request.
	ErrOtherRequest = errors.New("released for another request")
)

// requestIntro is part of every request, so that nobody sees one without it.
const requestIntro = `chancery release request v1

A machine asks you, a custodian, to release your share of the opening key to it.
With enough shares it can read everything the state keeps abroad.
Before you release: call the people who ask, on a number that you had before
this request came, and compare the fingerprint of this document with them.
If anything below is not as you were told, release nothing.

`

// Request asks custodians to release their shares to one node for one purpose.
// Its text is what a custodian reads; its hash is what a release is bound to.
type Request struct {
	State      [16]byte
	StateName  string // for people, at most 128 bytes
	Generation uint32 // of the opening key
	Node       string // name of the machine that asks; a name as in the charter
	Purpose    string // one line for people, at most 512 bytes
	Created    time.Time
	Expires    time.Time // at most MaxRequestLife after Created
	Nonce      [16]byte
	// Recipient is a post-quantum age public key that the node made for this
	// request alone. Its private half never leaves the node's memory.
	Recipient string
}

// NewRequest makes a request with a fresh nonce from rand and a fresh one-time
// key pair. The private key, in the form of [GenerateIdentity], is for
// [OpenRelease] and is forgotten after it. Times are cut to whole seconds.
func NewRequest(rand io.Reader, state [16]byte, stateName string, generation uint32, node, purpose string, created time.Time, life time.Duration) (r *Request, identity string, err error) {
	r = &Request{
		State: state, StateName: stateName, Generation: generation, Node: node, Purpose: purpose,
		Created: created.UTC().Truncate(time.Second), Expires: created.Add(life).UTC().Truncate(time.Second),
	}
	if _, err := io.ReadFull(rand, r.Nonce[:]); err != nil {
		return nil, "", fmt.Errorf("request: randomness: %w", err)
	}
	if !validName(node) {
		return nil, "", fmt.Errorf("request: %w: node %q is not a name", ErrMalformed, node)
	}
	identity, r.Recipient, err = GenerateIdentity(node)
	if err != nil {
		return nil, "", err
	}
	if err := r.validate(); err != nil {
		return nil, "", err
	}
	return r, identity, nil
}

// Marshal writes the request's canonical text.
func (r *Request) Marshal() []byte {
	return fmt.Appendf([]byte(requestIntro),
		"state: %x\nstate name: %s\ngeneration: %d\nnode: %s\npurpose: %s\ncreated: %s\nexpires: %s\nnonce: %x\nrecipient: %s\n",
		r.State[:], r.StateName, r.Generation, r.Node, r.Purpose,
		r.Created.UTC().Format(time.RFC3339), r.Expires.UTC().Format(time.RFC3339), r.Nonce[:], r.Recipient)
}

// ParseRequest reads what [Request.Marshal] writes and nothing else. Whether
// its time has come or is over is not checked here.
func ParseRequest(text []byte) (*Request, error) {
	if len(text) > MaxRequestSize {
		return nil, fmt.Errorf("request: %w: %d bytes, at most %d", ErrMalformed, len(text), MaxRequestSize)
	}
	var r Request
	l := lines{kind: "request", rest: string(text)}
	for line := range strings.Lines(requestIntro) {
		l.exact(strings.TrimSuffix(line, "\n"))
	}
	l.hex("state", r.State[:])
	r.StateName = l.value("state name")
	r.Generation = uint32(l.number("generation", 1<<32-1))
	r.Node = l.value("node")
	r.Purpose = l.value("purpose")
	r.Created = l.time("created")
	r.Expires = l.time("expires")
	l.hex("nonce", r.Nonce[:])
	r.Recipient = l.value("recipient")
	l.end()
	if l.err != nil {
		return nil, l.err
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	return &r, nil
}

func (l *lines) time(key string) time.Time {
	v := l.value(key)
	if l.err != nil {
		return time.Time{}
	}
	t, err := time.Parse("2006-01-02T15:04:05Z", v)
	if err != nil || t.Format(time.RFC3339) != v {
		l.fail(key + ": want a time like 2026-05-12T09:00:00Z")
	}
	return t
}

func (r *Request) validate() error {
	bad := func(why string) error { return fmt.Errorf("request: %w: %s", ErrMalformed, why) }
	switch {
	case r.State == [16]byte{}:
		return bad("state is zero")
	case !validText(r.StateName, 128):
		return bad("state name: want 1 to 128 bytes of visible text")
	case r.Generation < 1:
		return bad("generation counts from 1")
	case !validName(r.Node):
		return bad("node: not a name")
	case !validText(r.Purpose, 512):
		return bad("purpose: want one line of 1 to 512 bytes of visible text")
	case !r.Expires.After(r.Created) || r.Expires.Sub(r.Created) > MaxRequestLife:
		return bad(fmt.Sprintf("expires: want a time after created and at most %d hours later", MaxRequestLife/time.Hour))
	case r.Created.Year() < 2000 || r.Expires.Year() > 9999:
		return bad("created: a year outside 2000 to 9999")
	case r.Nonce == [16]byte{}:
		return bad("nonce is zero")
	}
	if err := CheckRecipient(r.Recipient); err != nil {
		return fmt.Errorf("request: %w: %w", ErrMalformed, err)
	}
	return nil
}

// Hash returns the SHA-256 of the canonical text.
func (r *Request) Hash() [32]byte { return sha256.Sum256(r.Marshal()) }

// Fingerprint returns the first 16 bytes of the hash as eight groups of four
// hexadecimal digits, to be read over the phone.
func (r *Request) Fingerprint() string {
	h := r.Hash()
	digits := hex.EncodeToString(h[:16])
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = digits[4*i : 4*i+4]
	}
	return strings.Join(groups, " ")
}

// CheckTime returns [ErrExpired] unless now is between creation and expiry. A
// clock may be ten minutes behind the creation.
func (r *Request) CheckTime(now time.Time) error {
	switch {
	case !now.Before(r.Expires):
		return fmt.Errorf("request: %w: it expired at %s", ErrExpired, r.Expires.UTC().Format(time.RFC3339))
	case now.Add(clockSlack).Before(r.Created):
		return fmt.Errorf("request: %w: it says it was made at %s, which is still to come", ErrExpired, r.Created.UTC().Format(time.RFC3339))
	}
	return nil
}

// Released is a share that its custodian released for one request.
type Released struct {
	Share       Share
	RequestHash [32]byte // see [Request.Hash]
}

// SealRelease seals a share to the one-time key of request, bound to the
// request's hash, and returns an armored age file. It is [ErrForeign] where the
// request is for another state or generation than the share, and [ErrExpired]
// where the request is not valid at now.
//
//	inside:  chancery release v1
//	         request: 64 hexadecimal digits
//	         the share's text
func SealRelease(share Share, request *Request, now time.Time) ([]byte, error) {
	if err := request.validate(); err != nil {
		return nil, err
	}
	if err := request.CheckTime(now); err != nil {
		return nil, err
	}
	if err := matches(&share, request); err != nil {
		return nil, err
	}
	text := share.Marshal()
	defer clear(text)
	if _, err := ParseShare(text); err != nil {
		return nil, err
	}
	hash := request.Hash()
	inside := fmt.Appendf(make([]byte, 0, 1024), "%s\nrequest: %x\n%s", releaseLabel, hash[:], text)
	defer clear(inside)
	return SealTo(request.Recipient, inside)
}

// OpenRelease opens what [SealRelease] made, with the one-time private key. It
// is [ErrOtherRequest] where the custodian released for another request,
// [ErrForeign] for a share of another state or generation, and [ErrExpired]
// where request is not valid at now. Whether the share is good is for [Check]
// or [Combine] to say.
func OpenRelease(identity, file []byte, request *Request, now time.Time) (Released, error) {
	if err := request.CheckTime(now); err != nil {
		return Released{}, err
	}
	text, err := OpenWith(identity, file)
	if err != nil {
		return Released{}, fmt.Errorf("release: %w", err)
	}
	defer clear(text)
	r, err := parseRelease(text)
	if err != nil {
		return Released{}, err
	}
	if r.RequestHash != request.Hash() {
		return Released{}, fmt.Errorf("release: share %d of custodian %s: %w", r.Share.X, r.Share.Holder, ErrOtherRequest)
	}
	if err := matches(&r.Share, request); err != nil {
		return Released{}, err
	}
	return r, nil
}

func parseRelease(text []byte) (Released, error) {
	var r Released
	l := lines{kind: "release", rest: string(text)}
	l.exact(releaseLabel)
	l.hex("request", r.RequestHash[:])
	if l.err != nil {
		return Released{}, l.err
	}
	share, err := ParseShare([]byte(l.rest))
	if err != nil {
		return Released{}, fmt.Errorf("release: %w", err)
	}
	r.Share = share
	return r, nil
}

func matches(s *Share, r *Request) error {
	if s.State != r.State {
		return fmt.Errorf("release: share %d of custodian %s: %w: state %x, the request is for %x",
			s.X, printName(s.Holder), ErrForeign, s.State, r.State)
	}
	if s.Generation != r.Generation {
		return fmt.Errorf("release: share %d of custodian %s: %w: generation %d, the request is for %d",
			s.X, printName(s.Holder), ErrForeign, s.Generation, r.Generation)
	}
	return nil
}

// validText accepts 1 to limit bytes of visible text in one line, without
// quotes and backslashes and without a space at either end.
func validText(s string, limit int) bool {
	if len(s) < 1 || len(s) > limit || !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '"' || r == '\\' }) < 0
}
