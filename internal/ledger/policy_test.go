package ledger

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// policyOf makes groups "g0", "g1", ... of so many members "g0m0", ..., each
// group needing just more than half of them. Keys are made up: only count sees them.
func policyOf(need, faulty int, sizes ...int) *Policy {
	p := &Policy{Need: need, Faulty: faulty}
	for i, size := range sizes {
		g := Group{Name: fmt.Sprint("g", i), Need: size/2 + 1}
		for j := range size {
			name := fmt.Sprint(g.Name, "m", j)
			g.Members = append(g.Members, Member{Name: name, Keys: []WitnessKey{{name: name, alg: algCosigner, key: name}}})
		}
		p.Groups = append(p.Groups, g)
	}
	return p
}

func ones(n int) []int { return slices.Repeat([]int{1}, n) }

// leastNeed is the least need of which two sets share more than f of n.
func leastNeed(n, f int) int { return (n+f)/2 + 1 }

func drawPolicy(t *rapid.T) *Policy {
	n := rapid.IntRange(1, 9).Draw(t, "groups")
	f := rapid.IntRange(0, (n-1)/3).Draw(t, "faulty")
	need := rapid.IntRange(leastNeed(n, f), n-f).Draw(t, "need")
	p := policyOf(need, f, rapid.SliceOfN(rapid.IntRange(1, 4), n, n).Draw(t, "members")...)
	for i := range p.Groups {
		g := &p.Groups[i]
		g.Need = rapid.IntRange(g.Need, len(g.Members)).Draw(t, "group need")
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return p
}

// view is one of two histories as members vouch for it.
type view map[WitnessKey]time.Time

// split lets each honest member see one of two histories, or none, as sees says;
// those of lying groups sign both.
func split(p *Policy, lying func(group int) bool, sees func(group, member int) int) (a, b view) {
	a, b = view{}, view{}
	for i, g := range p.Groups {
		for j, m := range g.Members {
			which := 3
			if !lying(i) {
				which = sees(i, j)
			}
			if which&1 != 0 {
				a[m.Keys[0]] = noon
			}
			if which&2 != 0 {
				b[m.Keys[0]] = noon
			}
		}
	}
	return a, b
}

func TestTwoHistoriesAreNeverBothEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		liars := rapid.Permutation(slices.Collect(func(yield func(int) bool) {
			for i := range p.Groups {
				if !yield(i) {
					return
				}
			}
		})).Draw(t, "liars")[:p.Faulty]
		a, b := split(p, func(g int) bool { return slices.Contains(liars, g) },
			func(int, int) int { return rapid.IntRange(0, 2).Draw(t, "sees") })
		own := ""
		if len(liars) > 0 && rapid.Bool().Draw(t, "a log of a group") {
			own = p.Groups[liars[0]].Name // who shows two histories lies
		}
		if va, vb := p.count(a, own), p.count(b, own); va.Enough && vb.Enough {
			t.Fatalf("both histories are enough: %v and %v", va.Groups, vb.Groups)
		}
	})
}

// The control: one less than the least need, and f liars with the honest halved
// between two histories make both enough; with the least need they do not.
func TestOneLessThanTheLeastNeedSplits(t *testing.T) {
	for n := 2; n <= 13; n++ {
		for f := 0; f <= (n-1)/3; f++ {
			need := leastNeed(n, f)
			halves := func(g, _ int) int { return 1 + g%2 }
			lying := func(g int) bool { return g < f }
			own := ""
			if f > 0 {
				own = "g0"
			}
			good := policyOf(need, f, ones(n)...)
			a, b := split(good, lying, halves)
			if err := good.Check(); err != nil || good.count(a, own).Enough && good.count(b, own).Enough {
				t.Errorf("n %d, f %d: need %d splits, %v", n, f, need, err)
			}
			bad := policyOf(need-1, f, ones(n)...)
			if err := bad.Check(); !errors.Is(err, ErrPolicy) {
				t.Errorf("n %d, f %d: need %d is accepted: %v", n, f, need-1, err)
			}
			if !bad.count(a, own).Enough || !bad.count(b, own).Enough {
				t.Errorf("n %d, f %d: need %d does not split: the control shows nothing", n, f, need-1)
			}
			// A liar too many splits what one fewer cannot.
			a, b = split(good, func(g int) bool { return g <= f+1 }, halves)
			if !good.count(a, "g0").Enough || !good.count(b, "g0").Enough {
				t.Errorf("n %d, f %d: two liars more do not split", n, f)
			}
		}
	}
}

// The control for groups: where half the members make a group's vote, a log that
// shows one history to one half and another to the other has both vouched for by
// groups in which nobody lies.
func TestHalfAGroupIsNotEnough(t *testing.T) {
	p := policyOf(3, 1, 1, 2, 2, 2)
	a, b := split(p, func(g int) bool { return g == 0 }, func(_, m int) int { return 1 + m })
	if p.count(a, "g0").Enough || p.count(b, "g0").Enough {
		t.Error("half of each group is enough")
	}
	for i := 1; i < 4; i++ {
		p.Groups[i].Need = 1
	}
	if err := p.Check(); !errors.Is(err, ErrPolicy) {
		t.Errorf("accepted: %v", err)
	}
	if !p.count(a, "g0").Enough || !p.count(b, "g0").Enough {
		t.Error("does not split: the control shows nothing")
	}
}

func TestPoliciesThatCouldNotHoldAreRefused(t *testing.T) {
	key := WitnessKey{name: "x", alg: algCosigner, key: "x"}
	for name, change := range map[string]func(*Policy){
		"need 0":             func(p *Policy) { p.Need = 0 },
		"more than there is": func(p *Policy) { p.Need, p.Faulty = 5, 0 },
		"faulty below 0":     func(p *Policy) { p.Faulty = -1 },
		"faulty stop all":    func(p *Policy) { p.Need = 4 },
		"half":               func(p *Policy) { p.Need, p.Faulty = 2, 0 },
		"no groups":          func(p *Policy) { *p = Policy{Need: 1} },
		"a group twice":      func(p *Policy) { p.Groups[1].Name = "g0" },
		"a group unnamed":    func(p *Policy) { p.Groups[1].Name = "" },
		"an empty group":     func(p *Policy) { p.Groups[1].Members = nil },
		"a group's need":     func(p *Policy) { p.Groups[1].Need = 2 },
		"a group's no need":  func(p *Policy) { p.Groups[1].Need = 0 },
		"a member twice":     func(p *Policy) { p.Groups[1].Members[0].Name = "g0m0" },
		"a member unnamed":   func(p *Policy) { p.Groups[1].Members[0].Name = "" },
		"a key twice": func(p *Policy) {
			p.Groups[1].Members[0].Keys = []WitnessKey{{name: "y", alg: algCosigner, key: "g0m0"}}
		},
		"no key":           func(p *Policy) { p.Groups[1].Members[0].Keys = nil },
		"a key of nothing": func(p *Policy) { p.Groups[1].Members[0].Keys = make([]WitnessKey, 1) },
		"too many signatures": func(p *Policy) {
			for i := range maxSignatures {
				key.key = fmt.Sprint(i)
				p.Groups[0].Members[0].Keys = append(p.Groups[0].Members[0].Keys, key)
			}
		},
		"signatures too large": func(p *Policy) {
			for i := range 20 {
				p.Groups[0].Members[0].Keys = append(p.Groups[0].Members[0].Keys, WitnessKey{name: "x", alg: algMLDSA, key: fmt.Sprint(i)})
			}
		},
	} {
		p := policyOf(3, 1, ones(4)...)
		if err := p.Check(); err != nil {
			t.Fatalf("control: %v", err)
		}
		change(p)
		if err := p.Check(); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Judge(nil, Log{}); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s, to judge by: %v", name, err)
		}
		if p.Enough("g0m0", []string{"g1m0", "g2m0", "g3m0"}) {
			t.Errorf("%s: thaws", name)
		}
	}
	if err := (*Policy)(nil).Check(); !errors.Is(err, ErrPolicy) {
		t.Error(err)
	}
}

// fourStates is a log of 7 leaves in group A of four, one in need of two of three
// members, one of a member with an ML-DSA-44 key too, which is double's.
func fourStates(t *testing.T) (l *logOf, double *Cosigner, p *Policy, log Log) {
	t.Helper()
	l = filled(t, "a", 7)
	member := func(who string, also ...*Cosigner) Member {
		m := Member{Name: who, Keys: []WitnessKey{cosignerOf(t, who).Key()}}
		for _, c := range also {
			m.Keys = append(m.Keys, c.Key())
		}
		return m
	}
	double = mldsaCosignerOf(t, "d")
	p = &Policy{Need: 3, Faulty: 1, Groups: []Group{
		{Name: "A", Need: 1, Members: []Member{member("a")}},
		{Name: "B", Need: 1, Members: []Member{member("b")}},
		{Name: "C", Need: 2, Members: []Member{member("c1"), member("c2"), member("c3")}},
		{Name: "D", Need: 1, Members: []Member{member("d", double)}},
	}}
	log = Log{Origin: l.origin, Key: publicOf(l.key), Group: "A", Member: "a"}
	return l, double, p, log
}

func TestJudgeCountsGroups(t *testing.T) {
	l, double, p, log := fourStates(t)
	type by struct {
		c  *Cosigner
		at int // hours after noon
	}
	b, d := cosignerOf(t, "b"), cosignerOf(t, "d")
	c1, c2, c3 := cosignerOf(t, "c1"), cosignerOf(t, "c2"), cosignerOf(t, "c3")
	for name, x := range map[string]struct {
		by     []by
		groups []string
		time   int // hours after noon; -1: none
	}{
		"nobody":                    {nil, []string{"A"}, -1},
		"one other":                 {[]by{{b, 1}}, []string{"A", "B"}, -1},
		"itself, again":             {[]by{{b, 1}, {cosignerOf(t, "a"), 1}}, []string{"A", "B"}, -1},
		"half a member":             {[]by{{b, 1}, {d, 1}}, []string{"A", "B"}, -1},
		"the other half":            {[]by{{b, 1}, {double, 1}}, []string{"A", "B"}, -1},
		"one of a group of three":   {[]by{{b, 1}, {c2, 2}}, []string{"A", "B"}, -1},
		"two of a group of three":   {[]by{{b, 9}, {c2, 2}, {c3, 5}}, []string{"A", "B", "C"}, 2},
		"three of a group":          {[]by{{b, 9}, {c2, 2}, {c3, 5}, {c1, 7}}, []string{"A", "B", "C"}, 5},
		"a whole member":            {[]by{{b, 1}, {d, 4}, {double, 3}}, []string{"A", "B", "D"}, 1},
		"the second newest counts":  {[]by{{b, 1}, {d, 4}, {double, 3}, {c1, 6}, {c2, 7}}, []string{"A", "B", "C", "D"}, 3},
		"strangers beside the rest": {[]by{{cosignerOf(t, "s"), 9}, {b, 1}, {cosignerOf(t, "s2"), 9}}, []string{"A", "B"}, -1},
	} {
		cp := l.cosigned(t, 7, noon)
		for _, y := range x.by {
			line, err := y.c.Cosign(cp, noon.Add(time.Duration(y.at)*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := AddSignatures(cp.Raw, line)
			if err != nil {
				t.Fatal(err)
			}
			cp = l.parse(t, raw)
		}
		v, err := p.Judge(cp.Raw, log)
		want := time.Time{}
		if x.time >= 0 {
			want = noon.Add(time.Duration(x.time) * time.Hour)
		}
		if err != nil || v.Enough != (x.time >= 0) || !v.Time.Equal(want) || !slices.Equal(v.Groups, x.groups) || v.Checkpoint.Root != cp.Root {
			t.Errorf("%s: %v, enough %v, %v, %v", name, v.Groups, v.Enough, v.Time, err)
		}
	}
}

func TestALogThatNobodyStandsForHasNoVote(t *testing.T) {
	l, double, p, log := fourStates(t)
	b, d := cosignerOf(t, "b"), cosignerOf(t, "d")
	v, err := p.Judge(l.cosigned(t, 7, noon, b, d, double).Raw, Log{Origin: l.origin, Key: publicOf(l.key)})
	if err != nil || v.Enough {
		t.Errorf("two of three: %v, %v", v.Groups, err)
	}
	if _, err := p.Judge(filled(t, "b", 7).cosigned(t, 7, noon, b, d, double).Raw, log); !errors.Is(err, ErrSignature) {
		t.Errorf("another log: %v", err)
	}
	if _, err := p.Judge([]byte("x"), log); !errors.Is(err, ErrFormat) {
		t.Errorf("no note: %v", err)
	}
}

func TestOneGroupAloneNeedsNoCosignature(t *testing.T) {
	l := filled(t, "a", 7)
	p := &Policy{Need: 1, Groups: []Group{{Name: "A", Need: 1, Members: []Member{{"a", []WitnessKey{cosignerOf(t, "a").Key()}}}}}}
	v, err := p.Judge(l.checkpoint(t, 7), Log{Origin: l.origin, Key: publicOf(l.key), Group: "A"})
	if err != nil || !v.Enough || !v.Time.IsZero() {
		t.Errorf("%+v, %v", v, err)
	}
	if !p.Enough("a", nil) || policyOf(1, 0, 2).Enough("g0m0", nil) || !policyOf(1, 0, 2).Enough("g0m0", []string{"g0m1"}) {
		t.Error("one group: thaws when all others answered")
	}
}

// A witness that thaws knows of every checkpoint that was enough: one that
// answered and does not lie had vouched for it.
func TestWhoThawsHasHeardOfAllThatCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		home := rapid.IntRange(0, len(p.Groups)-1).Draw(t, "group")
		self := p.Groups[home].Members[0].Name
		// Put back, its group is one of the faulty; f-1 others lie when asked.
		lying := map[int]bool{home: true}
		for len(lying) < p.Faulty {
			lying[rapid.IntRange(0, len(p.Groups)-1).Draw(t, "liar")] = true
		}
		vouched, answered, told := view{}, []string{}, false
		for i, g := range p.Groups {
			for _, m := range g.Members {
				yes := rapid.Bool().Draw(t, "vouched")
				if yes {
					vouched[m.Keys[0]] = noon
				}
				if m.Name != self && rapid.Float64Range(0, 1).Draw(t, "answers") < 0.7 {
					answered = append(answered, m.Name)
					told = told || yes && !lying[i]
				}
			}
		}
		if p.Need > 1 && p.Enough(self, answered) && p.count(vouched, "").Enough && !told {
			t.Fatalf("%s thaws after %v and knows nothing", self, answered)
		}
	})
}

// The control: one answer fewer than the rule asks for, and all who answered may
// be ignorant of a checkpoint that counts.
func TestThawAsksForNoLessThanItMust(t *testing.T) {
	for n := 2; n <= 13; n++ {
		for f := 0; f <= (n-1)/3; f++ {
			p := policyOf(leastNeed(n, f), f, ones(n)...)
			var answered []string
			for i := 1; !p.Enough("g0m0", answered); i++ {
				if i == n {
					t.Fatalf("n %d, f %d: never thaws", n, f)
				}
				answered = append(answered, p.Groups[i].Members[0].Name)
			}
			// Without the last answer: itself, the silent, and f-1 of the others.
			honest := answered[:len(answered)-1]
			if f > 1 {
				honest = honest[min(f-1, len(honest)):]
			}
			vouched, _ := split(p, func(int) bool { return false }, func(g, _ int) int {
				if slices.Contains(honest, p.Groups[g].Members[0].Name) {
					return 0
				}
				return 1
			})
			if !p.count(vouched, "").Enough {
				t.Errorf("n %d, f %d: %d answers would have been enough", n, f, len(answered)-1)
			}
			if want := n - p.Need + max(1, f); len(answered) != want {
				t.Errorf("n %d, f %d: thaws after %d answers, want %d", n, f, len(answered), want)
			}
		}
	}
	p := policyOf(3, 1, ones(4)...)
	if p.Enough("g0m0", []string{"g1m0"}) || !p.Enough("g0m0", []string{"g1m0", "g2m0"}) {
		t.Error("of four, two must answer")
	}
	if p.Enough("g0m0", []string{"g0m0", "g1m0", "g1m0", "nobody"}) {
		t.Error("its own answer, one that came twice and a stranger's count")
	}
	if p.Enough("stranger", []string{"g1m0", "g2m0"}) || !p.Enough("stranger", []string{"g1m0", "g2m0", "g0m0"}) {
		t.Error("who is no member must hear one more")
	}
}
