package audit

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

var anyTime = time.Unix(1_750_000_000, 0).UTC()

// reported audits a host and writes the report.
func reported(t testing.TB, h *host, ch *Challenge) *Report {
	t.Helper()
	res, err := h.audited(t, ch)
	run := &Run{
		State: testState, Embassy: h.id(), Challenge: ch, Started: anyTime, Took: time.Second,
		Outcome: Judge(res, err, time.Second, testDeadline), Result: res,
	}
	if err != nil {
		run.Why = err.Error()
	}
	return signedReport(t, run)
}

func signedReport(t testing.TB, run *Run) *Report {
	t.Helper()
	r, err := NewReport(run, nonceOf(99))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Sign(keyOf("auditor")); err != nil {
		t.Fatal(err)
	}
	return r
}

// again is the report after it was written and read.
func again(t testing.TB, r *Report) *Report {
	t.Helper()
	data, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseReport(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Verify(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReportsConvictWhoLost(t *testing.T) {
	for _, c := range []struct {
		name   string
		behave func(*host)
		want   What
	}{
		{"flipped", func(h *host) { h.twist = func(p *frameParts) { p.data[0] ^= 1 } }, WrongBytes},
		{"gone", func(h *host) { h.gone[h.names[2]] = true }, Gone},
		{"unreadable", func(h *host) { h.broken[h.names[2]] = true }, Unreadable},
	} {
		h := filled(t, "lu", 10, 2*shard.LeafSize)
		c.behave(h)
		r := again(t, reported(t, h, h.sample(t, 1, 40)))
		found, err := r.Convicts(publicOf(h.key))
		if err != nil || found.What != c.want || found != r.Findings[0] {
			t.Errorf("%s: %+v, %v", c.name, found, err)
		}
		if _, err := r.Convicts(publicOf(keyOf("pt"))); err == nil {
			t.Errorf("%s: another embassy is convicted", c.name)
		}
	}
	// A wrong entry convicts too: the embassy signed that it is in its ledger.
	h := filled(t, "lu", 10, 100)
	ch, other := h.sample(t, 1, 5), filled(t, "lu", 12, 100)
	frames := split(t, h.answer(t, ch))
	var f frame
	if err := decode(frames[0], maxFrame, &f); err != nil {
		t.Fatal(err)
	}
	f.Leaf = other.entries[f.Index]
	frames[0], _ = encode(&f)
	res, err := Verify(bytes.NewReader(joined(t, ch, frames, h.key)), ch, h.log())
	if Judge(res, err, 0, testDeadline) != Wrong {
		t.Fatal(err)
	}
	r := again(t, signedReport(t, &Run{State: testState, Embassy: h.id(), Challenge: ch, Started: anyTime, Outcome: Wrong, Result: res}))
	if found, err := r.Convicts(publicOf(h.key)); err != nil || found.What != WrongEntry {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestNobodyIsConvictedByAnAuditor: an auditor that lies, and signs what it likes,
// convicts nobody of what the embassy did not sign.
func TestNobodyIsConvictedByAnAuditor(t *testing.T) {
	honest, guilty := filled(t, "lu", 10, 2*shard.LeafSize), filled(t, "lu", 10, 2*shard.LeafSize)
	guilty.gone[guilty.names[2]] = true
	ch := honest.sample(t, 1, 40)
	good, bad := reported(t, honest, ch), reported(t, guilty, ch)
	for name, forge := range map[string]func(*Report){
		"an honest answer":        func(*Report) {},
		"the findings of another": func(r *Report) { r.Outcome, r.Missing, r.Findings = Missing, bad.Missing, bad.Findings },
		"the exhibit of another": func(r *Report) {
			r.Outcome, r.Missing, r.Findings, r.First = Missing, bad.Missing, bad.Findings, bad.First
		},
		"the transcript of another too": func(r *Report) { sig := r.Answer; *r = *bad; r.Answer = sig },
		"another challenge": func(r *Report) {
			*r = *bad
			r.Challenge, _ = honest.sample(t, 2, 40).Bytes()
		},
		"a good frame of a bad answer": func(r *Report) {
			*r = *bad
			frames := split(t, guilty.answer(t, ch))
			var hashes [][32]byte
			for _, f := range frames {
				hashes = append(hashes, ledger.LeafHash(f))
			}
			i := (bad.First.Place + 1) % uint64(len(frames))
			for bad.Findings[0].Index == honest.at(t, ch, i) {
				i = (i + 1) % uint64(len(frames))
			}
			r.First = Exhibit{Place: i, Frame: frames[i], Path: flat(Path(hashes, int(i)))}
		},
		"an answer that broke off": func(r *Report) {
			*r = *bad
			r.Answer, r.First = [64]byte{}, Exhibit{}
		},
	} {
		r := *good
		forge(&r)
		if err := r.Sign(keyOf("auditor")); err != nil {
			t.Fatal(err)
		}
		if found, err := r.Convicts(publicOf(honest.key)); err == nil {
			t.Errorf("%s: convicted of %+v", name, found)
		}
	}
	if _, err := bad.Convicts(publicOf(honest.key)); err != nil { // the control
		t.Error(err)
	}
}

// at is the entry of a frame.
func (h *host) at(t *testing.T, ch *Challenge, place uint64) uint64 {
	t.Helper()
	var f frame
	if err := decode(split(t, h.answer(t, ch))[place], maxFrame, &f); err != nil {
		t.Fatal(err)
	}
	return f.Index
}

// A report fits a record, whatever was found.
func TestLargestReport(t *testing.T) {
	h, entries := newHost("lu"), uint64(3000)
	if testing.Short() {
		entries = MaxFindings + 1
	}
	for i := range entries {
		h.names = append(h.names, h.store(t, content(nil, i, 8)))
	}
	h.twist = func(p *frameParts) { p.data = make([]byte, shard.LeafSize) }
	_, all := witnesses(t)
	raw := cosigned(t, h.checkpoint(t, int(entries)), h.log(), all, anyTime)
	r := reported(t, h, NewRange(testState, h.id(), raw, nonceOf(1), 0, entries))
	r.Why = strings.Repeat("x", maxWhy)
	if err := r.Sign(keyOf("auditor")); err != nil {
		t.Fatal(err)
	}
	data, err := r.Bytes()
	if err != nil || r.Wrong != entries || len(r.Findings) != MaxFindings || len(data) > MaxReport || MaxReport > ledger.MaxRecord {
		t.Errorf("%d bytes, %d wrong, %d listed, %v", len(data), r.Wrong, len(r.Findings), err)
	}
	if _, err := again(t, r).Convicts(publicOf(h.key)); err != nil {
		t.Error(err)
	}
}

// TestReportsThatCannotBe: no report says OK without the embassy's signature, nor
// anything else that no audit could have shown.
func TestReportsThatCannotBe(t *testing.T) {
	h := filled(t, "lu", 10, 100)
	good := reported(t, h, h.sample(t, 1, 5))
	h.gone[h.names[0]], h.gone[h.names[1]] = true, true
	bad := reported(t, h, h.sample(t, 1, 40))
	for name, c := range map[string]struct {
		from  *Report
		spoil func(*Report)
	}{
		"version 2":                   {good, func(r *Report) { r.Version = 2 }},
		"no outcome":                  {good, func(r *Report) { r.Outcome = 0 }},
		"outcome 7":                   {good, func(r *Report) { r.Outcome = 7 }},
		"ok without a signature":      {good, func(r *Report) { r.Answer = [64]byte{} }},
		"ok without a challenge":      {good, func(r *Report) { r.Challenge = nil }},
		"ok with a loss":              {bad, func(r *Report) { r.Outcome = OK }},
		"unknown with a loss":         {bad, func(r *Report) { r.Outcome = Unknown }},
		"missing without a loss":      {good, func(r *Report) { r.Outcome = Missing }},
		"a finding not listed":        {bad, func(r *Report) { r.Findings = r.Findings[1:] }},
		"a finding of no kind":        {bad, func(r *Report) { r.Findings = append([]Finding{{}}, r.Findings[1:]...) }},
		"an exhibit without findings": {good, func(r *Report) { r.First = bad.First }},
		"another embassy":             {good, func(r *Report) { r.Embassy[0] ^= 1 }},
		"a challenge that is none":    {good, func(r *Report) { r.Challenge = []byte{1} }},
		"a long reason":               {good, func(r *Report) { r.Why = strings.Repeat("x", maxWhy+1) }},
		"a time before all":           {good, func(r *Report) { r.Started = -1 }},
	} {
		r := *c.from
		c.spoil(&r)
		if _, err := r.Bytes(); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := again(t, good)
	r.Took++
	if err := r.Verify(); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed report: %v", err)
	}
}

// Nothing could be asked: that is a report too, without a challenge.
func TestReportOfNothing(t *testing.T) {
	h := filled(t, "lu", 1, 100)
	for _, o := range []Outcome{Late, Offline, Unknown} {
		r := again(t, signedReport(t, &Run{State: testState, Embassy: h.id(), Started: anyTime, Outcome: o, Why: strings.Repeat("ü", 200)}))
		if r.Outcome != o || len(r.Why) != maxWhy {
			t.Errorf("%v: %d bytes of reason", r.Outcome, len(r.Why))
		}
		if _, err := r.Convicts(publicOf(h.key)); err == nil {
			t.Error("it convicts")
		}
	}
}
