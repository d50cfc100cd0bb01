package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

const vectorDir = "../../testdata/vectors/ledger/"

// witnessVector is one question about cosignatures and its answer. In Policy a
// member is a list of vkeys under its name.
type witnessVector struct {
	Name   string        `json:"name"`
	Origin string        `json:"origin"`
	Key    string        `json:"key"` // of the log, hex
	Group  string        `json:"group,omitempty"`
	Note   string        `json:"note"`
	Policy *policyVector `json:"policy"`
	// Expect is "enough", "not enough", "format", "signature" or "policy".
	Expect string   `json:"expect"`
	Groups []string `json:"groups,omitempty"` // that vouch
	Time   int64    `json:"time,omitempty"`   // seconds since 1970
	Self   string   `json:"self,omitempty"`   // a member put back,
	Told   []string `json:"told,omitempty"`   // who answered it,
	Thaws  bool     `json:"thaws,omitempty"`  // and whether it thaws
}

type policyVector struct {
	Need   int           `json:"need"`
	Faulty int           `json:"faulty"`
	Groups []groupVector `json:"groups"`
}

type groupVector struct {
	Name    string              `json:"name"`
	Need    int                 `json:"need"`
	Members map[string][]string `json:"members"`
}

func (v *policyVector) policy(t *testing.T) *Policy {
	t.Helper()
	p := &Policy{Need: v.Need, Faulty: v.Faulty}
	for _, g := range v.Groups {
		group := Group{Name: g.Name, Need: g.Need}
		for name, vkeys := range g.Members {
			m := Member{Name: name}
			for _, text := range vkeys {
				k, err := ParseWitnessKey(text)
				if err != nil {
					t.Fatal(err)
				}
				m.Keys = append(m.Keys, k)
			}
			group.Members = append(group.Members, m)
		}
		p.Groups = append(p.Groups, group)
	}
	return p
}

func TestWitnessVectors(t *testing.T) {
	if *update {
		saveVectors(t, "witness.json", witnessVectors(t))
	}
	for _, v := range loadVectors[witnessVector](t, "witness.json") {
		t.Run(v.Name, func(t *testing.T) {
			p := v.Policy.policy(t)
			got, err := p.Judge([]byte(v.Note), Log{Origin: v.Origin, Key: unhex(t, v.Key), Group: v.Group})
			want := map[string]error{"format": ErrFormat, "signature": ErrSignature, "policy": ErrPolicy}[v.Expect]
			if !errors.Is(err, want) {
				t.Fatalf("%v, want %s", err, v.Expect)
			}
			at := time.Time{}
			if v.Time != 0 {
				at = time.Unix(v.Time, 0)
			}
			if got.Enough != (v.Expect == "enough") || !slices.Equal(got.Groups, v.Groups) || !got.Time.Equal(at) {
				t.Errorf("%v, enough %v, at %v", got.Groups, got.Enough, got.Time)
			}
			if v.Self != "" && p.Enough(v.Self, v.Told) != v.Thaws {
				t.Errorf("%s thaws after %v: want %v", v.Self, v.Told, v.Thaws)
			}
		})
	}
}

func loadVectors[T any](t *testing.T, name string) []T {
	t.Helper()
	data, err := os.ReadFile(vectorDir + name)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []T
	if err := json.Unmarshal(data, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	return vectors
}

func saveVectors(t *testing.T, name string, vectors any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(vectors); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorDir+name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func witnessVectors(t *testing.T) []witnessVector {
	t.Helper()
	l := filled(t, "vectors", 12)
	a, b, c, d, pq := cosignerOf(t, "a"), cosignerOf(t, "b"), cosignerOf(t, "c"), cosignerOf(t, "d"), mldsaCosignerOf(t, "d")
	group := func(name string, need int, cs ...*Cosigner) groupVector {
		g := groupVector{Name: name, Need: need, Members: map[string][]string{}}
		for i, x := range cs {
			g.Members[name+string(rune('1'+i))] = []string{x.Key().String()}
		}
		return g
	}
	four := func(need, faulty int) *policyVector {
		last := group("DD", 1, d)
		last.Members["DD1"] = append(last.Members["DD1"], pq.Key().String())
		return &policyVector{Need: need, Faulty: faulty, Groups: []groupVector{group("AA", 1, a), group("BB", 1, b), group("CC", 1, c), last}}
	}
	var out []witnessVector
	add := func(name, expect string, p *policyVector, note []byte, groups ...string) *witnessVector {
		out = append(out, witnessVector{
			Name: name, Origin: l.origin, Key: hex.EncodeToString(l.key.Public().(ed25519.PublicKey)),
			Group: "AA", Note: string(note), Policy: p, Expect: expect, Groups: groups,
		})
		return &out[len(out)-1]
	}
	add("nobody else", "not enough", four(3, 1), l.checkpoint(t, 12), "AA")
	add("one other", "not enough", four(3, 1), l.cosigned(t, 12, noon, b).Raw, "AA", "BB")
	add("two others", "enough", four(3, 1), l.cosigned(t, 12, noon, b, c).Raw, "AA", "BB", "CC").Time = noon.Unix()
	add("Ed25519 without its ML-DSA-44", "not enough", four(3, 1), l.cosigned(t, 12, noon, b, d).Raw, "AA", "BB")
	add("ML-DSA-44 without its Ed25519", "not enough", four(3, 1), l.cosigned(t, 12, noon, b, pq).Raw, "AA", "BB")
	add("Ed25519 and ML-DSA-44", "enough", four(3, 1), l.cosigned(t, 12, noon, b, d, pq).Raw, "AA", "BB", "DD").Time = noon.Unix()
	stranger := cosignerOf(t, "stranger")
	add("a stranger", "not enough", four(3, 1), l.cosigned(t, 12, noon, b, stranger).Raw, "AA", "BB")
	add("of another tree", "signature", four(3, 1), append(l.checkpoint(t, 12), lastLine(t, l.cosigned(t, 11, noon, b).Raw)...))
	add("an ML-DSA-44 of another tree", "signature", four(3, 1), append(l.checkpoint(t, 12), lastLine(t, l.cosigned(t, 11, noon, pq).Raw)...))
	add("another log's", "signature", four(3, 1), filled(t, "another", 12).cosigned(t, 12, noon, b, c).Raw)
	add("no signatures", "format", four(3, 1), []byte("text\n"))
	add("need is half", "policy", four(2, 0), l.cosigned(t, 12, noon, b, c).Raw)
	add("need leaves no room for the faulty", "policy", four(4, 1), l.cosigned(t, 12, noon, b, c).Raw)
	half := &policyVector{Need: 2, Groups: []groupVector{group("AA", 1, a), group("BB", 1, b, c)}}
	add("half a group", "policy", half, l.cosigned(t, 12, noon, b, c).Raw)
	// The log is of a member who has an ML-DSA-44 key too: its signature is half its vote.
	operator, err := NewCosigner(WitnessName(publicOf(l.key)), l.key)
	if err != nil {
		t.Fatal(err)
	}
	own := mldsaCosignerOf(t, "own")
	both := four(3, 1)
	both.Groups[0].Members = map[string][]string{"AA1": {operator.Key().String(), own.Key().String()}}
	add("its own ML-DSA-44", "enough", both, l.cosigned(t, 12, noon, b, c, own).Raw, "AA", "BB", "CC").Time = noon.Unix()
	add("without its own ML-DSA-44", "not enough", both, l.cosigned(t, 12, noon, b, c).Raw, "BB", "CC")
	add("its own Ed25519 twice", "not enough", both, l.cosigned(t, 12, noon, b, c, operator).Raw, "BB", "CC")
	add("its own ML-DSA-44 alone", "not enough", both, l.cosigned(t, 12, noon, own).Raw, "AA")
	add("enough without the log's own", "enough", both, l.cosigned(t, 12, noon, b, c, d, pq).Raw, "BB", "CC", "DD").Time = noon.Unix()
	add("its own ML-DSA-44 of another tree", "signature", both, append(l.checkpoint(t, 12), lastLine(t, l.cosigned(t, 11, noon, own).Raw)...))
	for i, told := range [][]string{{}, {"BB1"}, {"BB1", "CC1"}, {"AA1", "BB1"}, {"BB1", "BB1"}} {
		v := add("thaw "+string(rune('1'+i)), "not enough", four(3, 1), l.checkpoint(t, 12), "AA")
		v.Self, v.Told, v.Thaws = "AA1", told, i == 2
	}
	return out
}

func lastLine(t *testing.T, raw []byte) []byte {
	t.Helper()
	_, lines, err := SplitSignatures(raw)
	if err != nil {
		t.Fatal(err)
	}
	return lines[len(lines)-1]
}

// textVector is a text or document and whether it is read. Kind is
// "add-checkpoint", "proof" or "delivery"; Hex stands for documents.
type textVector struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Text   string `json:"text,omitempty"`
	Hex    string `json:"hex,omitempty"`
	Origin string `json:"origin,omitempty"` // of a proof's log,
	Key    string `json:"key,omitempty"`    // its key, hex,
	Leaf   string `json:"leaf,omitempty"`   // and the leaf that it should prove, hex
	Expect string `json:"expect"`           // "ok", "format", "unknown", "signature" or "proof"
}

func TestTextVectors(t *testing.T) {
	if *update {
		saveVectors(t, "texts.json", textVectors(t))
	}
	for _, v := range loadVectors[textVector](t, "texts.json") {
		t.Run(v.Kind+": "+v.Name, func(t *testing.T) {
			want, ok := verdicts[v.Expect]
			if !ok {
				t.Fatalf("expect %q", v.Expect)
			}
			if err := v.read(t); !errors.Is(err, want) {
				t.Errorf("%v, want %s", err, v.Expect)
			}
		})
	}
}

func (v *textVector) read(t *testing.T) error {
	t.Helper()
	switch v.Kind {
	case "add-checkpoint":
		_, err := ParseAddCheckpoint([]byte(v.Text))
		return err
	case "proof":
		p, err := ParseProof([]byte(v.Text))
		if err != nil {
			return err
		}
		key, err := NewVerifier(v.Origin, unhex(t, v.Key))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Verify(unhex(t, v.Leaf), key)
		return err
	case "delivery":
		d, err := ParseDelivery(unhex(t, v.Hex))
		if err != nil {
			return err
		}
		return d.Verify()
	}
	t.Fatalf("kind %q", v.Kind)
	return nil
}

func textVectors(t *testing.T) []textVector {
	t.Helper()
	var out []textVector
	l := filled(t, "vectors", 12)
	a := AddCheckpoint{Old: 3, Proof: hashes(2), Checkpoint: l.checkpoint(t, 12)}
	good := string(a.Bytes())
	for _, x := range [][3]string{
		{"two hashes", good, "ok"},
		{"a leading zero", "old 03" + good[5:], "format"},
		{"no empty line", good[:6] + good[6:50] + good[51:], "format"},
		{"64 hashes", string((&AddCheckpoint{Old: 3, Proof: hashes(64), Checkpoint: a.Checkpoint}).Bytes()), "format"},
		{"no note", "old 0\n\n", "format"},
	} {
		out = append(out, textVector{Name: x[0], Kind: "add-checkpoint", Text: x[1], Expect: x[2]})
	}
	r := l.receipt(t, 5, 12)
	proof := func(name, expect string, p Proof) {
		out = append(out, textVector{
			Name: name, Kind: "proof", Text: string(p.Bytes()), Origin: l.origin, Key: hex.EncodeToString(publicOf(l.key)),
			Leaf: hex.EncodeToString(r.Leaf), Expect: expect,
		})
	}
	proof("plain", "ok", Proof{Index: 5, Path: r.Proof, Checkpoint: r.Checkpoint})
	proof("with extra", "ok", Proof{Extra: []byte("extra"), Index: 5, Path: r.Proof, Checkpoint: r.Checkpoint})
	proof("cosigned", "ok", Proof{Index: 5, Path: r.Proof, Checkpoint: l.cosigned(t, 12, noon, cosignerOf(t, "a")).Raw})
	proof("another index", "proof", Proof{Index: 6, Path: r.Proof, Checkpoint: r.Checkpoint})
	proof("another log", "signature", Proof{Index: 5, Path: r.Proof, Checkpoint: filled(t, "another", 12).checkpoint(t, 12)})
	proof("64 hashes", "format", Proof{Index: 5, Path: hashes(64), Checkpoint: r.Checkpoint})
	delivery := func(name, expect string, n int, change func([]byte)) {
		d := deliveryOf(t, n)
		data, err := d.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		change(data)
		out = append(out, textVector{Name: name, Kind: "delivery", Hex: hex.EncodeToString(data), Expect: expect})
	}
	delivery("three objects", "ok", 3, func([]byte) {})
	delivery("no objects", "ok", 0, func([]byte) {})
	delivery("another embassy", "signature", 3, func(b []byte) { b[38] ^= 1 })
	delivery("version 2", "unknown", 3, func(b []byte) { b[1] = 2 })
	delivery("head 0", "format", 3, func(b []byte) { b[36] = 0 })
	return out
}
