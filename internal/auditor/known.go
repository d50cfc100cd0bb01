package auditor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// seen is a checkpoint that is held against the tree.
type seen struct {
	from string // empty: the log itself
	cp   ledger.Checkpoint
	root [32]byte // of the entries, at its size
	met  bool     // the entries reached its size
	told bool     // reported as of another history
}

// cosigned is the newest cosigned checkpoint, as a file and as a source.
const cosigned = "cosigned"

// reason is an error without the package that made it.
func reason(err error) string { return strings.TrimPrefix(err.Error(), "ledger: ") }

// where says who shows it.
func (s *seen) where() string {
	if s.from == "" {
		return "that the log shows"
	}
	return "seen by " + s.from
}

// takeKnown reads the checkpoints that others have seen, the cosigned one among
// them, in the order of their sizes.
func (a *audit) takeKnown() {
	list := a.opts.Known
	if a.opts.Cosigned != nil {
		list = append(slices.Clone(list), Known{From: cosigned, Raw: a.opts.Cosigned})
	}
	for _, k := range list {
		cp, err := ledger.ParseCheckpoint(k.Raw, a.verifier)
		if err != nil {
			f := Finding{Kind: Unsigned, Path: "checkpoint", Blame: Nobody, Why: fmt.Sprintf("the one seen by %s: %s", k.From, reason(err))}
			if k.From == cosigned {
				f.Path, f.Why = cosigned, reason(err)
			}
			a.report.add(f)
			continue
		}
		a.known = append(a.known, &seen{from: k.From, cp: cp})
	}
	slices.SortStableFunc(a.known, func(x, y *seen) int {
		switch {
		case x.cp.Size < y.cp.Size:
			return -1
		case x.cp.Size > y.cp.Size:
			return 1
		}
		return 0
	})
}

// takeCheckpoint reads what the log shows now.
func (a *audit) takeCheckpoint() error {
	raw, err := a.checkpoint()
	switch {
	case err != nil && flawed(err):
		a.find(Unsigned, "checkpoint", 0, "%s", flaw(err))
		return errors.New("without a checkpoint nothing can be checked")
	case err != nil:
		return fmt.Errorf("checkpoint: %w", err)
	}
	cp, err := ledger.ParseCheckpoint(raw, a.verifier)
	if err != nil {
		a.find(Unsigned, "checkpoint", 0, "%s", reason(err))
		return errors.New("without a checkpoint nothing can be checked")
	}
	if cp.Size > maxEntries {
		// Signed, but nothing that could be read; the levels below hold no more.
		a.find(Unsigned, "checkpoint", 0, "it claims %d entries", cp.Size)
		return errors.New("without a possible checkpoint nothing can be checked")
	}
	a.cp, a.report.Checkpoint = cp, cp
	shown := []*seen{{cp: cp}}
	for _, k := range a.known {
		if k.cp.Size == cp.Size && k.cp.Root == cp.Root {
			shown = append(shown, k)
		}
	}
	for _, k := range a.known {
		switch {
		case k.cp.Size > cp.Size:
			blame := Nobody // an old copy is no fault
			if a.opts.Direct {
				blame = Operator
			}
			a.report.add(Finding{
				Kind: Shorter, Path: "checkpoint", Index: cp.Size, Blame: blame,
				Why: fmt.Sprintf("it has %d entries; the one %s has %d", cp.Size, k.where(), k.cp.Size),
			})
		case k.cp.Size == cp.Size && k.cp.Root != cp.Root:
			a.forked(k, shown...)
		}
	}
	return nil
}

// maxEntries is beyond what any log reaches, and keeps this package's arithmetic whole.
const maxEntries = 1 << 48

// judgeCosigned asks the policy about the newest cosigned checkpoint.
func (a *audit) judgeCosigned() {
	if a.opts.Policy == nil {
		return
	}
	raw := a.opts.Cosigned
	if raw == nil {
		raw = a.cp.Raw
	}
	verdict, err := a.opts.Policy.Judge(raw, a.log)
	if err != nil {
		if _, bad := ledger.ParseCheckpoint(raw, a.verifier); bad == nil { // else it is found already
			a.report.add(Finding{Kind: Unsigned, Path: cosigned, Blame: Nobody, Why: reason(err)})
		}
		return
	}
	a.report.Cosigned = verdict
	switch {
	case !verdict.Enough:
		a.report.add(Finding{
			Kind: NotCosigned, Path: cosigned, Blame: Nobody,
			Why: fmt.Sprintf("%d of the %d groups that are needed vouch for it %v", len(verdict.Groups), a.opts.Policy.Need, verdict.Groups),
		})
	case a.opts.Fresh > 0 && !verdict.Time.IsZero() && a.opts.Now.Sub(verdict.Time) > a.opts.Fresh:
		a.report.add(Finding{
			Kind: NotCosigned, Path: cosigned, Blame: Nobody,
			Why: fmt.Sprintf("the newest cosigned checkpoint is of %s, and may be %s old", verdict.Time.Format(time.RFC3339), a.opts.Fresh),
		})
	}
}

// passKnown notes the tree's root where a known checkpoint has its size.
func (a *audit) passKnown() {
	for a.passed < len(a.known) && a.known[a.passed].cp.Size == a.tree.Size() {
		k := a.known[a.passed]
		k.root, k.met = a.tree.Root(), true
		a.passed++
	}
}

// holdKnown compares them, once the entries are known to be what the log signed.
func (a *audit) holdKnown() {
	whole := a.report.Root == a.cp.Root
	side := []*seen{{cp: a.cp}} // of the history that the log shows
	var other []*seen
	for _, k := range a.known {
		h := Held{From: k.from, Size: k.cp.Size}
		switch {
		case k.cp.Size == a.cp.Size:
			h.Joined = k.cp.Root == a.cp.Root // if not, it is a finding already
		case whole && k.met:
			h.Joined = k.root == k.cp.Root
			if !h.Joined {
				other = append(other, k)
			}
		}
		if h.Joined {
			side = append(side, k)
		}
		a.report.Held = append(a.report.Held, h)
	}
	for _, k := range other {
		a.forked(k, side...)
	}
}

// holdPairs compares the known checkpoints with each other, for what the log
// itself does not show or what is damaged in it.
func (a *audit) holdPairs() {
	for i := 1; i < len(a.known); i++ {
		x, y := a.known[i-1], a.known[i]
		if x.cp.Size == y.cp.Size && x.cp.Root != y.cp.Root && !x.told && !y.told {
			a.forked(x, y)
		}
	}
}

// forked reports that no history can join a signed checkpoint with the others,
// and every witness that has cosigned both sides. Of the others, all of one
// history, only those that are not smaller say something.
func (a *audit) forked(k *seen, others ...*seen) {
	k.told = true
	a.report.add(Finding{
		Kind: Fork, Path: "checkpoint", Index: k.cp.Size, Blame: Operator, Proven: true,
		Why: fmt.Sprintf("the checkpoint of %d entries %s is not continued by that of %d %s; both are signed",
			k.cp.Size, k.where(), others[0].cp.Size, others[0].where()),
	})
	if a.opts.Policy == nil {
		return
	}
	for _, g := range a.opts.Policy.Groups {
		for _, m := range g.Members {
			i := slices.IndexFunc(others, func(o *seen) bool { return o.cp.Size >= k.cp.Size && cosignedBy(o.cp, m) })
			if i >= 0 && cosignedBy(k.cp, m) {
				a.report.add(Finding{
					Kind: Fork, Path: "checkpoint", Index: k.cp.Size, Blame: Witness(m.Name), Proven: true,
					Why: fmt.Sprintf("it has cosigned the checkpoint of %d entries %s, and that of %d %s, which does not continue it",
						k.cp.Size, k.where(), others[i].cp.Size, others[i].where()),
				})
			}
		}
	}
}

// cosignedBy tells whether any key of the member has cosigned.
func cosignedBy(cp ledger.Checkpoint, m ledger.Member) bool {
	for _, k := range m.Keys {
		if list, err := ledger.Cosignatures(cp, []ledger.WitnessKey{k}); err == nil && len(list) > 0 {
			return true
		}
	}
	return false
}
