package evidence

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// charters: each follows from the one before, and what embassies took is what follows.
func (j *judge) charters(f *Finding) {
	chain := j.t.chain
	if len(j.t.forked) > 0 {
		f.Outcome = Broken
		f.blame("state", j.t.root.State.Name)
		f.Because = append(f.Because, j.t.forked...)
		return
	}
	f.because("%s: each follows from the one before", span("charter", chain[0].Number, j.t.newest().Number))
	seen := false
	for _, h := range j.histories {
		for number, at := range h.charters {
			c := j.t.at(number)
			switch {
			case c == nil:
				f.open("embassy %s took charter %d, which is not in the file", h.name, number)
			case c.Hash() != at.name:
				f.open("embassy %s took another charter %d, with SHA-256 %x, which is not in the file: whose doing it is cannot be told without it", h.name, number, at.name)
			default:
				seen = true
				f.rest(h.name, at.index)
			}
		}
		if n := h.Withheld(); n > 0 && len(h.charters) == 0 {
			f.open("%s of embassy %s withheld, and none of those shown is a charter", leaves(uint64(n)), h.name)
		}
	}
	slices.Sort(f.Open)
	slices.SortFunc(f.Rests, comparePlaces)
	if !seen {
		f.open("no ledger in the file shows that an embassy took a charter")
	}
	if len(f.Open) == 0 {
		f.Outcome = Held
		f.because("what the embassies took is what follows")
	}
}

func comparePlaces(a, b Place) int {
	if c := strings.Compare(a.Embassy, b.Embassy); c != 0 {
		return c
	}
	return int(int64(a.Leaf) - int64(b.Leaf))
}

func (t tree) String() string { return fmt.Sprintf("%s under root %x…", leaves(t.size), t.root[:8]) }

// oneHistory: all checkpoints that the embassy signed are of one history, and enough witnesses saw it, so that no
// other can have been cosigned.
func (j *judge) oneHistory(f *Finding, h *history) {
	var own []tree
	for _, s := range h.says {
		if s.own && !slices.Contains(own, s.tree) {
			own = append(own, s.tree)
		}
	}
	if a, b, found := h.contradiction(own); found {
		f.Outcome = Broken
		f.blame("embassy", h.embassy.Name)
		f.because("it signed %v (shown by %s)", a, h.sourcesOf(a))
		f.because("and it signed %v (shown by %s), which does not continue the other and is not continued by it", b, h.sourcesOf(b))
		f.because("no honest ledger does this: it forked, was put back, or began again after its disk was lost")
		return
	}
	f.because("the file has %s that it signed", plural(len(own), "different checkpoint"))
	var largest tree
	for _, t := range own {
		if t.size >= largest.size {
			largest = t
		}
	}
	joined := h.beginnings(largest)
	for _, t := range own {
		if !joined[t] {
			f.open("its checkpoint of %v (shown by %s) is joined to the largest by no proof in the file", t, h.sourcesOf(t))
		}
	}
	best := h.best()
	switch {
	case len(own) == 0:
		f.open("no checkpoint that it signed is in the file")
	case j.t.policy == nil:
		f.open("the newest charter has no witness policy that holds")
	case best == nil:
		f.open("no checkpoint is cosigned by enough witnesses, so another history may have been shown elsewhere")
	case best.size < h.largest():
		f.open("only the first %d of %d leaves are cosigned by enough witnesses", best.size, h.largest())
	}
	if best != nil {
		f.because("%d leaves are cosigned for %s%s", best.size, strings.Join(best.verdict.Groups, ", "), at(best.verdict.Time))
	}
	if len(f.Open) == 0 {
		f.Outcome = Held
		f.because("while at most %d of %d groups of witnesses lie, no other history can have been cosigned", j.t.policy.Faulty, len(j.t.policy.Groups))
	}
}

func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + t.UTC().Format(time.RFC3339)
}

// sourcesOf says who showed a tree.
func (h *history) sourcesOf(t tree) string {
	var all []string
	for _, s := range h.says {
		if s.tree == t {
			all = append(all, s.sources...)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// fresh is about the moment at which the file says it was made, which nobody vouches for.
func (j *judge) fresh(f *Finding, h *history) {
	best, may := h.best(), j.t.newest().FreshFor()
	if best == nil {
		f.open("no checkpoint is cosigned by enough witnesses")
		return
	}
	if best.verdict.Time.IsZero() {
		f.open("the policy of charter %d needs no other witness, so nobody else says when it was", j.t.newest().Number)
		return
	}
	age := j.p.Made.Sub(best.verdict.Time)
	f.because("the newest cosigned checkpoint is of %s; the file says it was made %s", best.verdict.Time.UTC().Format(time.RFC3339), j.p.Made.UTC().Format(time.RFC3339))
	if age > may {
		f.open("that is %s later, and charter %d allows %s; a younger one may exist and not be in the file", age, j.t.newest().Number, may)
		return
	}
	f.Outcome = Held
	f.because("charter %d allows %s", j.t.newest().Number, may)
}

// witness: a witness is contradicted by its own cosignatures: of two trees of one ledger that no history can join, or
// of a smaller tree later than of a larger one by its own clock.
func (j *judge) witness(f *Finding, c Claim) {
	count := 0
	for i, m := range j.t.members {
		if m.name != c.Party {
			continue
		}
		for _, h := range j.histories {
			var signed []tree
			for _, s := range h.says {
				if slices.ContainsFunc(s.signers, func(x cosigning) bool { return x.member == i }) {
					signed = append(signed, s.tree)
				}
			}
			count += len(signed)
			if a, b, found := h.contradiction(signed); found {
				f.Outcome = Broken
				f.because("of the ledger of embassy %s it cosigned %v and %v, which no history joins", h.name, a, b)
			}
			if early, late, found := h.wentBack(i); found {
				f.Outcome = Broken
				f.because("of the ledger of embassy %s it cosigned %d leaves at %s and only %d leaves later, at %s, by its own clock: its memory or its clock was put back",
					h.name, early.size, early.at.Format(time.RFC3339), late.size, late.at.Format(time.RFC3339))
			}
		}
	}
	if f.Outcome == Broken {
		f.blame("witness", c.Party)
		return
	}
	f.because("the file has %s of it, and no contradiction in them", plural(count, "cosignature"))
	f.open("another cosignature may exist elsewhere")
}

type seen struct {
	size uint64
	at   time.Time
}

// wentBack finds two cosignatures of which the later is of the smaller tree.
func (h *history) wentBack(member int) (early, late seen, found bool) {
	var all []seen
	for _, s := range h.says {
		for _, x := range s.signers {
			if x.member == member {
				all = append(all, seen{s.size, x.time})
			}
		}
	}
	slices.SortFunc(all, func(a, b seen) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return int(int64(a.size) - int64(b.size))
	})
	var most seen
	for _, x := range all {
		if x.size < most.size && x.at.After(most.at) {
			return most, x, true
		}
		if x.size > most.size {
			most = x
		}
	}
	return seen{}, seen{}, false
}

// span names a run of numbered things.
func span(one string, from, to uint64) string {
	if from == to {
		return fmt.Sprintf("%s %d", one, from)
	}
	return fmt.Sprintf("%ss %d to %d", one, from, to)
}

func leaves(n uint64) string {
	if n == 1 {
		return "1 leaf"
	}
	return fmt.Sprintf("%d leaves", n)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
