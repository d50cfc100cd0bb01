package charter

import (
	"crypto/ed25519"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

const (
	// DefaultFreshness is how old, in hours, the newest cosigned checkpoint of a
	// ledger may be unless the charter says otherwise.
	DefaultFreshness = 24
	// MLDSAKeySize is the length of an ML-DSA-44 public key in bytes (FIPS 204).
	MLDSAKeySize = 1312

	maxFreshness = 8760 // a year of hours
)

// witnessPrefix starts the cosigner name of every witness that is a part of chancery.
const witnessPrefix = "chancery.dev/witness/"

// Witness cosigns the checkpoints of the state's ledgers and keeps no ledger of
// its own. Every embassy is a witness too, without standing in this list.
type Witness struct {
	Name    string `yaml:"name"`
	Country string `yaml:"country"` // two uppercase letters: whose roof it is under, hence its group
	// Cosigner is its key name in signature lines (C2SP signed-note). One that
	// begins with "chancery.dev/witness/" is always CosignerName of Key.
	Cosigner string `yaml:"cosigner"`
	Key      string `yaml:"key"` // Ed25519 public key in base64; see [ParseKey]
	// MLDSAKey is an ML-DSA-44 public key of [MLDSAKeySize] bytes in base64, or
	// empty. Where it is there, only both cosignatures together count.
	MLDSAKey string `yaml:"mldsa_key"`
	// URL is the prefix to which checkpoints are submitted (C2SP tlog-witness),
	// http or https, without a trailing slash. It is empty for a witness that
	// comes by itself, as home does.
	URL string `yaml:"url"`
}

// Witnessing says when a checkpoint is cosigned: when Need of the groups have
// cosigned it, although up to Faulty groups may lie.
type Witnessing struct {
	Need   int `yaml:"need"`
	Faulty int `yaml:"faulty"`
	// Groups are the countries of all embassies and witnesses, in order.
	Groups []WitnessGroup `yaml:"groups"`
}

// WitnessGroup is everyone under the roof of one state: they may be compelled
// together, so they count once, when Need of them have cosigned.
type WitnessGroup struct {
	Country string `yaml:"country"`
	Need    int    `yaml:"need"`
}

// Auditor is someone outside who may read ledgers and have embassies audited,
// and write nothing.
type Auditor struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // Ed25519 public key in base64; see [ParseKey]
}

// CosignerName names an embassy, a home or another witness of chancery in
// signature lines: "chancery.dev/witness/" and the first 16 bytes of the SHA-256
// of its Ed25519 public key in hex.
func CosignerName(key ed25519.PublicKey) string { return ledger.WitnessName(key) }

// PublicKey returns the witness's Ed25519 key, or nil where Key is not one.
func (w Witness) PublicKey() ed25519.PublicKey {
	k, _ := ParseKey(w.Key)
	return k
}

// MLDSAPublicKey returns the witness's ML-DSA-44 key of [MLDSAKeySize] bytes, or
// nil where there is none.
func (w Witness) MLDSAPublicKey() []byte {
	k, _ := parseKeyBytes(w.MLDSAKey, MLDSAKeySize)
	return k
}

// MLDSAPublicKey returns the embassy's ML-DSA-44 key of [MLDSAKeySize] bytes, or
// nil where there is none.
func (e Embassy) MLDSAPublicKey() []byte {
	k, _ := parseKeyBytes(e.MLDSAKey, MLDSAKeySize)
	return k
}

// PublicKey returns the auditor's key, or nil where Key is not one.
func (a Auditor) PublicKey() ed25519.PublicKey {
	k, _ := ParseKey(a.Key)
	return k
}

// WitnessByName returns the witness of that name.
func (c *Charter) WitnessByName(name string) (Witness, bool) {
	i := slices.IndexFunc(c.Witnesses, func(w Witness) bool { return w.Name == name })
	if i < 0 {
		return Witness{}, false
	}
	return c.Witnesses[i], true
}

// FreshFor is how old the newest cosigned checkpoint of a ledger may be:
// Freshness, and 24 hours in a charter of version 1, which does not say.
func (c *Charter) FreshFor() time.Duration {
	if c.Version < 2 {
		return DefaultFreshness * time.Hour
	}
	return time.Duration(c.Freshness) * time.Hour
}

// WitnessingInForce returns c.Witnessing, and [Charter.DefaultWitnessing] for a
// charter of version 1, which has none.
func (c *Charter) WitnessingInForce() Witnessing {
	if c.Version < 2 {
		return c.DefaultWitnessing()
	}
	return c.Witnessing
}

// members counts the embassies and witnesses of each country.
func (c *Charter) members() map[string]int {
	m := map[string]int{}
	for _, e := range c.Embassies {
		m[e.Country]++
	}
	for _, w := range c.Witnesses {
		m[w.Country]++
	}
	return m
}

// DefaultWitnessing is what suits the embassies and witnesses of c: of n groups
// (n-1)/3 may lie, and the least number is needed of which two selections always
// share an honest group. More than half of its members make a group's
// cosignature. Without any embassy or witness all of it is zero.
func (c *Charter) DefaultWitnessing() Witnessing {
	w, members := Witnessing{Groups: []WitnessGroup{}}, c.members()
	for _, country := range slices.Sorted(maps.Keys(members)) {
		w.Groups = append(w.Groups, WitnessGroup{Country: country, Need: majority(members[country])})
	}
	if n := len(w.Groups); n > 0 {
		w.Faulty = (n - 1) / 3
		w.Need = leastNeed(n, w.Faulty)
	}
	return w
}

// majority is the least number of members of which two selections always share one.
func majority(members int) int { return members/2 + 1 }

// leastNeed is the least q with 2q > n+f: two sets of q among n groups share
// more than f, so one that does not lie.
func leastNeed(n, faulty int) int { return (n+faulty)/2 + 1 }

// GrownWitnessing is [Charter.DefaultWitnessing] with nothing of c.Witnessing
// falling: for a charter to which embassies or witnesses were added. Where groups
// have gone so that no such policy is possible, it is the default alone.
func (c *Charter) GrownWitnessing() Witnessing {
	w, was := c.DefaultWitnessing(), c.Witnessing
	for i := range w.Groups {
		for _, g := range was.Groups {
			if g.Country == w.Groups[i].Country {
				w.Groups[i].Need = min(max(g.Need, w.Groups[i].Need), c.members()[g.Country])
			}
		}
	}
	n := len(w.Groups)
	for f := max(w.Faulty, was.Faulty); f >= was.Faulty; f-- {
		if need := max(was.Need, leastNeed(n, f)); need <= n-f {
			w.Need, w.Faulty = need, f
			break
		}
	}
	return w
}

func checkWitnessing(c *Charter, v *validator) error {
	if c.Version < 2 {
		if w := c.Witnessing; c.Freshness != 0 || len(c.Witnesses)+len(w.Groups)+len(c.Auditors) > 0 || w.Need != 0 || w.Faulty != 0 {
			return invalid("version 1: knows no freshness, witnesses, witnessing or auditors")
		}
		return nil
	}
	if c.Freshness < 1 || c.Freshness > maxFreshness {
		return invalid("freshness_hours: %d: want 1 to %d", c.Freshness, maxFreshness)
	}
	if err := checkWitnesses(c, v); err != nil {
		return err
	}
	if err := checkGroups(c); err != nil {
		return err
	}
	if err := checkRoom(c); err != nil {
		return err
	}
	return checkAuditors(c, v)
}

func checkWitnesses(c *Charter, v *validator) error {
	if err := checkNames("witness", MaxWitnesses, c.Witnesses, func(w Witness) string { return w.Name }); err != nil {
		return err
	}
	names := claim[string]("witness", "cosigner name")
	addresses := claim[string]("witness", "address")
	for _, e := range c.Embassies {
		for _, taken := range []string{CosignerName(e.PublicKey()), e.Origin} {
			if err := names("embassy "+e.Name, taken); err != nil {
				return err
			}
		}
	}
	for _, w := range c.Witnesses {
		if _, taken := c.EmbassyByName(w.Name); taken {
			return invalid("witness %s: the name %s is taken by an embassy", w.Name, w.Name)
		}
		if !codePattern.MatchString(w.Country) {
			return invalid("witness %s: country %q: want two uppercase letters", w.Name, w.Country)
		}
		if err := checkWitnessKeys(&w, v); err != nil {
			return err
		}
		if err := names(w.Name, w.Cosigner); err != nil {
			return err
		}
		if w.URL == "" {
			continue
		}
		if !validPrefix(w.URL) {
			return invalid("witness %s: url %q: want https://HOST[:PORT][/PATH] or http://… with no slash at the end", w.Name, w.URL)
		}
		if err := addresses(w.Name, w.URL); err != nil {
			return err
		}
	}
	return nil
}

func checkWitnessKeys(w *Witness, v *validator) error {
	key, err := ParseKey(w.Key)
	if err != nil {
		return invalid("witness %s: %v", w.Name, err)
	}
	if err := v.key(key, "witness "+w.Name); err != nil {
		return err
	}
	if err := checkMLDSAKey(w.MLDSAKey, "witness "+w.Name, v); err != nil {
		return err
	}
	if !originPattern.MatchString(w.Cosigner) || strings.ContainsAny(w.Cosigner, `"\`) {
		return invalid("witness %s: cosigner: want 1 to 255 visible ASCII characters without plus sign, quote or backslash", w.Name)
	}
	if strings.HasPrefix(w.Cosigner, witnessPrefix) && w.Cosigner != CosignerName(key) {
		return invalid("witness %s: cosigner %s is not that of its key, %s", w.Name, w.Cosigner, CosignerName(key))
	}
	return nil
}

// checkMLDSAKey checks a second key, which may be missing.
func checkMLDSAKey(text, whose string, v *validator) error {
	if text == "" {
		return nil
	}
	key, err := parseKeyBytes(text, MLDSAKeySize)
	if err != nil {
		return invalid("%s: mldsa_key: %v", whose, err)
	}
	return v.key(key, whose)
}

// checkGroups refuses a policy that a minority of liars could split or stop.
func checkGroups(c *Charter) error {
	members, w := c.members(), &c.Witnessing
	countries := slices.Sorted(maps.Keys(members))
	if !slices.EqualFunc(w.Groups, countries, func(g WitnessGroup, country string) bool { return g.Country == country }) {
		return invalid("witnessing: groups: want exactly the countries of the embassies and witnesses, in order: %s", strings.Join(countries, ", "))
	}
	for _, g := range w.Groups {
		if g.Need < 1 || g.Need > members[g.Country] {
			return invalid("witnessing: group %s: need %d of %d members is not possible", g.Country, g.Need, members[g.Country])
		}
		if g.Need < majority(members[g.Country]) {
			return invalid("witnessing: group %s: need %d of %d members lets honest ones vouch for two histories: want at least %d",
				g.Country, g.Need, members[g.Country], majority(members[g.Country]))
		}
	}
	n := len(w.Groups)
	switch {
	case n == 0 && (w.Need != 0 || w.Faulty != 0):
		return invalid("witnessing: need %d and faulty %d without a group: want 0", w.Need, w.Faulty)
	case n == 0:
		return nil
	case w.Faulty < 0 || w.Faulty > n:
		return invalid("witnessing: faulty: %d of %d groups is not possible", w.Faulty, n)
	case w.Need < 1 || w.Need > n:
		return invalid("witnessing: need: %d of %d groups is not possible", w.Need, n)
	case 2*w.Need <= n+w.Faulty:
		return invalid("witnessing: need %d of %d groups lets %d that lie show two histories: want at least %d", w.Need, n, w.Faulty, leastNeed(n, w.Faulty))
	case w.Need > n-w.Faulty:
		return invalid("witnessing: need %d of %d groups lets %d that are silent stop everything: want at most %d", w.Need, n, w.Faulty, n-w.Faulty)
	}
	return nil
}

// checkRoom refuses so many ML-DSA keys that the cosignatures of all do not fit
// one note: a charter whose policy nobody could judge by must not get into force.
func checkRoom(c *Charter) error {
	if len(c.Witnessing.Groups) == 0 {
		return nil
	}
	if _, err := c.Policy(); err != nil {
		return invalid("witnessing: %v", err)
	}
	return nil
}

func checkAuditors(c *Charter, v *validator) error {
	if err := checkNames("auditor", MaxAuditors, c.Auditors, func(a Auditor) string { return a.Name }); err != nil {
		return err
	}
	for _, a := range c.Auditors {
		key, err := ParseKey(a.Key)
		if err != nil {
			return invalid("auditor %s: %v", a.Name, err)
		}
		if err := v.key(key, "auditor "+a.Name); err != nil {
			return err
		}
	}
	return nil
}

// validPrefix accepts what validAddress does, and http too: a witness's answer
// is a signature, which needs no cover.
func validPrefix(text string) bool {
	if rest, ok := strings.CutPrefix(text, "http://"); ok {
		u, err := url.Parse(text)
		return err == nil && u.String() == text && validAddress("https://"+rest)
	}
	return validAddress(text)
}

// witnessingTaken names what next takes away of old's witnesses, auditors and
// policy, empty when it only adds. A witness may move to another address.
func witnessingTaken(old, next *Charter) (what string) {
	was, is := old.WitnessingInForce(), next.WitnessingInForce()
	switch {
	case is.Need < was.Need:
		what = "how many groups must cosign"
	case is.Faulty < was.Faulty:
		what = "how many groups may lie"
	case next.FreshFor() > old.FreshFor():
		what = "how old a checkpoint may be"
	}
	for _, g := range was.Groups {
		if !slices.ContainsFunc(is.Groups, func(k WitnessGroup) bool { return k.Country == g.Country && k.Need >= g.Need }) {
			what = "group " + g.Country
		}
	}
	for _, w := range old.Witnesses {
		kept, ok := next.WitnessByName(w.Name)
		if kept.URL = w.URL; !ok || kept != w {
			what = "witness " + w.Name
		}
	}
	for _, a := range old.Auditors {
		if !slices.Contains(next.Auditors, a) {
			what = "auditor " + a.Name
		}
	}
	return what
}
