// Package auditor checks an embassy's ledger from the outside: it reads every
// entry and every tile, recomputes every hash, and holds the result against the
// signed checkpoint and against each checkpoint of the same log that anybody
// else has seen. What does not fit is named, with who is to blame for it.
//
// It is written over x/mod and package ledger and shares no code with what keeps
// the log, so that a fault of the one is not a fault of the other. It opens no
// file and no connection: what it reads comes from a Source, and a source that
// stalls, lies or never ends costs no more than the context's deadline.
//
// Old data: it reads leaves and checkpoints as package ledger does; leaves of
// later kinds are reported as unknown, never guessed at. docs/spec/auditor.md
// says what is checked, in which order, and what each finding means.
package auditor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// Source is a log's files, as C2SP tlog-tiles names them ("tile/0/000",
// "tile/entries/x001/234.p/56"). Both methods return an error that is
// fs.ErrNotExist where there is no such file and ErrUnusable where what is there
// cannot be one; any other error means that the source could not be read now. In
// place of a partial file the whole one may be returned.
// Tile is called by several goroutines at once. The bytes are not kept.
type Source interface {
	Checkpoint() ([]byte, error)
	Tile(path string) ([]byte, error)
}

// Errors of a report's verdict and of Follow and Show.
var (
	// ErrUnusable: an answer that cannot be such a file, as one that is too long.
	ErrUnusable = errors.New("longer than such a file can be, or none at all")
	// ErrDamaged: tiles or entries are not what the log's operator signed.
	ErrDamaged = errors.New("the ledger's files are not what its checkpoint signs")
	// ErrIncomplete: nothing is proven wrong, but not everything was checked or cosigned.
	ErrIncomplete = errors.New("the ledger is not wholly checked, or not cosigned")
)

// Kind tells what is wrong. Its words are part of the JSON answers.
type Kind string

// The kinds of findings.
const (
	BadTile       Kind = "bad tile"            // hashes that are not those of what lies below, or no such file
	BadEntry      Kind = "bad entry"           // an entry that is not the signed one, or not well formed
	Fork          Kind = "fork"                // two signed checkpoints that no history can join
	Shorter       Kind = "shorter"             // the log shows fewer entries than it has signed
	Unsigned      Kind = "unsigned"            // a checkpoint or cosignature that does not verify
	NotCosigned   Kind = "not cosigned"        // too few witnesses, or too long ago
	UnknownLeaf   Kind = "unknown leaf"        // an act of a later version
	CharterBroken Kind = "charter not chained" // charters taken out of order, or not those of this state
	BadRemoval    Kind = "removed unordered"   // something was removed that no order in the log lets go
)

// Blame says whose fault a finding is: Nobody, Operator, or a witness.
type Blame string

// Nobody: it cannot be told yet, as when a copy was damaged on its way. Operator:
// whoever keeps the log. A witness is Witness(name).
const (
	Nobody   Blame = "nobody yet"
	Operator Blame = "log"
)

// Witness blames the witness of that name.
func Witness(name string) Blame { return Blame("witness " + name) }

// Finding is one thing that is wrong. Proven tells that signatures of the one
// who is blamed prove it to anybody: else it is this auditor's word.
type Finding struct {
	Kind   Kind
	Path   string // the file, as in tlog-tiles; "checkpoint"; or empty
	Index  uint64 // the first entry that it concerns
	Why    string
	Blame  Blame
	Proven bool
}

// Known is a checkpoint of the log that somebody else has seen: its whole note,
// and from whom it comes.
type Known struct {
	From string
	Raw  []byte
}

// Held tells how a known checkpoint fits the log: Joined where the log continues
// it. Neither joined nor a finding means that it could not be told.
type Held struct {
	From   string
	Size   uint64
	Joined bool
}

// Options say against what a log is held.
type Options struct {
	Policy   *ledger.Policy     // nil: nobody need have cosigned
	Cosigned []byte             // the newest cosigned checkpoint; nil: the checkpoint itself is looked at
	Known    []Known            // checkpoints seen elsewhere
	Charters []*charter.Charter // charters of the state that are known to be its own
	// Direct says that the source is the log's operator, over a connection that
	// proves its key: then the operator answers for what it hands out. Files may
	// have been damaged by anybody.
	Direct bool
	// Fresh is how old the newest cosignatures may be at the moment Now; 0: as old
	// as they like.
	Now   time.Time
	Fresh time.Duration

	Progress func(done, size uint64)               // called now and then
	Act      func(index uint64, leaf *ledger.Leaf) // called for each readable leaf in order, before anything is proven
}

// Report is what was found. It is complete, in both senses, when Verdict is nil.
type Report struct {
	Checkpoint ledger.Checkpoint // what the source showed; zero when it was unusable
	Entries    uint64            // read and hashed
	Tiles      uint64            // tiles of hashes that were compared
	Complete   bool              // every entry and tile up to the checkpoint was read
	Why        string            // why it is not complete
	Root       [32]byte          // of the entries that were read
	Cosigned   ledger.Verdict    // of the newest cosigned checkpoint
	Acts       map[string]uint64 // entries by what they say: ActName
	Held       []Held
	Findings   []Finding // by the first entry that they concern; at most MaxFindings
	More       int       // findings beyond
}

// MaxFindings caps the findings of a report.
const MaxFindings = 1000

// Verdict sums the report up: nil when everything holds; ledger.ErrForked and
// ledger.ErrShorter before ErrDamaged before ErrIncomplete.
func (r *Report) Verdict() error {
	worst := map[error]bool{}
	for _, f := range r.Findings {
		switch f.Kind {
		case Fork:
			worst[ledger.ErrForked] = true
		case Shorter:
			worst[ledger.ErrShorter] = true
		case NotCosigned, UnknownLeaf:
			worst[ErrIncomplete] = true
		default:
			worst[ErrDamaged] = true
		}
	}
	if !r.Complete {
		worst[ErrIncomplete] = true
	}
	for _, err := range []error{ledger.ErrForked, ledger.ErrShorter, ErrDamaged, ErrIncomplete} {
		if worst[err] {
			return err
		}
	}
	return nil
}

// audit is one Verify under way.
type audit struct {
	reader
	log      ledger.Log
	verifier note.Verifier
	opts     Options
	report   *Report
	cp       ledger.Checkpoint
	known    []*seen     // by size
	passed   int         // of known, those whose size the tree has reached
	tree     ledger.Tree // of the entries
	evidence
	charters chain
	holdings holdings
}

// Verify reads the whole log and reports. The error is the caller's fault: a key
// or a policy that is none. Everything else, the end of ctx too, is in the report.
func Verify(ctx context.Context, src Source, log ledger.Log, opts Options) (*Report, error) {
	v, err := ledger.NewVerifier(log.Origin, log.Key)
	if err != nil {
		return nil, err
	}
	if opts.Policy != nil {
		if err := opts.Policy.Check(); err != nil {
			return nil, fmt.Errorf("auditor: %w", err)
		}
	}
	state, err := stateOf(log.Origin)
	if err != nil {
		return nil, err
	}
	// What still reads when this returns is told to stop.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &audit{
		reader: reader{ctx: ctx, src: src}, log: log, verifier: v, opts: opts,
		report:   &Report{Acts: map[string]uint64{}},
		charters: chain{known: opts.Charters, state: state}, holdings: newHoldings(),
	}
	if err := a.run(); err != nil {
		a.report.Why = err.Error()
	}
	a.holdPairs()
	a.report.sort()
	return a.report, nil
}

func (a *audit) run() error {
	// Those first, which others showed: a log that grows meanwhile is never shorter than they are.
	a.takeKnown()
	if err := a.takeCheckpoint(); err != nil {
		return err
	}
	a.judgeCosigned()
	if err := a.readEntries(); err != nil {
		a.unresolved()
		return err
	}
	if err := a.readUpper(); err != nil {
		a.unresolved()
		return err
	}
	a.report.Complete = true
	a.report.Root = a.tree.Root()
	if err := a.resolve(); err != nil {
		a.report.Complete = false
		return err
	}
	a.holdKnown()
	return nil
}

// stateOf reads the state's id in the origin of an embassy's log.
func stateOf(origin string) (id [16]byte, err error) {
	rest, ok := strings.CutPrefix(origin, "chancery.dev/ledger/")
	text, _, ok2 := strings.Cut(rest, "/")
	raw, err := hex.DecodeString(text)
	if !ok || !ok2 || err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("auditor: %q is not the origin of an embassy's ledger: %w", origin, ledger.ErrFormat)
	}
	return [16]byte(raw), nil
}

// find adds a finding about the log's files.
func (a *audit) find(kind Kind, path string, index uint64, format string, args ...any) {
	blame := Nobody
	if a.opts.Direct {
		blame = Operator
	}
	a.report.add(Finding{Kind: kind, Path: path, Index: index, Why: fmt.Sprintf(format, args...), Blame: blame})
}

func (r *Report) add(f Finding) {
	if len(r.Findings) == MaxFindings {
		r.More++
		return
	}
	r.Findings = append(r.Findings, f)
}

// sort puts the findings in the order of the entries that they concern, those of
// checkpoints first.
func (r *Report) sort() {
	rank := func(f *Finding) int {
		switch f.Kind {
		case Fork, Shorter, Unsigned:
			return 0
		case BadTile, BadEntry:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if d := rank(&a) - rank(&b); d != 0 {
			return d
		}
		switch {
		case a.Index < b.Index:
			return -1
		case a.Index > b.Index:
			return 1
		}
		return 0
	})
}
