package evidence

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// scrubbed is a scrub record of lu's, signed by whoever has the key.
func (w *world) scrubbed(sequence, signer uint64, damaged, mended []shard.Name) []byte {
	w.t.Helper()
	r := &audit.ScrubRecord{
		State: [16]byte(w.charter.State.ID), Sequence: sequence, Began: w.now.UnixNano(), Ended: w.now.UnixNano(),
		Checked: 10, Read: 1000, Total: 10, Mended: mended, Salt: hash32(sequence),
	}
	for i := range r.To {
		r.To[i] = 0xff
	}
	for _, n := range damaged {
		r.Damaged = append(r.Damaged, audit.Found{Name: n, What: audit.Altered})
	}
	if err := r.Sign(key(signer)); err != nil {
		w.t.Fatal(err)
	}
	return first(r.Bytes())
}

// tell puts a document into the file and its leaf into the ledger.
func (l *log) tell(sequence uint64, doc []byte) {
	l.w.docs = append(l.w.docs, Record{ledger.Scrub, doc})
	l.record(ledger.Slot{Kind: ledger.Scrub, Sequence: sequence}, doc)
}

func TestWhatAnEmbassySignedOfItsOwnDiskConvictsIt(t *testing.T) {
	object := shard.Name(hash32(1))
	lost := fmt.Sprintf("lost:%s:lu", object)
	begin := func() (*world, *log) {
		w := newWorld(t)
		w.logs["lu"].object(object)
		return w, w.logs["lu"]
	}
	file := func(l *log) *Pack { return l.w.pack(l.show(0, l.cosigned())) }
	suggested := func(v *Verdict) bool {
		return slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Claim == lost })
	}

	w, lu := begin()
	lu.tell(1, w.scrubbed(1, embassyKeys, nil, nil))
	expect(t, w.judge(file(lu), lost), Unknown) // control: a sweep that found nothing
	lu.tell(2, w.scrubbed(2, embassyKeys, []shard.Name{object}, nil))
	expect(t, w.judge(file(lu), lost), Held, "embassy lu")
	v := w.judge(file(lu))
	if b := blamed(v); !slices.Equal(b, []string{"embassy lu"}) || !suggested(v) {
		t.Errorf("blamed %q, suggested %v", b, suggested(v))
	}
	// What was withheld decides nothing, and neither does a record without its leaf.
	p := file(lu)
	p.Withhold(func(_ string, i uint64, _ *ledger.Leaf) bool { return i == uint64(len(lu.leaves)-1) })
	expect(t, w.judge(p, lost), Unknown)
	// Made whole again, it was lost all the same, and that is said.
	lu.tell(3, w.scrubbed(3, embassyKeys, nil, []shard.Name{object}))
	v = w.judge(file(lu), lost)
	expect(t, v, Held, "embassy lu")
	if !strings.Contains(fmt.Sprint(v.Findings[0].Because), "whole again") || suggested(w.judge(file(lu))) {
		t.Errorf("mended: %q", v.Findings[0].Because)
	}

	w, lu = begin()
	w.docs = append(w.docs, Record{ledger.Scrub, w.scrubbed(1, embassyKeys, []shard.Name{object}, nil)})
	expect(t, w.judge(file(lu), lost), Unknown)

	// Another's signature convicts nobody, whosever ledger has the leaf.
	for _, signer := range []uint64{strangerKey, embassyKeys + 1, agentKey} {
		w, lu = begin()
		lu.tell(1, w.scrubbed(1, signer, []shard.Name{object}, nil))
		expect(t, w.judge(file(lu), lost), Unknown)
	}
	// Nor does a signature that does not verify.
	w, lu = begin()
	doc := w.scrubbed(1, embassyKeys, []shard.Name{object}, nil)
	doc[len(doc)-1] ^= 1
	lu.tell(1, doc)
	v = w.judge(file(lu), lost)
	expect(t, v, Unknown)
	if len(v.Problems) != 1 {
		t.Errorf("problems %q", v.Problems)
	}

	// What it lost before it acknowledged the object again, in another ledger say, is no loss of that; and what it never
	// acknowledged it cannot lose.
	w = newWorld(t)
	lu = w.logs["lu"]
	lu.tell(1, w.scrubbed(1, embassyKeys, []shard.Name{object}, nil))
	expect(t, w.judge(file(lu), lost), Broken)
	lu.object(object)
	expect(t, w.judge(file(lu), lost), Unknown)
}
