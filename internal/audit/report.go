package audit

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"time"
	"unicode/utf8"

	"chancery.dev/chancery/internal/ledger"
)

// Caps of a report. It fits a record with room to spare.
const (
	MaxFindings = 1000
	MaxReport   = 512 << 10
	maxWhy      = 256
)

// Report is an audit as its auditor signed it, kept as a record of kind
// ledger.Audit:
//
//	CBOR array(19) [ version 1, state bytes(16), embassy bytes(16), challenge bytes, started, took,
//	                 outcome, why text, checked, objects, wrong, missing, array of findings,
//	                 transcript bytes(32), answer's signature bytes(64), exhibit,
//	                 salt bytes(32), auditor bytes(32), signature bytes(64) ]
//
// Salt makes the ledger's hash of a report tell
// nothing to someone from whom the report is withheld.
type Report struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	State      [16]byte
	Embassy    [16]byte // that was audited
	Challenge  []byte   // canonical; empty when nothing could be asked
	Started    int64    // the auditor's clock, ns since 1970 UTC
	Took       int64    // ns
	Outcome    Outcome
	Why        string // in words, where not OK; at most 256 bytes
	Checked    uint64 // as in Result
	Objects    uint64 // without those that were removed
	Wrong      uint64 // how many findings there were
	Missing    uint64
	Findings   []Finding // the first MaxFindings: the wrong ones, then the missing
	Transcript [32]byte
	Answer     [64]byte // the embassy's signature; zero when the answer was not whole
	First      Exhibit  // of the first finding; empty when there is none or no signature
	Salt       [32]byte
	Auditor    [32]byte // Ed25519 public key
	Signature  [64]byte // the auditor's, over the label and all before it
}

// Run is one audit as the auditor saw it, from which a report is made.
type Run struct {
	State, Embassy [16]byte
	Challenge      *Challenge // nil when nothing could be asked
	Started        time.Time
	Took           time.Duration
	Outcome        Outcome
	Why            string  // cut to what a report holds
	Result         *Result // nil when nothing was answered
}

// NewReport writes down an audit. salt is 32 random bytes. It is to be signed.
func NewReport(run *Run, salt [32]byte) (*Report, error) {
	r := &Report{
		Version: version, State: run.State, Embassy: run.Embassy, Started: run.Started.UnixNano(),
		Took: max(0, run.Took.Nanoseconds()), Outcome: run.Outcome, Why: cut(run.Why), Salt: salt,
	}
	if run.Challenge != nil {
		var err error
		if r.Challenge, err = run.Challenge.Bytes(); err != nil {
			return nil, err
		}
	}
	if res := run.Result; res != nil {
		r.Checked, r.Objects = res.Checked, res.Objects
		r.Wrong, r.Missing = uint64(len(res.Wrong)), uint64(len(res.Missing))
		r.Findings = append(append(r.Findings, res.Wrong...), res.Missing...)
		r.Findings = r.Findings[:min(len(r.Findings), MaxFindings)]
		if res.whole {
			r.Transcript, r.Answer = res.Transcript, res.Signature
			if res.First != nil {
				r.First = *res.First
			}
		}
	}
	return r, nil
}

// cut shortens a text to maxWhy bytes of whole characters.
func cut(s string) string {
	s = string(bytes.ToValidUTF8([]byte(s), []byte("?")))
	for len(s) > maxWhy {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// Sign fills in the auditor and the signature.
func (r *Report) Sign(key ed25519.PrivateKey) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("audit: report: not an Ed25519 key: %w", ErrSignature)
	}
	r.Auditor = [32]byte(key[32:])
	message, err := r.message()
	if err != nil {
		return err
	}
	r.Signature = [64]byte(ed25519.Sign(key, message))
	return nil
}

// Verify checks the auditor's signature: ErrSignature. Whether the auditor is
// one of the state's is for the caller.
func (r *Report) Verify() error {
	message, err := r.message()
	if err != nil {
		return err
	}
	if !ed25519.Verify(r.Auditor[:], message, r.Signature[:]) {
		return fmt.Errorf("audit: report: %w", ErrSignature)
	}
	return nil
}

// message is what the auditor signs: the label and the report with a zero
// signature.
func (r *Report) message() ([]byte, error) {
	unsigned := *r
	unsigned.Signature = [64]byte{}
	b, err := encode(&unsigned)
	return append([]byte(reportLabel), b...), err
}

// Bytes is the canonical encoding.
func (r *Report) Bytes() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode(r)
}

// ParseReport reads the canonical encoding: ErrFormat or ErrUnknown. Nothing is
// proven before Verify.
func ParseReport(data []byte) (*Report, error) {
	var r Report
	if err := decode(data, MaxReport, &r); err != nil {
		return nil, fmt.Errorf("audit: report: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return &r, nil
}

func (r *Report) check() error {
	if r.Version != version {
		return fmt.Errorf("audit: report: version %d: %w", r.Version, ErrUnknown)
	}
	listed := min(MaxFindings, int(min(r.Wrong, MaxEntries)+min(r.Missing, MaxEntries)))
	ok := r.Outcome >= OK && r.Outcome <= Unknown && r.Started >= 0 && r.Took >= 0 && len(r.Why) <= maxWhy &&
		r.Wrong <= MaxEntries && r.Missing <= MaxEntries && len(r.Findings) == listed &&
		len(r.First.Frame) <= maxFrame && len(r.First.Path) <= 32*maxPath && len(r.Challenge) <= MaxChallenge
	signed := r.Answer != [64]byte{}
	switch r.Outcome {
	case OK:
		ok = ok && signed && r.Wrong == 0 && r.Missing == 0 && len(r.Challenge) > 0
	case Missing:
		ok = ok && r.Wrong == 0 && r.Missing > 0 && len(r.Challenge) > 0
	case Wrong:
		ok = ok && len(r.Challenge) > 0
	default:
		ok = ok && r.Wrong == 0 && r.Missing == 0
	}
	if len(r.First.Frame) > 0 {
		ok = ok && signed && len(r.Findings) > 0
	} else {
		ok = ok && r.First.Place == 0 && len(r.First.Path) == 0
	}
	for _, f := range r.Findings {
		ok = ok && f.What >= WrongBytes && f.What <= Unreadable
	}
	if !ok {
		return fmt.Errorf("audit: report: outcome %d with impossible fields: %w", r.Outcome, ErrFormat)
	}
	if len(r.Challenge) == 0 {
		return nil
	}
	ch, err := ParseChallenge(r.Challenge)
	if err == nil && (ch.State != r.State || ch.Embassy != r.Embassy) {
		err = fmt.Errorf("audit: report: of another embassy than was challenged: %w", ErrFormat)
	}
	return err
}

// Answered checks that the embassy signed the answer that the report speaks of:
// ErrUnsigned when it did not. The auditor's word then stands alone.
func (r *Report) Answered(embassy ed25519.PublicKey) error {
	ch, err := ParseChallenge(r.Challenge)
	if err != nil {
		return err
	}
	if _, err := ch.Opened(embassy); err != nil {
		return err
	}
	message, err := signed(ch, r.Checked, r.Transcript)
	if err != nil {
		return err
	}
	if !ed25519.Verify(embassy, message, r.Answer[:]) {
		return fmt.Errorf("audit: report: %w", ErrUnsigned)
	}
	return nil
}

// Convicts returns the loss that the embassy's own signature proves: that of the
// exhibit. It trusts nothing that the auditor says. It fails with ErrUnsigned when
// the embassy did not sign, and with ErrFormat when the exhibit shows no loss:
// then nobody is convicted.
//
// A finding of WrongEntry or WrongBytes convicts as it stands. Gone and
// Unreadable are the embassy's own word that it lost what its ledger holds.
func (r *Report) Convicts(embassy ed25519.PublicKey) (Finding, error) {
	if err := r.Answered(embassy); err != nil {
		return Finding{}, err
	}
	none := func(why string) (Finding, error) {
		return Finding{}, fmt.Errorf("audit: report: the exhibit %s: %w", why, ErrFormat)
	}
	var f frame
	if len(r.First.Frame) == 0 || decode(r.First.Frame, maxFrame, &f) != nil {
		return none("is none")
	}
	if !leads(r.First.Path, r.Checked, r.Transcript, r.First.Place, ledger.LeafHash(r.First.Frame)) {
		return none("is not in what the embassy signed")
	}
	ch, err := ParseChallenge(r.Challenge)
	if err != nil {
		return Finding{}, err
	}
	cp, err := ch.Opened(embassy)
	if err != nil {
		return Finding{}, err
	}
	todo, err := newDraws(ch, cp.Size)
	if err != nil {
		return Finding{}, err
	}
	if f.Draw >= todo.limit {
		return none("was not asked for")
	}
	x := todo.at(f.Draw)
	if f.Index != x.index {
		return none("was not asked for")
	}
	found, _, err := f.check(x, &cp, embassy)
	if err != nil {
		return Finding{}, err
	}
	if found == nil {
		return none("shows no loss")
	}
	return *found, nil
}
