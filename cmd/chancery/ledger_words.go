package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// wordsTime is how long an embassy is given for a document that a leaf names.
const wordsTime = 20 * time.Second

// words says in plain words what people decided by an entry, where it is of that kind; with the document where the
// embassy gives it. Empty for other entries.
func (l *ledgers) words(ctx context.Context, e charter.Embassy, leaf *ledger.Leaf) string {
	if leaf == nil {
		return ""
	}
	s := leaf.Slot
	what := ""
	switch {
	case leaf.Kind == ledger.ObjectRemoved:
		return fmt.Sprintf("order %d had the object removed", s.Sequence)
	case leaf.Kind == ledger.RecordRemoved:
		return fmt.Sprintf("an order had the record removed: %s %d of register %x", s.Kind, s.Sequence, s.Register)
	case leaf.Kind != ledger.RecordStored:
		return ""
	case s.Kind == ledger.OrderRecord:
		what = fmt.Sprintf("order %d is logged", s.Sequence)
	case s.Kind == ledger.VetoRecord:
		what = fmt.Sprintf("order %d is stopped", s.Sequence)
	case s.Kind == ledger.ResultRecord:
		what = fmt.Sprintf("order %d is over", s.Sequence)
	case s.Kind == ledger.AgreementRecord:
		what = fmt.Sprintf("agreement %d is taken", s.Sequence)
	case s.Kind == ledger.AttestationRecord:
		what = fmt.Sprintf("share %d of generation %d is destroyed, as its custodian says", s.Sequence%256, s.Sequence/256)
	default:
		return ""
	}
	doc, err := l.document(ctx, e, leaf)
	if err == nil {
		var said string
		if said, err = l.said(s.Kind, doc); err == nil && said != "" {
			return what + ": " + said
		}
	}
	if err != nil {
		what += " (its document: " + err.Error() + ")"
	}
	return what
}

var errNoDocument = errors.New("not in a copy of the ledger")

// document fetches what a leaf names from the embassy.
func (l *ledgers) document(ctx context.Context, e charter.Embassy, leaf *ledger.Leaf) ([]byte, error) {
	client := l.clients[e.Name]
	if l.from != "" || client == nil {
		return nil, errNoDocument
	}
	ctx, cancel := context.WithTimeout(ctx, wordsTime)
	defer cancel()
	doc, err := client.GetRecord(ctx, leaf.Slot)
	if err == nil && sha256.Sum256(doc) != leaf.Name {
		err = errors.New("the embassy gives another than its ledger names")
	}
	return doc, err
}

// said puts a document into words.
func (l *ledgers) said(kind ledger.RecordKind, doc []byte) (string, error) {
	switch kind {
	case ledger.OrderRecord:
		r, err := order.ParseRecord(doc)
		if err != nil {
			return "", err
		}
		o, err := order.Parse(r.Document)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s; %s, proposed by %s; %s; because: %s", o.Say(), o.Kind, o.Proposer, l.signers(o, r.Signatures), o.Reason), nil
	case ledger.VetoRecord:
		r, err := order.ParseRecord(doc)
		if err != nil {
			return "", err
		}
		v, err := order.ParseVeto(r.Document)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("by %s, because: %s", v.Name, v.Reason), nil
	case ledger.ResultRecord:
		r, err := order.ParseResult(doc)
		if err != nil {
			return "", err
		}
		text := r.Outcome.String()
		if r.Objects > 0 {
			text += fmt.Sprintf(", %s of %s removed", plural(r.Objects, "object"), size(int64(r.Freed)))
		}
		if r.Why != "" {
			text += ": " + r.Why
		}
		return text, nil
	}
	return "", nil
}

// signers names those whose signatures count, under the charter that the order names.
func (l *ledgers) signers(o *order.Order, sigs []byte) string {
	for _, c := range l.charters {
		if c.Number != o.Charter || c.Hash() != o.CharterHash {
			continue
		}
		a, err := order.Recheck(c, o, sigs, time.Time{}, nil)
		var names []string
		for _, v := range a.Votes {
			names = append(names, v.Name)
		}
		text := fmt.Sprintf("signed under charter %d by %s", c.Number, strings.Join(names, ", "))
		if err != nil {
			text += ", WHICH DOES NOT COUNT: " + err.Error()
		}
		return text
	}
	return fmt.Sprintf("under charter %d, which is not at hand", o.Charter)
}
