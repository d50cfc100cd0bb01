package main

import (
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// TestPeoplesActsAreToldInWords: each kind of leaf about a decision has words of its own, with no embassy to ask, and
// other leaves have none.
func TestPeoplesActsAreToldInWords(t *testing.T) {
	l := &ledgers{}
	said := map[string]bool{}
	for kind := ledger.Head; kind <= ledger.AttestationRecord; kind++ {
		leaf := ledger.NewLeaf(ledger.RecordStored, [16]byte{1})
		leaf.Slot = ledger.Slot{Kind: kind, Sequence: 513}
		text := l.words(t.Context(), charter.Embassy{Name: "lu"}, &leaf)
		if (text != "") != (kind >= ledger.OrderRecord) || text != "" && !strings.Contains(text, "not in a copy") {
			t.Errorf("%s: %q", kind, text)
		}
		if text != "" && said[text] {
			t.Errorf("%s: %q stands for two kinds", kind, text)
		}
		said[text] = true
	}
	for _, kind := range []ledger.LeafKind{ledger.ObjectRemoved, ledger.RecordRemoved} {
		leaf := ledger.NewLeaf(kind, [16]byte{1})
		leaf.Slot = ledger.Slot{Kind: ledger.OrderRecord, Sequence: 3}
		if text := l.words(t.Context(), charter.Embassy{}, &leaf); !strings.Contains(text, "removed") {
			t.Errorf("%d: %q", kind, text)
		}
	}
	if text := l.words(t.Context(), charter.Embassy{}, nil); text != "" {
		t.Errorf("an unknown leaf: %q", text)
	}
}
