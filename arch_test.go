// Package chancery_test holds the rules of the house: what may import what, and what no code may do.
package chancery_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "chancery.dev/chancery"

// A room is one package: what it may import of the house, and why the line is drawn there. Everything that a room
// may import stands on a lower floor than the room itself.
type room struct {
	name string // path below the module, without "internal/"
	may  string // packages of the house that it may import
	why  string // printed when it imports another
}

// floors is the house from the top down. Imports go down only, and to a room of the same floor never.
var floors = [][]room{
	{
		{"sim", everything, "sim is for tests: nothing may import it"},
		{"attack", everything, "attack is for tests: nothing may import it"},
		{"vectest", "", "vectest is for tests: nothing may import it"},
		{"pgtest", "cluster wal", "pgtest is for tests: nothing may import it"},
	},
	{
		{"cmd/chancery", everything, "cmd joins the parts; nothing may import it"},
	},
	{
		{
			"postgres", "archive stream register filetree snapshot cluster wal canon pack",
			"a cluster is a register like any other: it stands on the archive, and is handed keys as the archive is",
		},
	},
	{
		{
			"archive", "stream register filetree index snapshot custody charter ledger pack shard seal chunk durable",
			"archive knows embassies only as register does, and is handed its keys by cmd, so it imports neither embassy nor home",
		},
	},
	{
		{
			"stream", "register snapshot charter ledger pack shard chunk durable",
			"a stream is a log of its own, which snapshots may need and which needs none: it knows no trees, indexes or heads",
		},
	},
	{
		{
			"register", "snapshot charter ledger pack shard seal chunk",
			"register knows an embassy only by the small interfaces that it declares (so that sim can stand in for it): it joins " +
				"the shares of several, and knows neither trees nor streams nor where they are kept at home",
		},
	},
	{
		{
			"home", "snapshot custody charter retention ledger pack shard seal chunk peer durable",
			"home is the folder of keys and definitions: it moves no data and talks to no embassy",
		},
	},
	{
		{
			"embassy", "witness audit agreement order ledger charter shard canon peer durable",
			"a host must hold nothing that opens: an embassy knows names, ledgers and charters, and no seal, pack or snapshot",
		},
	},
	{
		{"filetree", "", "filetree reads and writes real trees and knows nothing of backups"},
		{"cluster", "wal", "cluster speaks with a running database server and knows nothing of what becomes of what it says"},
		{"index", "snapshot pack shard chunk durable", "index keeps where chunks are and needs no key but the reader's word"},
		{"witness", "ledger peer durable", "a witness remembers how far it saw each log and knows nothing of what is in one"},
	},
	{
		{
			"evidence", "auditor audit agreement order snapshot custody charter ledger shard",
			"a court checks an evidence pack with no key and no network: evidence judges documents and fetches none",
		},
	},
	{
		{"agreement", "charter canon", "two states sign it and an embassy obeys it: it judges documents, and knows no server, register or key that opens"},
		{"auditor", "charter ledger", "it recomputes a log from its tiles and shares no code with what keeps the log"},
		{"order", "charter ledger canon", "embassies carry orders out: whatever order imports is within a host's reach"},
		{"audit", "ledger shard canon", "embassy and auditor both stand on it: it needs names, proofs and signatures, and no key that opens"},
	},
	{
		{"snapshot", "pack seal shard chunk canon", "a head names packs, shares and chunks by their own types, and nothing above them"},
		{"wal", "", "positions, names and page headers are judged offline, wherever the log has come to lie"},
		{"retention", "", "which snapshots rules keep is a matter of order and time alone: nothing that an agent or a home says can reach it"},
		{"custody", "", "the opening key's shares must be readable in thirty years with age and this package alone"},
		{"charter", "ledger canon", "embassies read charters: whatever charter imports is within a host's reach"},
	},
	{
		{"ledger", "canon", "anyone checks a receipt offline: ledger needs proofs and notes, and nothing of the archive"},
	},
	{
		{"pack", "seal shard chunk", "a pack is chunks, sealed, made for shares"},
	},
	{
		{"seal", "", "formats stand on the standard library alone"},
		{"shard", "", "embassies import shard: it must not reach what seals"},
		{"chunk", "", "formats stand on the standard library alone"},
	},
	{
		{"durable", "", "fsync and rename in one small place that knows nothing else"},
		{"canon", "", "what every signed document is read by must stand on the encoding alone, and know no document"},
		{"peer", "", "keys and connections of every end: what it imported, each host and witness would reach"},
	},
}

const everything = "postgres archive stream register home embassy filetree cluster index witness evidence agreement auditor audit order snapshot wal retention custody charter ledger pack seal shard chunk canon peer durable"

// pure are the formats and what is composed of them: bytes in, bytes out.
var pure = strings.Fields("evidence agreement auditor audit order snapshot wal retention custody charter ledger pack seal shard chunk canon")

// A wall is a promise about everything that a package reaches, through however many others.
type wall struct {
	from   string
	never  []string // rooms of the house
	others []string // packages of elsewhere
	why    string
}

var walls = []wall{
	{
		from: "embassy", never: strings.Fields("seal custody pack chunk snapshot index register stream archive home filetree cluster postgres"),
		others: []string{"crypto/hpke", "filippo.io/age", "filippo.io/hpke"},
		why:    "a blind host (P1): what an embassy is built from must contain nothing that can open",
	},
	{
		from: "archive", never: []string{"embassy", "home"},
		why: "cmd joins archive and embassy, and sim replaces the embassy by a lying one",
	},
	{
		from: "stream", never: []string{"embassy", "home", "filetree", "index"},
		why: "cmd joins stream and embassy, as it does for archive; and whoever writes a log must not need a tree for it",
	},
	{
		from: "register", never: []string{"embassy", "home"},
		why: "an embassy is what the interfaces say, and keys are handed over: what joins several hosts must not know one",
	},
}

// rules are checked on every Go file of the module.
var rules = []struct {
	name, why string
	check     func(*house) []string
}{
	{"imports go down", "the reason stands beside each room in arch_test.go; a room is added there and in docs/design", importsGoDown},
	{"walls hold", "some packages must not be reached at all", wallsHold},
	{"formats are pure", "files, network, clock and randomness are arguments, so that vectors, fuzzing and sim reach every branch", formatsArePure},
	{"no init", "what happens before main cannot be tested, ordered or refused", noInit},
	{"errors are returned", "below cmd an error goes up to the one exit that maps it to a code", errorsAreReturned},
	{"packages have nouns", "put the thing where its noun lives", packagesHaveNouns},
	{"one package comment", "it promises what happens to old data, once", onePackageComment},
	{"exported names are explained", "a comment is the contract: units, ownership, errors", exportedNamesAreExplained},
	{"files are short", "at most 500 lines: split by noun", filesAreShort},
	{"functions are short", "at most 70 lines: name the steps", functionsAreShort},
	{"tests do not skip", "a test that can skip is not seen missing; install what it needs instead", testsDoNotSkip},
}

func TestHouse(t *testing.T) {
	h := parse(t, readSources(t))
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			if found := r.check(h); len(found) > 0 {
				t.Errorf("%s\nThe rule: %s: %s.", strings.Join(found, "\n"), r.name, r.why)
			}
		})
	}
}

func TestModuleFile(t *testing.T) {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range moduleIsPinned(b) {
		t.Error(found)
	}
}

// The table itself must go down: a room may import only rooms of lower floors.
func TestTableGoesDown(t *testing.T) {
	for _, found := range tableGoesDown(floors) {
		t.Error(found)
	}
}

// The threat model names the test that shows each claim; a test that was renamed or lost must not be named on.
func TestThreatModelNamesRealTests(t *testing.T) {
	doc, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range namesRealTests(parse(t, readSources(t)), string(doc)) {
		t.Errorf("docs/threat-model.md: %s", found)
	}
}

// The page on the agreement names the tests that show what is enforced; each must be there.
func TestAgreementNamesRealTests(t *testing.T) {
	doc, err := os.ReadFile("docs/agreement.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range namesRealTests(parse(t, readSources(t)), string(doc)) {
		t.Errorf("docs/agreement.md: %s", found)
	}
}

// readSources reads every Go file of the module but those in testdata and hidden folders. The files are opened here,
// in the test's own process, so that a cached result is dropped when one of them changes.
func readSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != "." && (name == "testdata" || name[0] == '.' || name[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || name[0] == '.' || name[0] == '_' {
			return nil
		}
		b, err := os.ReadFile(path)
		sources[filepath.ToSlash(path)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func findRoom(name string) (room, bool) {
	for _, floor := range floors {
		if i := slices.IndexFunc(floor, func(r room) bool { return r.name == name }); i >= 0 {
			return floor[i], true
		}
	}
	return room{}, false
}
