package evidence

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Kind is a kind of claim.
type Kind string

// The kinds of claims, and how one of each is written. EMBASSY and WITNESS are names in the charter, REGISTER an id of
// 32 hex digits, N a snapshot's number, OBJECT a name and ORDER a hash of 64 hex digits. Ordered and NeverOrdered are
// also of an ORDER: its people signed it.
const (
	Charters     Kind = "charters"      // charters: each charter follows from the one before
	OneHistory   Kind = "one-history"   // one-history:EMBASSY: its ledger shows everyone the same
	Fresh        Kind = "fresh"         // fresh:EMBASSY: its newest cosigned checkpoint is as young as the charter asks
	Possession   Kind = "possession"    // possession:EMBASSY: audited, it had what it was asked for
	Stored       Kind = "stored"        // stored:REGISTER@N:EMBASSY: it acknowledged all that it was given for this snapshot
	Delivered    Kind = "delivered"     // delivered:OBJECT:EMBASSY: it acknowledged this object
	NeverStored  Kind = "never-stored"  // never-stored:OBJECT:EMBASSY: it did not
	Lost         Kind = "lost"          // lost:OBJECT:EMBASSY: it acknowledged the object and has it no longer
	Ordered      Kind = "ordered"       // ordered:REGISTER@N: an agent of the state signed this snapshot's head
	NeverOrdered Kind = "never-ordered" // never-ordered:REGISTER@N: none did
	Heads        Kind = "heads"         // heads:REGISTER: the register's snapshots follow one another, one of each number
	Removals     Kind = "removals"      // removals:EMBASSY: all that it removed, an order had it remove
	Executed     Kind = "executed"      // executed:ORDER:EMBASSY: the order counts, was logged first, and nothing else was removed by it
	Waited       Kind = "waited"        // waited:ORDER:EMBASSY: it took effect no sooner than the charter allows
	Kept         Kind = "kept"          // kept:ORDER:EMBASSY: it removed nothing by it that the agreement still kept
	Destroyed    Kind = "destroyed"     // destroyed:N: custodians signed that too few shares of generation N are left to open with it
	Erased       Kind = "erased"        // erased:REGISTER: its people had it removed, and no key is left that opens what a host kept
	Witness      Kind = "witness"       // witness:WITNESS: all that it cosigned can be true together
)

// Claim is something to be judged. Only the fields that its kind names count.
type Claim struct {
	Kind     Kind
	Party    string // the embassy or witness
	Register [16]byte
	Snapshot uint64   // or generation, from 1
	Object   [32]byte // or order
}

// String is how the claim is written.
func (c Claim) String() string {
	parts := []string{string(c.Kind)}
	switch c.Kind {
	case Stored, Ordered, NeverOrdered:
		if c.Kind != Stored && c.Snapshot == 0 {
			parts = append(parts, hexOf(c.Object[:]))
			break
		}
		parts = append(parts, fmt.Sprintf("%x@%d", c.Register, c.Snapshot))
	case Heads, Erased:
		parts = append(parts, hexOf(c.Register[:]))
	case Destroyed:
		parts = append(parts, strconv.FormatUint(c.Snapshot, 10))
	case Delivered, NeverStored, Lost, Executed, Waited, Kept:
		parts = append(parts, hexOf(c.Object[:]))
	}
	if c.Party != "" {
		parts = append(parts, c.Party)
	}
	return strings.Join(parts, ":")
}

// ParseClaim reads what String writes: ErrClaim.
func ParseClaim(text string) (Claim, error) {
	parts := strings.Split(text, ":")
	c := Claim{Kind: Kind(parts[0])}
	what, party := "", false
	switch c.Kind {
	case Charters:
	case OneHistory, Fresh, Possession, Witness, Removals:
		party = true
	case Stored:
		what, party = "snapshot", true
	case Ordered, NeverOrdered:
		if what = "snapshot"; len(parts) > 1 && !strings.Contains(parts[1], "@") {
			what = "order"
		}
	case Heads, Erased:
		what = "register"
	case Destroyed:
		what = "generation"
	case Executed, Waited, Kept:
		what, party = "order", true
	case Delivered, NeverStored, Lost:
		what, party = "object", true
	default:
		return Claim{}, fmt.Errorf("evidence: %q: %w: it begins with none of the kinds", text, ErrClaim)
	}
	parts = parts[1:]
	if what != "" && len(parts) > 0 {
		if !c.subject(what, parts[0]) {
			return Claim{}, fmt.Errorf("evidence: %q: %w: %q is no %s", text, ErrClaim, parts[0], what)
		}
		what, parts = "", parts[1:]
	}
	if party && what == "" && len(parts) > 0 {
		c.Party, party, parts = parts[0], false, parts[1:]
	}
	if what != "" || party || len(parts) > 0 || c.Party != "" && !wordPattern.MatchString(c.Party) || c.String() != text {
		return Claim{}, fmt.Errorf("evidence: %q: %w: see docs/spec/evidence.md", text, ErrClaim)
	}
	return c, nil
}

func (c *Claim) subject(what, text string) bool {
	switch what {
	case "object", "order":
		return fromHex(c.Object[:], text)
	case "register":
		return fromHex(c.Register[:], text)
	case "generation":
		n, err := strconv.ParseUint(text, 10, 32)
		c.Snapshot = n
		return err == nil && n > 0
	}
	register, number, _ := strings.Cut(text, "@")
	n, err := strconv.ParseUint(number, 10, 64)
	c.Snapshot = n
	return err == nil && n > 0 && fromHex(c.Register[:], register)
}

func fromHex(dst []byte, text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && copy(dst, b) == len(dst) && len(b) == len(dst)
}

// says is the claim in words.
func (c Claim) says() string {
	snapshot := fmt.Sprintf("snapshot %d of register %x", c.Snapshot, c.Register)
	switch c.Kind {
	case Charters:
		return "Each charter of the state follows from the one before, and the embassies took these and no others."
	case OneHistory:
		return "The ledger of embassy " + c.Party + " has shown everyone the same history."
	case Fresh:
		return "What embassy " + c.Party + " showed was no older than the charter allows when this file was made."
	case Possession:
		return "When embassy " + c.Party + " was audited, it still had what it was asked for."
	case Stored:
		return "Embassy " + c.Party + " acknowledged every object that it was given for " + snapshot + "."
	case Delivered:
		return fmt.Sprintf("Embassy %s acknowledged object %x.", c.Party, c.Object)
	case NeverStored:
		return fmt.Sprintf("Embassy %s was never given object %x.", c.Party, c.Object)
	case Lost:
		return fmt.Sprintf("Embassy %s acknowledged object %x and has lost it.", c.Party, c.Object)
	case Removals:
		return "All that embassy " + c.Party + " removed, an order of the state's people had it remove."
	case Executed:
		return fmt.Sprintf("The state's people gave order %x, and embassy %s logged it before it removed what the order lists, and nothing else.", c.Object, c.Party)
	case Waited:
		return fmt.Sprintf("Embassy %s let order %x wait as long as the charter and the agreement say.", c.Party, c.Object)
	case Kept:
		return fmt.Sprintf("Nothing that embassy %s removed by order %x was younger than the agreement lets go.", c.Party, c.Object)
	case Ordered, NeverOrdered:
		return c.saysOrdered(snapshot)
	case Heads:
		return fmt.Sprintf("The snapshots of register %x follow one another, and there is one of each number.", c.Register)
	case Destroyed:
		return fmt.Sprintf("So many custodians destroyed their shares of generation %d of the opening key that nobody opens with it again.", c.Snapshot)
	case Erased:
		return fmt.Sprintf("Register %x is erased: the state's people had it removed, and no key is left that opens what a host kept of it.", c.Register)
	case Witness:
		return "All that witness " + c.Party + " put its name to can be true together."
	}
	return string(c.Kind)
}

func (c Claim) saysOrdered(snapshot string) string {
	denied := c.Kind == NeverOrdered
	switch {
	case c.Snapshot == 0 && denied:
		return fmt.Sprintf("The state's people never signed order %x.", c.Object)
	case c.Snapshot == 0:
		return fmt.Sprintf("The state's people signed order %x.", c.Object)
	case denied:
		return "No agent of the state ordered " + snapshot + "."
	}
	return "An agent of the state ordered " + snapshot + "."
}
