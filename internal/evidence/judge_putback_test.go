package evidence

import (
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// TestALedgerPutBackIsConvictedBeforeItOutgrowsItself: an embassy signed a tree of ten leaves, was put back to six, and
// has grown to eight. No consistency proof joins or parts eight and ten; a receipt of the ninth leaf says nothing, one of
// the seventh or eighth convicts.
func TestALedgerPutBackIsConvictedBeforeItOutgrowsItself(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"]
	for i := len(lu.leaves); i < 6; i++ {
		lu.object(hash32(uint64(i)))
	}
	back := lu.fork()
	for i := range 4 {
		lu.object(hash32(100 + uint64(i)))
	}
	seen := lu.cosigned()
	receipt := func(leaf uint64) ledger.Proof { return lu.proof(leaf, seen, 10) }
	shown := func(proofs ...ledger.Proof) *Pack {
		l := back.show(0, back.checkpoint(0))
		l.Checkpoints = append(l.Checkpoints, Checkpoint{"home", seen})
		l.Proofs = proofs
		return w.pack(l)
	}
	// Put back and not grown at all: the smaller tree may be what was shown first, and nobody is convicted.
	expect(t, w.judge(shown(receipt(5), receipt(6), receipt(9)), "one-history:lu"), Unknown)
	for i := range 2 {
		back.object(hash32(200 + uint64(i)))
	}
	expect(t, w.judge(shown(receipt(5), receipt(8), receipt(9)), "one-history:lu"), Unknown)
	for _, leaf := range []uint64{6, 7} {
		v := w.judge(shown(receipt(leaf)), "one-history:lu", "one-history:is")
		expect(t, v, Broken, "embassy lu")
	}
	// A leaf of which only the hash is shown convicts as well.
	p := shown(receipt(7))
	p.Ledgers[0].Leaves[7].Data = nil
	expect(t, w.judge(p, "one-history:lu"), Broken, "embassy lu")
	// Who cosigned both is convicted too, and who cosigned one is not.
	l := back.show(0, w.cosign(back.checkpoint(0), w.now, "fi"))
	l.Checkpoints, l.Proofs = append(l.Checkpoints, Checkpoint{"home", seen}), []ledger.Proof{receipt(7)}
	expect(t, w.judge(w.pack(l), "witness:fi"), Broken, "witness fi")
	expect(t, w.judge(w.pack(l), "witness:home"), Unknown)
	// Two receipts of one leaf under two trees need no leaf to be shown.
	alone := Ledger{Name: l.Name, Key: l.Key, Origin: l.Origin, Proofs: []ledger.Proof{receipt(7), back.proof(7, back.checkpoint(0), 8)}}
	expect(t, w.judge(w.pack(alone), "one-history:lu"), Broken, "embassy lu")
	alone.Proofs[1] = back.proof(5, back.checkpoint(0), 8)
	expect(t, w.judge(w.pack(alone), "one-history:lu"), Unknown) // control: the leaf that both have
	// A proof that was bent convicts nobody.
	bent := receipt(7)
	bent.Extra = back.leaves[6]
	expect(t, w.judge(shown(bent), "one-history:lu"), Unknown)
}
