package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFolder = "../../testdata/vectors/audit"

// answerVector is a challenge, an answer, and what an auditor must say of it.
type answerVector struct {
	Name      string      `json:"name"`
	Key       string      `json:"key"`       // the embassy's Ed25519 public key, hex
	Challenge string      `json:"challenge"` // hex
	Seed      string      `json:"seed"`
	Draws     [][3]uint64 `json:"draws"`  // the first: draw, entry, number
	Answer    string      `json:"answer"` // hex
	Expect    string      `json:"expect"` // an outcome's word
	Checked   uint64      `json:"checked"`
	Objects   uint64      `json:"objects"`
}

// reportVector is a report and what a reader must say of it.
type reportVector struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Report string `json:"report"`
	// Expect is "format", "unknown", "signature" (the auditor's), "none" (nobody is
	// convicted) or what the embassy is convicted of, in a finding's words.
	Expect string `json:"expect"`
}

// coverageVector is a file of coverage.
type coverageVector struct {
	Name     string `json:"name"`
	Coverage string `json:"coverage"`
	Expect   string `json:"expect"` // "ok", "format" or "unknown"
}

func readVectors[T any](t *testing.T, name string, write func(*testing.T) []T) []T {
	t.Helper()
	path := filepath.Join(vectorFolder, name)
	if *update {
		data, err := json.MarshalIndent(write(t), "", " ")
		if err == nil {
			err = errors.Join(os.MkdirAll(vectorFolder, 0o755), os.WriteFile(path, append(data, '\n'), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []T
	if err := json.Unmarshal(data, &list); err != nil || len(list) == 0 {
		t.Fatalf("%d vectors, %v", len(list), err)
	}
	return list
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswerVectors(t *testing.T) {
	for _, v := range readVectors(t, "answers.json", writeAnswers) {
		key := ed25519.PublicKey(unhex(t, v.Key))
		ch, err := ParseChallenge(unhex(t, v.Challenge))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		seed, err := ch.Seed()
		if err != nil || hex.EncodeToString(seed[:]) != v.Seed {
			t.Errorf("%s: seed %x, %v", v.Name, seed, err)
		}
		cp, err := ch.Opened(key)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		d, err := newDraws(ch, cp.Size)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range v.Draws {
			if x := d.at(want[0]); x.index != want[1] || x.number != want[2] {
				t.Errorf("%s: draw %d: entry %d, number %d", v.Name, x.n, x.index, x.number)
			}
		}
		res, err := Verify(bytes.NewReader(unhex(t, v.Answer)), ch, ledger.Log{Origin: cp.Origin, Key: key})
		if got := Judge(res, err, 0, testDeadline); got.String() != v.Expect || res.Checked != v.Checked || res.Objects != v.Objects {
			t.Errorf("%s: %v of %d entries, %v", v.Name, got, res.Checked, err)
		}
	}
}

func writeAnswers(t *testing.T) (out []answerVector) {
	h := newHost("vectors")
	h.charter(t, 1)
	random := rand.New(rand.NewPCG(1, 2))
	for i, n := range []int{1000, 8, 65537, 300} {
		h.store(t, content(random, uint64(i), n))
	}
	h.charter(t, 2)
	add := func(name string, ch *Challenge, answer []byte) {
		res, err := Verify(bytes.NewReader(answer), ch, h.log())
		v := answerVector{
			Name: name, Key: hex.EncodeToString(publicOf(h.key)), Answer: hex.EncodeToString(answer),
			Expect: Judge(res, err, 0, testDeadline).String(), Checked: res.Checked, Objects: res.Objects,
		}
		seed, err := ch.Seed()
		if err != nil {
			t.Fatal(err)
		}
		v.Seed = hex.EncodeToString(seed[:])
		data, err := ch.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		v.Challenge = hex.EncodeToString(data)
		d, err := newDraws(ch, uint64(len(h.entries)))
		if err != nil {
			t.Fatal(err)
		}
		for n := range min(d.limit, 6) {
			x := d.at(n)
			v.Draws = append(v.Draws, [3]uint64{x.n, x.index, x.number})
		}
		out = append(out, v)
	}
	some := h.sample(t, 5, 3)
	all := NewRange(testState, h.id(), h.checkpoint(t, 6), nonceOf(2), 0, 6)
	good := h.answer(t, some)
	add("a sample", some, good)
	add("a range", all, h.answer(t, all))
	add("another's answer", some, h.answer(t, h.sample(t, 6, 3)))
	add("cut", some, good[:len(good)-1])
	add("a byte too many", some, append(bytes.Clone(good), 0))
	add("signed by another key", some, joined(t, some, split(t, good), keyOf("another")))
	frames := split(t, good)
	add("a number in a longer form", some, joined(t, some, append([][]byte{longForm(frames[0])}, frames[1:]...), h.key))
	h.gone[h.names[2]] = true
	add("an object gone", all, h.answer(t, all))
	h.twist = func(p *frameParts) { p.data[0] ^= 0x80 }
	add("a byte flipped", all, h.answer(t, all))
	return out
}

// longForm writes the draw's number, the first after the array's head, in two bytes.
func longForm(frame []byte) []byte {
	return append([]byte{frame[0], 0x18, frame[1]}, frame[2:]...)
}

func TestReportVectors(t *testing.T) {
	for _, v := range readVectors(t, "reports.json", writeReports) {
		got := verdictOn(unhex(t, v.Report), unhex(t, v.Key))
		if got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}

func verdictOn(report, key []byte) string {
	r, err := ParseReport(report)
	if err == nil {
		err = r.Verify()
	}
	for word, kind := range map[string]error{"format": ErrFormat, "unknown": ErrUnknown, "signature": ErrSignature} {
		if errors.Is(err, kind) {
			return word
		}
	}
	found, err := r.Convicts(key)
	if err != nil {
		return "none"
	}
	return found.What.String()
}

func writeReports(t *testing.T) (out []reportVector) {
	h := filled(t, "vectors", 6, 500)
	add := func(name, expect string, r *Report, change func([]byte)) {
		data, err := r.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(data)
		}
		out = append(out, reportVector{name, hex.EncodeToString(publicOf(h.key)), hex.EncodeToString(data), expect})
	}
	ch := h.sample(t, 1, 10)
	good := reported(t, h, ch)
	add("ok", "none", good, nil)
	add("nothing could be asked", "none", signedReport(t, &Run{State: testState, Embassy: h.id(), Started: anyTime, Outcome: Offline, Why: "unreachable"}), nil)
	h.gone[h.names[1]] = true
	add("an object gone", "missing", reported(t, h, ch), nil)
	delete(h.gone, h.names[1])
	h.broken[h.names[1]] = true
	add("an object unreadable", "unreadable", reported(t, h, ch), nil)
	h.twist = func(p *frameParts) { p.data[0] ^= 0x80 }
	bad := reported(t, h, ch)
	add("bytes flipped", "wrong bytes", bad, nil)
	forged := *bad
	forged.Answer = good.Answer
	if err := forged.Sign(keyOf("auditor")); err != nil {
		t.Fatal(err)
	}
	add("the signature of another answer", "none", &forged, nil)
	add("another auditor's signature", "signature", good, func(b []byte) { b[len(b)-1] ^= 1 })
	add("version 2", "unknown", good, func(b []byte) { b[1] = 2 })
	add("an array of another length", "format", good, func(b []byte) { b[0]-- })
	return out
}

func TestCoverageVectors(t *testing.T) {
	kinds := map[string]error{"ok": nil, "format": ErrFormat, "unknown": ErrUnknown}
	for _, v := range readVectors(t, "coverage.json", writeCoverage) {
		data := unhex(t, v.Coverage)
		c, err := ParseCoverage(data)
		if !errors.Is(err, kinds[v.Expect]) {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Expect)
		}
		if err != nil || len(data) == 0 {
			continue
		}
		if again, err := c.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: written as %x, %v", v.Name, again, err)
		}
	}
}

func writeCoverage(t *testing.T) (out []coverageVector) {
	add := func(name, expect string, f coverageFile) {
		data, err := encode(&f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, coverageVector{name, hex.EncodeToString(data), expect})
	}
	at := anyTime.Unix()
	add("an empty ledger", "ok", coverageFile{Version: 1})
	add("seen, audited, lost", "ok", coverageFile{Version: 1, Segments: []segment{
		{From: 0, To: 300, Time: at, State: audited}, {From: 300, To: 301, Time: at, State: lost}, {From: 301, To: 70000, Time: at + 1, State: seen},
	}})
	add("a gap", "format", coverageFile{Version: 1, Segments: []segment{{From: 0, To: 2}, {From: 3, To: 4}}})
	add("an unknown state", "format", coverageFile{Version: 1, Segments: []segment{{From: 0, To: 2, State: 3}}})
	add("version 2", "unknown", coverageFile{Version: 2})
	return append(out, coverageVector{"nothing", "", "ok"})
}
