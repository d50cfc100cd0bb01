package charter

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// seeded returns deterministic bytes for tests.
func seeded(n uint64) *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, n)))
}

func take(n uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = seeded(n).Read(b)
	return b
}

var testKeys sync.Map // of number to key: making one takes longer than most tests

func testKey(n uint64) ed25519.PrivateKey {
	if k, ok := testKeys.Load(n); ok {
		return k.(ed25519.PrivateKey)
	}
	k, err := GenerateSSHKey(seeded(n))
	if err != nil {
		panic(err)
	}
	testKeys.Store(n, k)
	return k
}

func pub(n uint64) ed25519.PublicKey { return testKey(n).Public().(ed25519.PublicKey) }

func signerOf(name string, n uint64) Signer {
	text, err := SSHPublicKey(pub(n))
	if err != nil {
		panic(err)
	}
	return Signer{Name: name, Key: text}
}

// recipientOf makes text of the right form; the charter does not look inside.
func recipientOf(n uint64) string {
	const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	b := take(n, 1952)
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return "age1pq1" + string(b)
}

func embassyOf(name, country string, n uint64) Embassy {
	id := EmbassyIDOf(pub(n))
	return Embassy{
		Name: name, Country: country, ID: id, Key: EncodeKey(pub(n)),
		URLs: []string{"https://" + name + ".example:8443"}, Origin: "chancery.dev/ledger/" + id.String(),
	}
}

// sample returns a valid charter of two signers of three, three custodians of
// five, one agent, three embassies, the two witnesses home and tallinn, and one
// auditor.
func sample() Charter {
	c := sampleOfVersion1()
	c.Version, c.Freshness = 2, 24
	c.Witnesses = []Witness{
		witnessOf("home", "UM", 80),
		{
			Name: "tallinn", Country: "EE", Cosigner: "witness.example/tallinn", Key: EncodeKey(pub(81)),
			MLDSAKey: EncodeKey(take(82, MLDSAKeySize)), URL: "https://witness.example/tallinn",
		},
	}
	c.Auditors = []Auditor{{Name: "court", Key: EncodeKey(pub(85))}}
	c.Witnessing = Witnessing{Need: 4, Faulty: 1, Groups: []WitnessGroup{{"EE", 1}, {"IS", 1}, {"LU", 1}, {"PT", 1}, {"UM", 1}}}
	return c
}

func witnessOf(name, country string, n uint64) Witness {
	return Witness{Name: name, Country: country, Cosigner: CosignerName(pub(n)), Key: EncodeKey(pub(n))}
}

// sampleOfVersion1 is what the first release wrote.
func sampleOfVersion1() Charter {
	c := Charter{
		Version: 1, State: State{ID: StateID(take(1, 16)), Name: "Republic of Ümlaut", Code: "UM"},
		Number: 1, Suite: Suite, Threshold: 2,
		Signers: []Signer{signerOf("mari", 10), signerOf("jaan", 11), signerOf("true", 12)},
		Custody: Custody{Generation: 1, Threshold: 3, OpeningKey: EncodeKey(take(20, OpeningKeySize)), RecoveryKey: EncodeKey(pub(21))},
		Agents:  []Agent{{Name: "home-1", Key: EncodeKey(pub(40))}},
		Embassies: []Embassy{
			embassyOf("lux", "LU", 50), embassyOf("reykjavik", "IS", 51), embassyOf("lisbon", "PT", 52),
		},
	}
	for i := range 5 {
		c.Custody.Custodians = append(c.Custody.Custodians, Custodian{
			Name: fmt.Sprintf("custodian-%d", i+1), X: uint8(i + 1),
			Recipient: recipientOf(uint64(30 + i)), Commitment: EncodeDigest([32]byte(take(uint64(30+i), 32))),
		})
	}
	return c
}

func mustNew(t testing.TB, c Charter) *Charter {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCharterKeepsExactBytesAndFields(t *testing.T) {
	want := sample()
	doc, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), doc) || got.Hash() != sha256.Sum256(doc) {
		t.Error("bytes or hash differ from the document")
	}
	got.doc = nil
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("fields differ:\n%+v\n%+v", *got, want)
	}
}

func TestCharterWithoutAgentsAndEmbassiesIsValid(t *testing.T) {
	c := sample()
	c.Agents, c.Embassies = []Agent{}, []Embassy{}
	c.Witnesses, c.Auditors, c.Witnessing = nil, nil, Witnessing{}
	n := mustNew(t, c)
	if len(n.Agents) != 0 || len(n.Embassies) != 0 || n.Witnessing.Need != 0 || len(n.Witnessing.Groups) != 0 {
		t.Error("lists are not empty")
	}
}

func TestCommentsMayComeAndGoAndAreHashed(t *testing.T) {
	c := mustNew(t, sample())
	var bare []byte
	for line := range bytes.Lines(c.Bytes()) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			bare = append(bare, line...)
		}
	}
	for name, doc := range map[string][]byte{
		"without": bare, "more": append([]byte("# noted\n\n  # again\n"), bare...),
	} {
		got, err := Parse(doc)
		if err != nil {
			t.Fatalf("%s comments: %v", name, err)
		}
		if got.Hash() == c.Hash() {
			t.Errorf("%s comments: the hash does not cover them", name)
		}
	}
}

func TestParseRefusesAllButTheCanonicalForm(t *testing.T) {
	base := string(mustNew(t, sample()).Bytes())
	swap := func(old, new string) string {
		if !strings.Contains(base, old) {
			t.Fatalf("the sample has no %q", old)
		}
		return strings.Replace(base, old, new, 1)
	}
	tests := map[string]struct{ doc, want string }{
		"empty":             {"", "newline"},
		"unknown field":     {swap("number: 1\n", "number: 1\nmotto: \"x\"\n"), "motto"},
		"repeated field":    {swap("number: 1\n", "number: 1\nnumber: 1\n"), "number"},
		"other order":       {swap("number: 1\nprevious: \"\"\n", "previous: \"\"\nnumber: 1\n"), "want exactly"},
		"plain text":        {swap(`name: "mari"`, `name: mari`), "line "},
		"single quotes":     {swap(`name: "mari"`, `name: 'mari'`), "line "},
		"escape":            {swap(`name: "mari"`, `name: "m\x61ri"`), "line "},
		"anchor":            {swap("signers:\n", "signers: &a\n"), "line "},
		"tag":               {swap("number: 1", "number: !!int 1"), "line "},
		"flow":              {swap("agents:\n", "agents: [{}]\n"), "line "},
		"second document":   {base + "---\n", "line "},
		"text at the end":   {base + "x: 1\n", "x"},
		"comment after":     {swap("number: 1", "number: 1 # one"), "line "},
		"hexadecimal":       {swap("number: 1", "number: 0x1"), "line "},
		"leading zero":      {swap("number: 1", "number: 01"), "line "},
		"space at line end": {swap("number: 1\n", "number: 1 \n"), "line "},
		"carriage returns":  {strings.ReplaceAll(base, "\n", "\r\n"), "cannot be seen"},
		"tab":               {swap("  name:", "\tname:"), "cannot be seen"},
		"text direction":    {swap("# Charter", "# \u202eCharter"), "cannot be seen"},
		"not UTF-8":         {swap("# Charter", "# \xff"), "UTF-8"},
		"no last newline":   {strings.TrimSuffix(base, "\n"), "newline"},
		"deeper":            {swap("  id:", "   id:"), ""},
		"end missing":       {base[:strings.LastIndex(base, "    key")], "key"},
		"upper case id":     {swap("id: \""+sample().State.ID.String(), "id: \""+strings.ToUpper(sample().State.ID.String())), ""},
		"huge":              {base + strings.Repeat("#\n", MaxSize), "longer"},
		"number overflow":   {swap("number: 1\n", "number: 99999999999999999999999\n"), ""},
		"null list":         {swap("agents:\n  - name: \"home-1\"\n    key: \""+sample().Agents[0].Key+"\"\n", "agents:\n"), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(test.doc))
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v, want ErrInvalid", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not speak of %q", err, test.want)
			}
		})
	}
	if _, err := Parse([]byte(base)); err != nil {
		t.Errorf("control: %v", err)
	}
}

func TestEveryRuleOfACharter(t *testing.T) {
	same := func(c *Charter) *[]Embassy { return &c.Embassies }
	tests := map[string]struct {
		change func(*Charter)
		want   string
	}{
		"version":                    {func(c *Charter) { c.Version = 3 }, "version 3"},
		"version 0":                  {func(c *Charter) { c.Version = 0 }, "version 0"},
		"suite":                      {func(c *Charter) { c.Suite = "chancery-0" }, "suite"},
		"state id zero":              {func(c *Charter) { c.State.ID = StateID{} }, "state id"},
		"state name empty":           {func(c *Charter) { c.State.Name = "" }, "state name"},
		"state name with newline":    {func(c *Charter) { c.State.Name = "a\nb" }, "state name"},
		"state name with quote":      {func(c *Charter) { c.State.Name = `a"b` }, "state name"},
		"state code":                 {func(c *Charter) { c.State.Code = "ee" }, "state code"},
		"number 0":                   {func(c *Charter) { c.Number = 0 }, "number"},
		"previous of charter 1":      {func(c *Charter) { c.Previous = EncodeDigest([32]byte{1}) }, "previous"},
		"no previous of charter 2":   {func(c *Charter) { c.Number = 2 }, "previous"},
		"no signers":                 {func(c *Charter) { c.Signers = nil }, "threshold"},
		"threshold 0":                {func(c *Charter) { c.Threshold = 0 }, "threshold"},
		"threshold below 0":          {func(c *Charter) { c.Threshold = -1 }, "threshold"},
		"threshold too high":         {func(c *Charter) { c.Threshold = 4 }, "threshold"},
		"signer name twice":          {func(c *Charter) { c.Signers[1].Name = "mari" }, "mari is taken"},
		"signer key twice":           {func(c *Charter) { c.Signers[1].Key = c.Signers[0].Key }, "same key as signer mari"},
		"signer name":                {func(c *Charter) { c.Signers[1].Name = "Mari" }, "name"},
		"signer key with comment":    {func(c *Charter) { c.Signers[1].Key += " me" }, "comment"},
		"signer key damaged":         {func(c *Charter) { c.Signers[1].Key = "ssh-ed25519 AAAA" }, "signer jaan"},
		"too many signers":           {func(c *Charter) { c.Signers = make([]Signer, MaxSigners+1) }, "at most"},
		"generation 0":               {func(c *Charter) { c.Custody.Generation = 0 }, "generation"},
		"custody threshold 0":        {func(c *Charter) { c.Custody.Threshold = 0 }, "custody: threshold"},
		"custody threshold too high": {func(c *Charter) { c.Custody.Threshold = 6 }, "custody: threshold"},
		"opening key":                {func(c *Charter) { c.Custody.OpeningKey = EncodeKey([]byte("short")) }, "opening_key"},
		"recovery key":               {func(c *Charter) { c.Custody.RecoveryKey = "x" }, "recovery_key"},
		"custodian name twice":       {func(c *Charter) { c.Custody.Custodians[1].Name = "custodian-1" }, "is taken"},
		"share number twice":         {func(c *Charter) { c.Custody.Custodians[1].X = 1 }, "x is 1, want 2"},
		"share number 0":             {func(c *Charter) { c.Custody.Custodians[0].X = 0 }, "x is 0, want 1"},
		"recipient twice": {func(c *Charter) {
			c.Custody.Custodians[1].Recipient = c.Custody.Custodians[0].Recipient
		}, "same recipient as custodian-1"},
		"classic recipient": {func(c *Charter) {
			c.Custody.Custodians[1].Recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
		}, "post-quantum"},
		"commitment twice": {func(c *Charter) {
			c.Custody.Custodians[1].Commitment = c.Custody.Custodians[0].Commitment
		}, "same commitment as custodian-1"},
		"commitment":               {func(c *Charter) { c.Custody.Custodians[1].Commitment = "AB" }, "commitment"},
		"agent name twice":         {func(c *Charter) { c.Agents = append(c.Agents, Agent{Name: "home-1", Key: EncodeKey(pub(41))}) }, "is taken"},
		"agent key twice":          {func(c *Charter) { c.Agents = append(c.Agents, Agent{Name: "home-2", Key: c.Agents[0].Key}) }, "same key as agent home-1"},
		"agent key":                {func(c *Charter) { c.Agents[0].Key = "AAAA" }, "agent home-1"},
		"agent is recovery":        {func(c *Charter) { c.Agents[0].Key = c.Custody.RecoveryKey }, "same key as the recovery key"},
		"agent is signer":          {func(c *Charter) { c.Agents[0].Key = EncodeKey(pub(10)) }, "same key as signer mari"},
		"agent is embassy":         {func(c *Charter) { c.Agents[0].Key = c.Embassies[0].Key }, "same key as agent home-1"},
		"embassy name twice":       {func(c *Charter) { c.Embassies[1].Name = "lux" }, "is taken"},
		"embassy key twice":        {func(c *Charter) { e := embassyOf("x", "IS", 50); c.Embassies[1] = e }, "same key as embassy lux"},
		"embassy id not its key's": {func(c *Charter) { c.Embassies[1].ID = c.Embassies[0].ID }, "not that of its key"},
		"embassy country":          {func(c *Charter) { c.Embassies[1].Country = "is" }, "country"},
		"embassy origin twice":     {func(c *Charter) { c.Embassies[1].Origin = c.Embassies[0].Origin }, "same origin as lux"},
		"embassy origin":           {func(c *Charter) { c.Embassies[1].Origin = "a b" }, "origin"},
		"embassy origin with plus": {func(c *Charter) { c.Embassies[1].Origin = "a+b" }, "origin"},
		"embassy without address":  {func(c *Charter) { c.Embassies[1].URLs = nil }, "0 urls"},
		"embassy address twice":    {func(c *Charter) { c.Embassies[1].URLs = c.Embassies[0].URLs }, "same address as lux"},
		"address in the clear":     {func(c *Charter) { c.Embassies[1].URLs[0] = "http://a.example" }, "url"},
		"address with user":        {func(c *Charter) { c.Embassies[1].URLs[0] = "https://u@a.example" }, "url"},
		"address with query":       {func(c *Charter) { c.Embassies[1].URLs[0] = "https://a.example/?q" }, "url"},
		"address with fragment":    {func(c *Charter) { c.Embassies[1].URLs[0] = "https://a.example/#f" }, "url"},
		"address with slash":       {func(c *Charter) { c.Embassies[1].URLs[0] = "https://a.example/" }, "url"},
		"address without host":     {func(c *Charter) { c.Embassies[1].URLs[0] = "https://:8443" }, "url"},
		"too many embassies":       {func(c *Charter) { *same(c) = make([]Embassy, MaxEmbassies+1) }, "at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := sample()
			test.change(&c)
			_, err := c.Marshal()
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v, want ErrInvalid", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not speak of %q", err, test.want)
			}
			// The rule holds for a document too, whoever wrote it.
			w := writer{}
			w.body(&c)
			if _, err := Parse(w.Bytes()); !errors.Is(err, ErrInvalid) {
				t.Errorf("document: error %v, want ErrInvalid", err)
			}
		})
	}
}

func TestAddressesOfManyForms(t *testing.T) {
	for _, u := range []string{"https://127.0.0.1:8443", "https://[::1]:8443", "https://a.example", "https://a.example/embassy/lu"} {
		c := sample()
		c.Embassies[0].URLs = []string{u}
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestLookups(t *testing.T) {
	c := mustNew(t, sample())
	if e, ok := c.EmbassyByName("lisbon"); !ok || e.Country != "PT" || !e.PublicKey().Equal(pub(52)) {
		t.Errorf("lisbon: %v %v", e, ok)
	}
	if _, ok := c.EmbassyByName("paris"); ok {
		t.Error("found an embassy that is not there")
	}
	if e, ok := c.EmbassyByID(EmbassyIDOf(pub(51))); !ok || e.Name != "reykjavik" {
		t.Errorf("by id: %v %v", e, ok)
	}
	if a, ok := c.AgentByKey(pub(40)); !ok || a.Name != "home-1" || !a.PublicKey().Equal(pub(40)) {
		t.Errorf("agent: %v %v", a, ok)
	}
	if _, ok := c.AgentByKey(pub(41)); ok {
		t.Error("found an agent that is not there")
	}
	r := c.Roster()
	if !r.IsAgent(pub(40)) || r.IsAgent(pub(21)) || r.IsAgent(pub(50)) || r.IsAgent(nil) || r.IsAgent(make([]byte, 32)) {
		t.Error("IsAgent")
	}
	if !r.IsRecovery(pub(21)) || r.IsRecovery(pub(40)) || r.IsRecovery(nil) || r.IsRecovery(make([]byte, 32)) {
		t.Error("IsRecovery")
	}
	if e, ok := r.EmbassyByKey(pub(50)); !ok || e.Name != "lux" {
		t.Error("EmbassyByKey")
	}
	if _, ok := r.EmbassyByKey(nil); ok {
		t.Error("EmbassyByKey(nil)")
	}
	if _, ok := (&Charter{}).Roster().Agent(make([]byte, 32)); ok || (&Charter{}).Roster().IsRecovery(make([]byte, 32)) {
		t.Error("an empty charter knows the zero key")
	}
}

func TestTextFormsAreStrict(t *testing.T) {
	id := StateID(take(1, 16))
	if got, err := ParseStateID(id.String()); err != nil || got != id {
		t.Errorf("state id: %v %v", got, err)
	}
	if got, err := ParseRegisterID(RegisterID(id).String()); err != nil || got != RegisterID(id) {
		t.Errorf("register id: %v %v", got, err)
	}
	if got, err := ParseEmbassyID(EmbassyID(id).String()); err != nil || got != EmbassyID(id) {
		t.Errorf("embassy id: %v %v", got, err)
	}
	for _, text := range []string{"", "00", strings.ToUpper("abcdef" + id.String()[6:]), id.String() + "0", " " + id.String()[1:], "0x" + id.String()[2:]} {
		if _, err := ParseStateID(text); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", text, err)
		}
	}
	key := EncodeKey(pub(1))
	if got, err := ParseKey(key); err != nil || !got.Equal(pub(1)) {
		t.Errorf("key: %v", err)
	}
	loose := key[:42] + string(key[42]+1) + "=" // same bytes, stray bits
	for _, text := range []string{"", key[:43], key + "\n", loose, strings.Replace(key, key[:1], "\n", 1)} {
		if _, err := ParseKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseDigest(strings.ToUpper(EncodeDigest([32]byte{0xab}))); err == nil {
		t.Error("upper case digest")
	}
	a, err1 := NewStateID(seeded(1))
	b, err2 := NewRegisterID(seeded(1))
	if err1 != nil || err2 != nil || a != id || b != RegisterID(id) {
		t.Error("new ids do not come from rand")
	}
	if _, err := NewStateID(strings.NewReader("short")); err == nil {
		t.Error("a state id from too little randomness")
	}
	if _, err := NewRegisterID(strings.NewReader("short")); err == nil {
		t.Error("a register id from too little randomness")
	}
}
