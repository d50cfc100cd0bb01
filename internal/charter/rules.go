package charter

import (
	"fmt"
	"regexp"
	"slices"

	"golang.org/x/crypto/ssh"

	"chancery.dev/chancery/internal/canon"
)

// maxSpan is the longest that anything waits: ten years.
const maxSpanDays = 3660

var actPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// rules writes who decides.
func (w *writer) rules(c *Charter) {
	w.Comment("The people who act for the state, and the keys by which they are known.")
	w.WriteString("people:\n")
	for i := range c.People {
		p := &c.People[i]
		fmt.Fprintf(w, "  - name: \"%s\"\n    office: \"%s\"\n    clearance: \"%s\"\n    from: \"%s\"\n    until: \"%s\"\n",
			p.Name, p.Office, p.Clearance, p.From, p.Until)
		w.Texts(4, "keys", p.Keys)
	}
	w.Blank()
	w.WriteString("roles:\n")
	for _, r := range c.Roles {
		fmt.Fprintf(w, "  - name: \"%s\"\n", r.Name)
		w.Texts(4, "people", r.People)
	}
	w.Blank()
	w.Comment("What they may do: how many of a role must sign, how long an order then waits, how long it may be open for")
	w.Comment("signatures, whether only hardware keys that were touched count, and of which role any one person stops it.")
	w.Comment("What is not named here, nobody may do.")
	w.WriteString("acts:\n")
	for _, a := range c.Acts {
		fmt.Fprintf(w, "  - act: \"%s\"\n    role: \"%s\"\n    need: %d\n    cooling: \"%s\"\n    valid: \"%s\"\n    touch: \"%s\"\n    veto: \"%s\"\n",
			a.Act, a.Role, a.Need, a.Cooling, a.Valid, a.Touch, a.Veto)
	}
}

// houses writes the end of a charter of version 3.
func (w *writer) houses(c *Charter) {
	w.Blank()
	w.Comment("The state's agencies that have charters of their own.")
	w.List("houses", len(c.Houses))
	for _, h := range c.Houses {
		fmt.Fprintf(w, "  - name: \"%s\"\n    id: \"%s\"\n", h.Name, h.ID)
	}
	w.Blank()
	w.Comment("Who may give the next charter when those who usually do cannot, after how long, and who stops it.")
	s := c.Succession
	fmt.Fprintf(w, "succession:\n  role: \"%s\"\n  need: %d\n  after: \"%s\"\n  stopped_by: \"%s\"\n", s.Role, s.Need, s.After, s.StoppedBy)
}

// checkRules checks people, roles and acts of version 3, and that earlier
// versions have none.
func checkRules(c *Charter, v *validator) error {
	if c.Version < 3 {
		if len(c.People)+len(c.Roles)+len(c.Acts)+len(c.Houses) > 0 || c.Succession != (Succession{}) || c.State.HouseOf != "" {
			return invalid("version %d: knows no people, roles, acts, houses or succession", c.Version)
		}
		return checkSigners(c, v)
	}
	if c.Threshold != 0 || len(c.Signers) != 0 {
		return invalid("version %d: has people and acts in the place of signers and threshold", c.Version)
	}
	for _, check := range []func(*Charter, *validator) error{checkPeople, checkRoles, checkActs, checkHouses, checkSuccessors} {
		if err := check(c, v); err != nil {
			return err
		}
	}
	return nil
}

func checkPeople(c *Charter, v *validator) error {
	if len(c.People) == 0 {
		return invalid("people: nobody")
	}
	if err := checkNames("person", MaxPeople, c.People, func(p Person) string { return p.Name }); err != nil {
		return err
	}
	for i := range c.People {
		p := &c.People[i]
		switch {
		case !canon.ValidText(p.Office, 128):
			return invalid("person %s: office: want 1 to 128 bytes of visible text without quotes or backslashes", p.Name)
		case p.Clearance != "" && !canon.ValidText(p.Clearance, 64):
			return invalid("person %s: clearance: want at most 64 bytes of visible text without quotes or backslashes", p.Name)
		case !p.From.Valid():
			return invalid("person %s: from %q: want a day such as 2026-01-31", p.Name, p.From)
		case p.Until != "" && (!p.Until.Valid() || p.Until.Start().Before(p.From.Start())):
			return invalid("person %s: until %q: want a day not before from, or nothing", p.Name, p.Until)
		case len(p.Keys) < 1 || len(p.Keys) > maxKeys:
			return invalid("person %s: %d keys: want 1 to %d", p.Name, len(p.Keys), maxKeys)
		}
		for _, text := range p.Keys {
			k, err := parseSigner(text)
			if err != nil {
				return invalid("person %s: %v", p.Name, err)
			}
			if err := v.key(signerKeyBytes(k), "person "+p.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRoles(c *Charter, _ *validator) error {
	if err := checkNames("role", MaxRoles, c.Roles, func(r Role) string { return r.Name }); err != nil {
		return err
	}
	for _, r := range c.Roles {
		if len(r.People) < 1 || len(r.People) > MaxPeople {
			return invalid("role %s: %d people: want 1 to %d", r.Name, len(r.People), MaxPeople)
		}
		seen := map[string]bool{}
		for _, name := range r.People {
			if seen[name] {
				return invalid("role %s: %s stands in it twice", r.Name, name)
			}
			seen[name] = true
			if _, ok := c.PersonByName(name); !ok {
				return invalid("role %s: %s is not among the people", r.Name, name)
			}
		}
	}
	return nil
}

func (c *Charter) roleByName(name string) (Role, bool) {
	i := slices.IndexFunc(c.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return c.Roles[i], true
}

func checkActs(c *Charter, _ *validator) error {
	if len(c.Acts) > MaxActs {
		return invalid("%d acts: at most %d", len(c.Acts), MaxActs)
	}
	seen := map[ActName]bool{}
	for i := range c.Acts {
		a := &c.Acts[i]
		if !actPattern.MatchString(string(a.Act)) {
			return invalid("act %q: want a lowercase letter, then up to 31 lowercase letters, digits and hyphens", a.Act)
		}
		if seen[a.Act] {
			return invalid("act %s: stands there twice", a.Act)
		}
		seen[a.Act] = true
		if err := c.checkAct(a); err != nil {
			return err
		}
	}
	if !seen[ActCharter] {
		return invalid("acts: %s is missing: nobody could give the next charter", ActCharter)
	}
	return nil
}

// destroys are the acts after which something is gone: one hand is never enough.
func destroys(a ActName) bool { return a == ActErase || a == ActRelease }

func (c *Charter) checkAct(a *Act) error {
	role, ok := c.roleByName(a.Role)
	if !ok {
		return invalid("act %s: there is no role %q", a.Act, a.Role)
	}
	if a.Need < 1 || a.Need > len(role.People) {
		return invalid("act %s: need %d of %d people is not possible", a.Act, a.Need, len(role.People))
	}
	if destroys(a.Act) && a.Need < 2 {
		return invalid("act %s: need %d: no single hand removes anything; want at least 2", a.Act, a.Need)
	}
	for what, s := range map[string]Span{"cooling": a.Cooling, "valid": a.Valid} {
		if !validSpan(s) {
			return invalid("act %s: %s %q: want 0, or a number and s, m, h or d, at most %d days", a.Act, what, s, maxSpanDays)
		}
	}
	if a.Valid.Duration() <= a.Cooling.Duration() {
		return invalid("act %s: valid %s is not longer than cooling %s: no order could take effect", a.Act, a.Valid, a.Cooling)
	}
	if a.Touch != "yes" && a.Touch != "no" {
		return invalid("act %s: touch %q: want yes or no", a.Act, a.Touch)
	}
	if a.Touch == "yes" && c.withHardwareKey(role) < a.Need {
		return invalid("act %s: touch is asked for, and %d of role %s have a hardware key: want at least %d", a.Act, c.withHardwareKey(role), a.Role, a.Need)
	}
	if a.Veto != "" {
		if _, ok := c.roleByName(a.Veto); !ok {
			return invalid("act %s: veto: there is no role %q", a.Act, a.Veto)
		}
	}
	return nil
}

func validSpan(s Span) bool {
	return s.Valid() && s.Duration().Hours() <= maxSpanDays*24
}

// withHardwareKey counts those of a role who have a hardware key.
func (c *Charter) withHardwareKey(r Role) (n int) {
	for _, name := range r.People {
		p, _ := c.PersonByName(name)
		if slices.ContainsFunc(p.Keys, func(text string) bool {
			k, err := parseSigner(text)
			return err == nil && k.Type() == ssh.KeyAlgoSKED25519
		}) {
			n++
		}
	}
	return n
}

func checkHouses(c *Charter, _ *validator) error {
	if c.State.HouseOf != "" {
		id, err := ParseStateID(c.State.HouseOf)
		if err != nil || id == (StateID{}) || id == c.State.ID {
			return invalid("state: house_of: want the id of another state, or nothing")
		}
		if len(c.Houses) > 0 {
			return invalid("houses: a house has none of its own")
		}
	}
	if err := checkNames("house", MaxHouses, c.Houses, func(h House) string { return h.Name }); err != nil {
		return err
	}
	ids := claim[StateID]("house", "id")
	for _, h := range c.Houses {
		if h.ID == (StateID{}) || h.ID == c.State.ID {
			return invalid("house %s: its id is zero or the state's", h.Name)
		}
		if err := ids(h.Name, h.ID); err != nil {
			return err
		}
	}
	return nil
}

func checkSuccessors(c *Charter, _ *validator) error {
	s := c.Succession
	if s.Role == "" {
		if s != (Succession{After: "0"}) {
			return invalid("succession: without a role: want need 0, after \"0\" and nobody to stop it")
		}
		return nil
	}
	role, ok := c.roleByName(s.Role)
	if !ok {
		return invalid("succession: there is no role %q", s.Role)
	}
	if s.Need < 2 || s.Need > len(role.People) {
		return invalid("succession: need %d of %d people: want at least 2 and at most all", s.Need, len(role.People))
	}
	if !validSpan(s.After) || s.After.Duration() == 0 {
		return invalid("succession: after %q: want a span above 0: the usual quorum must have time to object", s.After)
	}
	if _, ok := c.roleByName(s.StoppedBy); !ok {
		return invalid("succession: stopped_by: there is no role %q", s.StoppedBy)
	}
	return nil
}

// fillRules gives a charter of version 3 that was put together from signers the
// people, roles and acts that these make.
func (c *Charter) fillRules() {
	if len(c.People) == 0 && len(c.Signers) > 0 {
		former := *c
		former.Version = 2
		r := former.rules()
		c.People, c.Roles, c.Acts = r.people, r.roles, r.acts
	}
	c.Threshold, c.Signers = 0, nil
	if c.Succession == (Succession{}) {
		c.Succession.After = "0"
	}
}
