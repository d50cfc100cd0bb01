package charter

import (
	"bytes"
	"fmt"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/canon"
)

// Marshal checks c and writes its document, with comments for people.
func (c *Charter) Marshal() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	others := ", and who witnesses and audits them"
	if c.Version < 2 {
		others = ""
	}
	var w writer
	w.Comment("Charter %d of %s (%s).", c.Number, c.State.Name, c.State.Code)
	w.Comment("")
	w.Comment("The state's own policy: its people, keys, thresholds, agents and embassies%s.", others)
	w.quorum(c)
	w.Comment("To sign:  ssh-keygen -Y sign -n %s -f YOUR_KEY charter.yaml", Namespace)
	w.Comment("Comments are signed too. Change nothing here: a change is a new charter.")
	w.Blank()
	w.body(c)
	if w.Len() > MaxSize {
		return nil, invalid("document of %d bytes is longer than %d", w.Len(), MaxSize)
	}
	return w.Bytes(), nil
}

// Parse reads a charter and checks it with [Charter.Validate]. It accepts only
// the layout that [Charter.Marshal] writes, except that lines that are empty or
// hold nothing but a comment may come and go. An error names the line.
// doc is copied.
func Parse(doc []byte) (*Charter, error) {
	if err := canon.CheckLines(doc, MaxSize); err != nil {
		return nil, invalid("%v", err)
	}
	var c Charter
	if err := yaml.UnmarshalWithOptions(doc, &c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("charter: %w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w := writer{canon.Text{Bare: true}}
	w.body(&c)
	if err := canon.CompareLines(doc, w.Bytes()); err != nil {
		return nil, invalid("%v", err)
	}
	c.doc = bytes.Clone(doc)
	return &c, nil
}

// quorum says for people when the charter is in force.
func (w *writer) quorum(c *Charter) {
	if c.Version < 3 { // in the words that it was signed with
		w.Comment("It is in force when %d of the %d signers below have signed these exact bytes,", c.Threshold, len(c.Signers))
		w.Comment("and, from charter 2 on, as many signers of the charter before as that one asks for.")
		return
	}
	act, _ := c.Act(ActCharter)
	role, _ := c.roleByName(act.Role)
	w.Comment("It is in force when %d of the %d people of role %s have signed these exact bytes,", act.Need, len(role.People), act.Role)
	w.Comment("and, from charter 2 on, as many people as the charter before asks for.")
}

// writer writes the canonical layout. Texts hold neither quotes nor
// backslashes nor control characters: Validate has seen to it.
type writer struct{ canon.Text }

func (w *writer) body(c *Charter) {
	fmt.Fprintf(w, "version: %d\n", c.Version)
	fmt.Fprintf(w, "state:\n  id: \"%s\"\n  name: \"%s\"\n  code: \"%s\"\n", c.State.ID, c.State.Name, c.State.Code)
	if c.Version >= 3 {
		fmt.Fprintf(w, "  house_of: \"%s\"\n", c.State.HouseOf)
	}
	fmt.Fprintf(w, "number: %d\nprevious: \"%s\"\nsuite: \"%s\"\n", c.Number, c.Previous, c.Suite)

	w.Blank()
	if c.Version >= 3 {
		w.rules(c)
	} else {
		w.Comment("The people who sign charters, and how many of them it takes.")
		fmt.Fprintf(w, "threshold: %d\nsigners:\n", c.Threshold)
		for _, s := range c.Signers {
			fmt.Fprintf(w, "  - name: \"%s\"\n    key: \"%s\"\n", s.Name, s.Key)
		}
	}

	w.Blank()
	w.Comment("The opening key, and the custodians who hold its shares.")
	fmt.Fprintf(w, "custody:\n  generation: %d\n  threshold: %d\n", c.Custody.Generation, c.Custody.Threshold)
	fmt.Fprintf(w, "  opening_key: \"%s\"\n  recovery_key: \"%s\"\n  custodians:\n", c.Custody.OpeningKey, c.Custody.RecoveryKey)
	for _, k := range c.Custody.Custodians {
		fmt.Fprintf(w, "    - name: \"%s\"\n      x: %d\n      recipient: \"%s\"\n      commitment: \"%s\"\n",
			k.Name, k.X, k.Recipient, k.Commitment)
	}

	w.Blank()
	w.Comment("The machines that may write. They cannot read what they wrote.")
	w.List("agents", len(c.Agents))
	for _, a := range c.Agents {
		fmt.Fprintf(w, "  - name: \"%s\"\n    key: \"%s\"\n", a.Name, a.Key)
		if a.Until != "" {
			fmt.Fprintf(w, "    until: \"%s\"\n", a.Until)
		}
	}

	w.Blank()
	w.Comment("The embassies, each under another state's roof.")
	w.List("embassies", len(c.Embassies))
	for _, e := range c.Embassies {
		fmt.Fprintf(w, "  - name: \"%s\"\n    country: \"%s\"\n    id: \"%s\"\n    key: \"%s\"\n", e.Name, e.Country, e.ID, e.Key)
		if c.Version >= VersionMLDSA {
			fmt.Fprintf(w, "    mldsa_key: \"%s\"\n", e.MLDSAKey)
		}
		fmt.Fprintf(w, "    urls:\n")
		for _, u := range e.URLs {
			fmt.Fprintf(w, "      - \"%s\"\n", u)
		}
		fmt.Fprintf(w, "    origin: \"%s\"\n", e.Origin)
	}
	if c.Version >= 2 {
		w.witnessing(c)
	}
	if c.Version >= 3 {
		w.houses(c)
	}
}

// witnessing writes what version 2 brought.
func (w *writer) witnessing(c *Charter) {
	w.Blank()
	w.Comment("How many hours old the newest cosigned checkpoint of a ledger may be.")
	fmt.Fprintf(w, "freshness_hours: %d\n", c.Freshness)

	w.Blank()
	w.Comment("Those who cosign the ledgers of the embassies, beside the embassies themselves.")
	w.List("witnesses", len(c.Witnesses))
	for _, x := range c.Witnesses {
		fmt.Fprintf(w, "  - name: \"%s\"\n    country: \"%s\"\n    cosigner: \"%s\"\n    key: \"%s\"\n    mldsa_key: \"%s\"\n    url: \"%s\"\n",
			x.Name, x.Country, x.Cosigner, x.Key, x.MLDSAKey, x.URL)
	}

	w.Blank()
	w.Comment("A checkpoint counts when this many of the groups cosigned it; as many as faulty says may lie.")
	fmt.Fprintf(w, "witnessing:\n  need: %d\n  faulty: %d\n", c.Witnessing.Need, c.Witnessing.Faulty)
	w.List("  groups", len(c.Witnessing.Groups))
	for _, g := range c.Witnessing.Groups {
		fmt.Fprintf(w, "    - country: \"%s\"\n      need: %d\n", g.Country, g.Need)
	}

	w.Blank()
	w.Comment("Those outside who may read the ledgers and have embassies audited.")
	w.List("auditors", len(c.Auditors))
	for _, a := range c.Auditors {
		fmt.Fprintf(w, "  - name: \"%s\"\n    key: \"%s\"\n", a.Name, a.Key)
	}
}
