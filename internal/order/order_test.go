package order

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func take(n uint64, size int) []byte {
	b := make([]byte, size)
	var seed [32]byte
	seed[0], seed[1] = byte(n), byte(n>>8)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

func testKey(n uint64) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(take(n, ed25519.SeedSize)) }

func pub(n uint64) ed25519.PublicKey { return testKey(n).Public().(ed25519.PublicKey) }

func sshKey(n uint64) string {
	text, err := charter.SSHPublicKey(pub(n))
	if err != nil {
		panic(err)
	}
	return text
}

// mari's second key is a hardware key; so is the only one of kati.
const (
	mari, jaan, anna, olev, eva, kati = 10, 11, 12, 13, 14, 15
	mariHard, katiHard                = 60, 61
)

// sampleCharter has representatives, who order, elders, who stop, and guards, who erase with touched hardware keys.
func sampleCharter() charter.Charter {
	person := func(name string, keys ...string) charter.Person {
		return charter.Person{Name: name, Office: "Office of " + name, From: "2026-01-01", Keys: keys}
	}
	c := charter.Charter{
		Version: 3, State: charter.State{ID: charter.StateID(take(1, 16)), Name: "Republic of Orders", Code: "UM"},
		Number: 1, Suite: charter.Suite,
		People: []charter.Person{
			person("mari", sshKey(mari), hardware(mariHard, 1).Text()), person("jaan", sshKey(jaan)), person("anna", sshKey(anna)),
			person("olev", sshKey(olev)), person("eva", sshKey(eva)), person("kati", hardware(katiHard, 1).Text()),
		},
		Roles: []charter.Role{
			{Name: "representative", People: []string{"mari", "jaan", "anna"}},
			{Name: "elder", People: []string{"olev", "eva"}},
			{Name: "guard", People: []string{"mari", "kati", "jaan"}},
		},
		Custody:    charter.Custody{Generation: 1, Threshold: 1, OpeningKey: charter.EncodeKey(take(20, charter.OpeningKeySize)), RecoveryKey: charter.EncodeKey(pub(21))},
		Agents:     []charter.Agent{{Name: "home-1", Key: charter.EncodeKey(pub(40))}},
		Succession: charter.Succession{Role: "elder", Need: 2, After: "14d", StoppedBy: "representative"},
	}
	c.People[2].Until = "2026-12-31"
	const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	recipient := take(30, 1952)
	for i := range recipient {
		recipient[i] = letters[recipient[i]%32]
	}
	c.Custody.Custodians = []charter.Custodian{{Name: "custodian-1", X: 1, Recipient: "age1pq1" + string(recipient), Commitment: charter.EncodeDigest([32]byte{1})}}
	for i, name := range []string{"lisbon", "lux", "reykjavik"} {
		key := pub(uint64(50 + i))
		id := charter.EmbassyIDOf(key)
		c.Embassies = append(c.Embassies, charter.Embassy{
			Name: name, Country: []string{"PT", "LU", "IS"}[i], ID: id, Key: charter.EncodeKey(key),
			URLs: []string{"https://" + name + ".example"}, Origin: "chancery.dev/ledger/" + name,
		})
	}
	for _, k := range Kinds() {
		c.Acts = append(c.Acts, charter.Act{Act: k.Name, Role: "representative", Need: 2, Cooling: "72h", Valid: "7d", Touch: "no", Veto: "elder"})
	}
	c.Acts[0].Role, c.Acts[0].Touch = "guard", "yes" // erase
	return c
}

func mustCharter(t testing.TB, change ...func(*charter.Charter)) *charter.Charter {
	t.Helper()
	c := sampleCharter()
	for _, f := range change {
		f(&c)
	}
	n, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sampleOrder(c *charter.Charter, kind charter.ActName) Order {
	o := Order{
		Kind: kind, State: c.State.ID, Charter: c.Number, CharterHash: c.Hash(), Embassies: []string{"lisbon", "lux"},
		Proposer: "mari", Created: noon.Add(-time.Hour), Expires: noon.AddDate(0, 0, 6), Nonce: [16]byte(take(2, 16)),
		Reason: "The court of Tallinn has so decided (3-19-77)",
	}
	o.Content = sampleContent(kind, c)
	return o
}

func sampleContent(kind charter.ActName, c *charter.Charter) (x Content) {
	all := Content{
		Register: charter.RegisterID(take(3, 16)), Label: "land register", Snapshots: []uint64{3, 9, 12},
		Lists: []List{{"lisbon", sha256.Sum256([]byte("a")), 12, 786432}, {"lux", sha256.Sum256([]byte("b")), 0, 0}},
		Hold:  "court-3-19", Who: Who{Name: "jaan"}, Recipient: [32]byte(take(4, 32)), Record: [32]byte(take(5, 32)),
		Generation: 2, Records: []RecordRef{{charter.RegisterID{1}, [32]byte{1}}, {charter.RegisterID{2}, [32]byte{2}}},
		Number: c.Number + 1, Hash: [32]byte(take(6, 32)),
	}
	k, _ := KindOf(kind)
	for _, name := range k.Fields {
		if err := fields[name].set(&x, fields[name].get(&all)); err != nil {
			panic(err)
		}
	}
	return x
}

func mustOrder(t testing.TB, o Order) *Order {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEveryKindKeepsExactBytesAndFields(t *testing.T) {
	c := mustCharter(t)
	for _, k := range Kinds() {
		want := sampleOrder(c, k.Name)
		got := mustOrder(t, want)
		if again, err := Parse(got.Bytes()); err != nil || !bytes.Equal(again.Bytes(), got.Bytes()) {
			t.Errorf("%s: read again: %v", k.Name, err)
		}
		got.doc = nil
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: fields differ:\n%+v\n%+v", k.Name, *got, want)
		}
		if got.Say() == "" || len(k.Does) == 0 {
			t.Errorf("%s: says nothing to people", k.Name)
		}
	}
}

// An order has one text: whatever else says the same, or more, is refused with its line.
func TestAnOrderHasOneText(t *testing.T) {
	doc := string(mustOrder(t, sampleOrder(mustCharter(t), charter.ActErase)).Bytes())
	tests := map[string]struct{ text, say string }{
		"a comment more":        {strings.Replace(doc, "reason:", "# All of this is harmless.\nreason:", 1), "line 20"},
		"a comment less":        {doc[strings.Index(doc, "\n")+1:], "line 1"},
		"another comment":       {strings.Replace(doc, "cannot be brought back", "can be brought back", 1), "line 3"},
		"an empty line more":    {strings.Replace(doc, "content:", "\ncontent:", 1), "line 21"},
		"a line behind":         {doc + "\n", "more than"},
		"the last line gone":    {doc[:strings.LastIndex(doc[:len(doc)-1], "\n")+1], "lists"},
		"a field twice":         {strings.Replace(doc, "nonce:", "nonce: \"00\"\nnonce:", 1), "nonce"},
		"an unknown field":      {strings.Replace(doc, "nonce:", "also: \"x\"\nnonce:", 1), "also"},
		"fields in other order": {swap(doc, "proposer:", "reason:"), "want exactly"},
		"no newline":            {strings.TrimSuffix(doc, "\n"), "newline"},
		"an anchor":             {strings.Replace(doc, `"mari"`, `&a "mari"`, 1), "not of the form"},
		"a number as text":      {strings.Replace(doc, "charter: 1", `charter: "1"`, 1), ""},
		"uppercase":             {strings.Replace(doc, "nonce: \"", "nonce: \"A", 1), "nonce"},
		"local time":            {strings.Replace(doc, "11:00:00Z", "13:00:00+02:00", 1), "created"},
		"version 2":             {strings.Replace(doc, "version: 1", "version: 2", 1), "version 2"},
		"too long":              {doc + strings.Repeat("# x\n", MaxSize/4), "longer"},
		"a list for one":        {strings.Replace(doc, "- \"lux\"", "- \"oslo\"", 1), ""},
		"content of another":    {strings.Replace(doc, "order: \"erase\"", "order: \"suspend\"", 1), "content"},
	}
	for name, test := range tests {
		if test.text == doc {
			t.Fatalf("%s: nothing was changed", name)
		}
		_, err := Parse([]byte(test.text))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v, want ErrInvalid with %q", name, err, test.say)
		}
	}
	if _, err := Parse([]byte(strings.ReplaceAll(doc, "\"erase\"", "\"forget\""))); !errors.Is(err, ErrKind) {
		t.Errorf("unknown kind: %v", err)
	}
}

// swap exchanges the lines that begin with a and b.
func swap(doc, a, b string) string {
	lines := strings.Split(doc, "\n")
	i := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, a) })
	j := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(s, b) })
	lines[i], lines[j] = lines[j], lines[i]
	return strings.Join(lines, "\n")
}
