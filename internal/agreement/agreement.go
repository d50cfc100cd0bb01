package agreement

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/charter"
)

const (
	// Version is the version of the layout that this program reads and writes.
	Version = 1
	// MaxSize is the most bytes an agreement may have.
	MaxSize = 256 << 10
	// Open is the text that stands in a draft where the parties have not agreed yet. A document that still holds it can
	// be read by [ParseDraft] alone.
	Open = "TO BE AGREED"
)

// ErrInvalid is returned for an agreement that breaks a rule of its own.
var ErrInvalid = errors.New("invalid agreement")

// Agreement is one agreement about one embassy. Its fields follow the document from top to bottom, and the tags say
// what each may hold (see rules.go); docs/spec/agreement.md says what each means.
//
// An Agreement from [Parse] or [New] carries the exact bytes it was read from. Changing its fields does not change
// those bytes: take [Agreement.Next], change that, and make it an agreement with [New].
type Agreement struct {
	Version int `yaml:"version"`
	// Number counts the agreement and its amendments: 1, 2, 3 …
	Number uint64 `yaml:"number"`
	// Previous is the hash of the one before, as charter.EncodeDigest writes it, and empty in number 1.
	Previous string `yaml:"previous"`

	State   State   `yaml:"state"`
	Host    Host    `yaml:"host"`
	Embassy Embassy `yaml:"embassy"`

	InForce       Term          `yaml:"in_force"`
	Premises      Premises      `yaml:"premises"`
	Inviolability Inviolability `yaml:"inviolability"`
	Entry         Entry         `yaml:"entry"`
	Access        Access        `yaml:"access"`
	Law           Law           `yaml:"law"`
	Duties        Duties        `yaml:"duties"`
	Notices       []Notice      `yaml:"notices" is:"up to 32"`
	Process       Process       `yaml:"process"`
	Cost          Cost          `yaml:"cost"`
	Limits        Limits        `yaml:"limits"`
	Retention     Retention     `yaml:"retention"`
	Suspension    Suspension    `yaml:"suspension"`
	Review        Review        `yaml:"review"`
	Termination   Termination   `yaml:"termination"`
	Disputes      Disputes      `yaml:"disputes"`

	doc []byte // exact bytes; nil for a value that was put together by hand
}

// State is the sending state, as its charter says.
type State struct {
	ID   charter.StateID `yaml:"id"`
	Name string          `yaml:"name" is:"text 128"`
	Code string          `yaml:"code" is:"code"`
}

// Host is the receiving state, and who signs for it.
type Host struct {
	Name string `yaml:"name" is:"text 128"`
	Code string `yaml:"code" is:"code"`
	// Need is how many of Signatories must sign.
	Need        int         `yaml:"need"`
	Signatories []Signatory `yaml:"signatories" is:"up to 64"`
}

// Signatory is a person who may sign for the host.
type Signatory struct {
	Name   string `yaml:"name" is:"name"`
	Office string `yaml:"office" is:"text 128"`
	// Key is an SSH public key of the form of a charter's: type and base64, one space between, no comment.
	Key string `yaml:"key" is:"key"`
}

// Embassy is the one embassy that the agreement is about.
type Embassy struct {
	Name    string `yaml:"name" is:"name"`
	Country string `yaml:"country" is:"code"`
	// Key is the fingerprint of the embassy's key, as charter.Fingerprint writes it.
	Key string `yaml:"key" is:"fingerprint"`
}

// Term says when the agreement is in force. Both dates are days in UTC and belong to it.
type Term struct {
	From    charter.Date `yaml:"from"`
	Until   charter.Date `yaml:"until" is:"or none"` // empty: until it is amended
	Renewal string       `yaml:"renewal" is:"one of none amendment"`
	Notice  charter.Span `yaml:"renewal_notice"`
}

// Premises is the place, and where exactly it ends.
type Premises struct {
	Place    string   `yaml:"place" is:"text 256"`
	Boundary string   `yaml:"boundary" is:"one of building room rack partition"`
	Extent   string   `yaml:"extent" is:"text 1024"`
	Marks    string   `yaml:"marks" is:"text 1024"`
	Shared   string   `yaml:"shared" is:"yesno"`
	Others   []string `yaml:"others" is:"texts 32"`
}

// Inviolability says what may not be touched, and on what ground.
type Inviolability struct {
	Covers []string `yaml:"covers" is:"some of premises equipment archives data licences transit bag"`
	Exempt []string `yaml:"exempt_from" is:"some of search requisition attachment execution"`
	Basis  string   `yaml:"basis" is:"text 1024"`
}

// Entry says who may let people in, and when nobody need be asked.
type Entry struct {
	Consent    string      `yaml:"consent" is:"name"` // a role of the charter
	Exceptions []Exception `yaml:"exceptions" is:"up to 16"`
	Judiciary  string      `yaml:"judiciary" is:"yesno"` // whether the state's own is admitted
	Refused    string      `yaml:"refused" is:"text 1024"`
}

// Exception is an emergency in which people enter unasked, and report.
type Exception struct {
	Case   string       `yaml:"case" is:"name"`
	Report charter.Span `yaml:"report" is:"above 0"`
}

// Access is how the state's own people come in.
type Access struct {
	Roles     []string     `yaml:"roles" is:"names 16"`
	Clearance string       `yaml:"clearance" is:"text 256"`
	Notice    charter.Span `yaml:"notice"`
	Escort    string       `yaml:"escort" is:"one of none host state"`
}

// Law says which law applies to what, and whose courts judge.
type Law struct {
	Applicable string `yaml:"applicable" is:"text 1024"`
	Data       string `yaml:"data" is:"text 1024"`
	Courts     string `yaml:"courts" is:"text 1024"`
}

// Duties is what the host owes to the premises.
type Duties struct {
	Power       string       `yaml:"power" is:"text 1024"`
	Cooling     string       `yaml:"cooling" is:"text 1024"`
	Links       int          `yaml:"links"`
	Independent int          `yaml:"links_independent"`
	LinksAre    string       `yaml:"links_are" is:"text 1024"`
	Tier        string       `yaml:"building_tier" is:"text 128"`
	UptimePPM   int          `yaml:"uptime_ppm"` // millionths of the time: 999950 is 99.995 %
	UptimeOver  charter.Span `yaml:"uptime_over" is:"above 0"`
	MeasuredBy  []string     `yaml:"measured_by" is:"some of embassies home host auditors"`
	NotCounted  []string     `yaml:"not_counted" is:"any of maintenance force-majeure state"`
	Maintenance charter.Span `yaml:"maintenance_notice"`
	Windows     charter.Span `yaml:"maintenance_most"` // in one period of UptimeOver
}

// Notice is what one party must tell the other, and by when.
type Notice struct {
	Kind   string       `yaml:"kind" is:"name"`
	By     string       `yaml:"by" is:"one of state host both"`
	When   string       `yaml:"when" is:"one of before after"`
	Within charter.Span `yaml:"within" is:"above 0"` // at the latest so long after, or at least so long before
}

// Process is what the host does when a court or an authority wants something of the embassy.
type Process struct {
	Refusal string       `yaml:"refusal" is:"text 2048"`
	Notice  charter.Span `yaml:"notice" is:"above 0"`
}

// Cost is how the parties share it.
type Cost struct {
	Basis    string `yaml:"basis" is:"one of use fixed"`
	Currency string `yaml:"currency" is:"currency"`
	// PricePerTBMonth is in hundredths (or the smallest unit) of the currency for 10^12 bytes kept for 30 days.
	PricePerTBMonth uint64 `yaml:"price_per_tb_month"`
	FixedPerPeriod  uint64 `yaml:"fixed_per_period"`
	Period          string `yaml:"period" is:"one of month quarter year"`
}

// Limits is what the embassy grants the state. Both are enforced.
type Limits struct {
	QuotaBytes        uint64 `yaml:"quota_bytes"`
	RequestsPerSecond uint64 `yaml:"requests_per_second"`
}

// Retention says how long nobody can have anything deleted.
type Retention struct {
	Minimum charter.Span `yaml:"minimum"`
	Cooling charter.Span `yaml:"cooling_off"`
	// Lowers is "yes" exactly where an amendment has a lower minimum or a shorter cooling-off than the one before.
	Lowers string `yaml:"lowers" is:"yesno"`
	Law    string `yaml:"law" is:"text 1024"`
}

// Suspension is how a representative loses access.
type Suspension struct {
	By     string       `yaml:"by" is:"one of state host both"`
	Notice charter.Span `yaml:"notice"`
	Effect string       `yaml:"effect" is:"text 1024"`
}

// Review says when the parties look at it again.
type Review struct {
	Every charter.Span `yaml:"every" is:"above 0"`
	Next  charter.Date `yaml:"next"`
}

// Termination is how it ends, and what happens to what is stored.
type Termination struct {
	Notice     charter.Span `yaml:"notice"`
	Return     charter.Span `yaml:"return"`
	Protection string       `yaml:"protection" is:"text 1024"`
	Custodian  Custody      `yaml:"custodian"`
	Erasure    string       `yaml:"erasure" is:"text 1024"`
}

// Custody names the third state that may take the archives into its care. Both are empty where none is named.
type Custody struct {
	Name string `yaml:"name" is:"text or none 128"`
	Code string `yaml:"code" is:"code or none"`
}

// Disputes is how the parties settle them.
type Disputes struct {
	Manner string `yaml:"manner" is:"text 1024"`
	Forum  string `yaml:"forum" is:"text 1024"`
}

// New writes the document of a and parses it again, so that what it returns is exactly what others will read. a itself
// is not kept.
func New(a Agreement) (*Agreement, error) {
	doc, err := a.Marshal()
	if err != nil {
		return nil, err
	}
	return Parse(doc)
}

// Bytes returns a copy of the exact document, or nil for an Agreement that was put together by hand.
func (a *Agreement) Bytes() []byte { return bytes.Clone(a.doc) }

// Hash returns the SHA-256 of the exact document: the agreement's identity.
func (a *Agreement) Hash() [32]byte { return sha256.Sum256(a.doc) }

// Next returns a copy of a to be changed into its amendment: Number is one higher, Previous is the hash of a, nothing is
// lowered yet, and there is no document.
func (a *Agreement) Next() Agreement {
	n := *a
	n.Number++
	n.Previous = charter.EncodeDigest(a.Hash())
	n.Retention.Lowers = "no"
	n.Host.Signatories = slices.Clone(a.Host.Signatories)
	n.Premises.Others = slices.Clone(a.Premises.Others)
	n.Inviolability.Covers = slices.Clone(a.Inviolability.Covers)
	n.Inviolability.Exempt = slices.Clone(a.Inviolability.Exempt)
	n.Entry.Exceptions = slices.Clone(a.Entry.Exceptions)
	n.Access.Roles = slices.Clone(a.Access.Roles)
	n.Duties.MeasuredBy = slices.Clone(a.Duties.MeasuredBy)
	n.Duties.NotCounted = slices.Clone(a.Duties.NotCounted)
	n.Notices = slices.Clone(a.Notices)
	n.doc = nil
	return n
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("agreement: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
