package witness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/ledger"
)

// Outcome says whether what a log shows may be taken for its newest state.
type Outcome uint8

// The outcomes, from best to worst; where several hold, the worst counts.
const (
	Fresh      Outcome = iota // continues all that anybody saw, and was cosigned lately
	Uncosigned                // too few witnesses vouch for it: how old it is, nobody can say
	Stale                     // the newest cosigned checkpoint is too old
	Doubtful                  // a witness says, without the log's signature, that it saw more; or a proof could not be had
	Shorter                   // the log signed a larger tree for somebody
	Forked                    // the log signed two trees that no history joins
)

// String is the outcome's word in answers.
func (o Outcome) String() string {
	return [...]string{"fresh", "uncosigned", "stale", "doubtful", "shorter", "forked"}[o]
}

// Sighting is how far somebody saw a log: the newest checkpoint that they hold, signed by the log, or, from a witness
// that tells no more, its size alone.
type Sighting struct {
	By   string
	Note []byte
	Size uint64 // where Note is nil
}

// Freshness is what is to be thought of a log on a machine that remembers nothing of it.
type Freshness struct {
	Outcome Outcome
	Size    uint64    // leaves that the log shows
	Seen    uint64    // the most that anybody saw
	By      string    // who that was
	Time    time.Time // of the newest cosigned checkpoint; zero where there is none
	Groups  []string  // that vouch for it
	Why     string    // for people; empty when fresh
}

// Newest is what a log shows now.
type Newest struct {
	Checkpoint ledger.Checkpoint
	Cosigned   []byte // the newest checkpoint with enough cosignatures; nil where there is none
	// Prove returns the consistency proof between two of the log's checkpoints, the smaller first.
	Prove func(ctx context.Context, older, newer ledger.Checkpoint) ([][32]byte, error)
}

// Compare holds what a log shows against what others saw of it, and against the clock: a cosigned checkpoint may be
// at most maxAge old. It needs no memory of its own. What it cannot tell, it does not take for fresh.
func Compare(ctx context.Context, log ledger.Log, policy *ledger.Policy, shown Newest, seen []Sighting, now time.Time, maxAge time.Duration) Freshness {
	f := Freshness{Size: shown.Checkpoint.Size}
	f.judgeAge(log, policy, &shown, now, maxAge)
	v, err := ledger.NewVerifier(log.Origin, log.Key)
	if err != nil {
		f.worsen(Doubtful, "%v", err)
		return f
	}
	for _, s := range seen {
		f.hold(ctx, s, v, &shown)
	}
	return f
}

// worsen keeps the worst outcome with its reason.
func (f *Freshness) worsen(o Outcome, format string, args ...any) {
	if o > f.Outcome {
		f.Outcome, f.Why = o, fmt.Sprintf(format, args...)
	}
}

// judgeAge reads the time off the newest cosigned checkpoint, which must lie in what is shown.
func (f *Freshness) judgeAge(log ledger.Log, policy *ledger.Policy, shown *Newest, now time.Time, maxAge time.Duration) {
	if shown.Cosigned == nil {
		f.worsen(Uncosigned, "its ledger was never cosigned by enough witnesses")
		return
	}
	verdict, err := policy.Judge(shown.Cosigned, log)
	if err != nil {
		f.worsen(Uncosigned, "the cosigned checkpoint that it shows does not hold: %v", err)
		return
	}
	if verdict.Checkpoint.Size > shown.Checkpoint.Size { // asked for first, and overtaken since
		shown.Checkpoint = verdict.Checkpoint
		f.Size = verdict.Checkpoint.Size
	}
	f.Groups = verdict.Groups
	if !verdict.Enough {
		f.worsen(Uncosigned, "only %d of the %d witnessing states that are needed vouch for it", len(verdict.Groups), policy.Need)
		return
	}
	f.Time = verdict.Time
	if f.Time.IsZero() {
		return // nobody's cosignature is needed
	}
	if age := now.Sub(f.Time); age > maxAge {
		f.worsen(Stale, "its newest cosigned checkpoint is from %s, %s ago; the charter allows %s",
			f.Time.UTC().Format(time.RFC3339), age.Round(time.Minute), maxAge)
	}
}

// hold compares one sighting with what is shown.
func (f *Freshness) hold(ctx context.Context, s Sighting, v note.Verifier, shown *Newest) {
	if s.Note == nil {
		if s.Size > f.Seen {
			f.Seen, f.By = s.Size, s.By
		}
		if s.Size > f.Size {
			f.worsen(Doubtful, "%s says that it saw %d entries, and %d are shown", s.By, s.Size, f.Size)
		}
		return
	}
	cp, err := ledger.ParseCheckpoint(s.Note, v)
	if err != nil {
		return // not signed by the log: whoever tells it proves nothing against the log
	}
	if cp.Size > f.Seen {
		f.Seen, f.By = cp.Size, s.By
	}
	if cp.Size > f.Size {
		f.worsen(Shorter, "%s saw %d entries, signed by the embassy, and it shows %d", s.By, cp.Size, f.Size)
		return
	}
	var proof [][32]byte
	if cp.Size > 0 && cp.Size < f.Size {
		proof, err = shown.Prove(ctx, cp, shown.Checkpoint)
		if errors.Is(err, ledger.ErrForked) {
			f.worsen(Forked, "what it shows does not continue the %d entries that %s saw, signed by the embassy", cp.Size, s.By)
			return
		}
		if err != nil {
			f.worsen(Doubtful, "the proof that it continues what %s saw cannot be had: %v", s.By, err)
			return
		}
	}
	switch err := ledger.VerifyConsistency(cp, shown.Checkpoint, proof); {
	case errors.Is(err, ledger.ErrForked):
		f.worsen(Forked, "what it shows does not continue the %d entries that %s saw, signed by the embassy", cp.Size, s.By)
	case err != nil:
		f.worsen(Doubtful, "what %s saw cannot be compared: %v", s.By, err)
	}
}
