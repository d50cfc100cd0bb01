package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorDir = "../../testdata/vectors/evidence"

// vector is one file and what must be said of it.
type vector struct {
	Name     string          `json:"name"`
	File     string          `json:"file"`
	Charter  string          `json:"charter"`            // a file, or empty
	Findings []vectorFinding `json:"findings,omitempty"` // of an evidence file
	Expect   string          `json:"expect,omitempty"`   // "ok", "format", "forged" or "not-cosigned"
}

type vectorFinding struct {
	Claim   string  `json:"claim"`
	Outcome Outcome `json:"outcome"`
	By      []Party `json:"by,omitempty"`
}

var refusals = map[string]error{"ok": nil, "format": ErrFormat, "forged": ErrForged, "not-cosigned": ErrNotCosigned}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	var list []vector
	if err := json.Unmarshal(first(os.ReadFile(filepath.Join(vectorDir, "cases.json"))), &list); err != nil || len(list) == 0 {
		t.Fatalf("%d vectors, %v", len(list), err)
	}
	for _, v := range list {
		t.Run(v.Name, func(t *testing.T) {
			data := first(os.ReadFile(filepath.Join(vectorDir, v.File)))
			var c *charter.Charter
			if v.Charter != "" {
				c = first(charter.Parse(first(os.ReadFile(filepath.Join(vectorDir, v.Charter)))))
			}
			if v.Expect != "" {
				want, ok := refusals[v.Expect]
				var err error
				if strings.HasSuffix(v.File, ".receipts") {
					_, err = verifyBundle(data, c)
				} else {
					_, err = readBytes(data)
				}
				if !ok || !errors.Is(err, want) {
					t.Errorf("%v, want %s", err, v.Expect)
				}
				return
			}
			p, err := readBytes(data)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(written(t, p), data) {
				t.Error("written again it is another file")
			}
			for _, want := range v.Findings {
				got := first(Judge(p, []Claim{first(ParseClaim(want.Claim))}, c)).Findings[0]
				if got.Outcome != want.Outcome || !slices.Equal(got.By, want.By) {
					t.Errorf("%s: %s by %v, want %s by %v", want.Claim, got.Outcome, got.By, want.Outcome, want.By)
				}
			}
		})
	}
}

// writeVectors makes all files from fixed seeds.
func writeVectors(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(vectorDir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	w.snapshot(1, 2, nil)
	lu, is := w.logs["lu"], w.logs["is"]
	put("charter.yaml", w.charter.Bytes())
	var list []vector
	add := func(name, charter string, p *Pack, claims ...string) {
		v := vector{Name: name, File: name + ".evidence", Charter: charter}
		put(v.File, written(t, p))
		trusted := w.charter
		if charter == "" {
			trusted = nil
		}
		var parsed []Claim
		for _, c := range claims {
			parsed = append(parsed, first(ParseClaim(c)))
		}
		for _, f := range first(Judge(p, parsed, trusted)).Findings {
			v.Findings = append(v.Findings, vectorFinding{f.Claim, f.Outcome, f.By})
		}
		list = append(list, v)
	}
	add("honest", "charter.yaml", w.pack(lu.show(0, lu.cosigned()), is.show(0, is.cosigned())))
	add("no-charter-given", "", w.pack(lu.show(0, lu.cosigned())))
	never := "lost:" + hexOf(make([]byte, 32)) + ":lu"
	add("never-stored", "charter.yaml", w.pack(lu.show(0, lu.cosigned())), never)
	hidden := w.pack(lu.show(0, lu.cosigned()))
	hidden.Withhold(func(_ string, i uint64, _ *ledger.Leaf) bool { return i == 2 })
	add("withheld", "charter.yaml", hidden, never, "one-history:lu", "witness:is")
	bundles := map[string]*Bundle{"ok": w.receipts(cosigned, allHosts...), "not-cosigned": w.receipts(cosigned, "pt")}
	bundles["forged"] = w.receipts(cosigned, allHosts...)
	bundles["forged"].Sites[0].Objects = bundles["forged"].Sites[0].Objects[1:]
	other := lu.fork()
	lu.object(hash32(50))
	other.object(hash32(51))
	add("two-histories", "charter.yaml", w.pack(lu.show(3, lu.cosigned(), other.checkpoint(0))))
	lie := w.pack(lu.show(0, lu.cosigned()))
	lie.Ledgers[0].Checkpoints = append(lie.Ledgers[0].Checkpoints, Checkpoint{"paper", lu.stripped(w.cosign(other.checkpoint(0), w.now, "is"))})
	add("witness-of-two", "charter.yaml", lie)

	for _, x := range []struct {
		name  string
		early func(*story)
	}{
		{"order", func(s *story) { s.takes(s.agreed("30m"), signerKey, jaanKey, hostKey); s.see() }},
		{"order-too-soon", func(s *story) {
			s.takes(s.agreed("30d"), signerKey, jaanKey, hostKey)
			s.see()
			s.wait = 50 * time.Minute
		}},
		{"order-of-suspended", func(s *story) { s.who(charter.ActSuspend, "jaan", epoch); s.see() }},
	} {
		s := newStoryOf(t, agreeingCharter(), x.early)
		p := s.tell()
		put("order.yaml", s.w.charter.Bytes())
		w.charter = s.w.charter
		of := func(kind string) string { return kind + ":" + hexOf(s.hash[:]) + ":lu" }
		add(x.name, "order.yaml", p, of("executed"), of("waited"), of("kept"), "removals:lu")
	}
	gone := erasureWorld(t)
	erased := gone.tell()
	put("erased.yaml", gone.w.charter.Bytes())
	w.charter = gone.w.charter
	add("erased", "erased.yaml", erased)
	erased.Records = slices.DeleteFunc(erased.Records, func(r Record) bool {
		return r.Kind == ledger.AttestationRecord && bytes.Contains(r.Data, []byte("custodian: eva"))
	})
	add("erased-too-few", "erased.yaml", erased, erasedClaim, destroyedClaim)

	spoiled := written(t, hidden)
	spoiled[100] ^= 1
	put("spoiled.evidence", spoiled)
	list = append(list, vector{Name: "spoiled", File: "spoiled.evidence", Expect: "format"})
	for _, name := range []string{"ok", "not-cosigned", "forged"} {
		put(name+".receipts", bundled(t, bundles[name]))
		list = append(list, vector{Name: "receipts " + name, File: name + ".receipts", Charter: "charter.yaml", Expect: name})
	}
	list = append(list, historyVectors(t, put)...)
	put("cases.json", append(first(json.MarshalIndent(list, "", "  ")), '\n'))
}

// historyVectors are bundles with all before it: whole, with a released object, and with a snapshot between left out.
func historyVectors(t *testing.T, put func(string, []byte)) (list []vector) {
	t.Helper()
	w := newWorld(t)
	one := w.snapshot(1, 2, nil)
	two := w.snapshot(2, 1, one)
	three := w.snapshot(3, 1, two)
	for _, v := range []struct{ name, expect string }{{"all", "ok"}, {"all-released", "not-cosigned"}, {"all-gap", "forged"}} {
		b := w.receiptsOf(three)
		b.Before = []Bundle{w.receiptsOf(one), w.receiptsOf(two)}
		switch v.name {
		case "all-released":
			b.Before[0].Sites[0].Objects = b.Before[0].Sites[0].Objects[1:]
		case "all-gap":
			b.Before = b.Before[:1]
		}
		put(v.name+".receipts", bundled(t, &b))
		list = append(list, vector{Name: "receipts " + v.name, File: v.name + ".receipts", Charter: "charter.yaml", Expect: v.expect})
	}
	return list
}
