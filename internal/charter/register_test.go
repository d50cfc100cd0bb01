package charter

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sampleRegister(t testing.TB) *Register {
	t.Helper()
	r := &Register{
		Version: RegisterVersion, ID: RegisterID(take(80, 16)), State: StateID(take(1, 16)), Sequence: 3,
		PublicKey: take(81, OpeningKeySize), Epoch: 1,
		Members: []EmbassyID{EmbassyIDOf(pub(50)), EmbassyIDOf(pub(51)), EmbassyIDOf(pub(52))}, K: 2,
		Sealed: take(82, 2200),
		Grants: []Grant{{Recipient: RecipientHash(recipientOf(83)), Sealed: take(83, 3000)}},
		Time:   1700000000123456789,
	}
	if err := r.Sign(testKey(40)); err != nil {
		t.Fatal(err)
	}
	return r
}

func mustMarshal(t testing.TB, r *Register) []byte {
	t.Helper()
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRegisterRoundTripsAndVerifies(t *testing.T) {
	want := sampleRegister(t)
	got, err := ParseRegister(mustMarshal(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := got.Verify(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Agent[:], pub(40)) {
		t.Error("agent is not who signed")
	}
	want.Grants = nil
	if err := want.Sign(testKey(40)); err != nil {
		t.Fatal(err)
	}
	if got, err = ParseRegister(mustMarshal(t, want)); err != nil || got.Verify() != nil {
		t.Errorf("without grants: %v", err)
	}
}

func TestEveryFieldOfARegisterIsSigned(t *testing.T) {
	changes := map[string]func(*Register){
		"id":        func(r *Register) { r.ID[0]++ },
		"state":     func(r *Register) { r.State[0]++ },
		"sequence":  func(r *Register) { r.Sequence++ },
		"key":       func(r *Register) { r.PublicKey[0]++ },
		"epoch":     func(r *Register) { r.Epoch++ },
		"members":   func(r *Register) { r.Members[0], r.Members[1] = r.Members[1], r.Members[0] },
		"k":         func(r *Register) { r.K = 1 },
		"sealed":    func(r *Register) { r.Sealed[0]++ },
		"grants":    func(r *Register) { r.Grants = nil },
		"agent":     func(r *Register) { r.Agent = [32]byte(pub(41)) },
		"time":      func(r *Register) { r.Time++ },
		"signature": func(r *Register) { r.Signature[0]++ },
	}
	for name, change := range changes {
		r := sampleRegister(t)
		change(r)
		if err := r.Verify(); !errors.Is(err, ErrRegisterSignature) {
			t.Errorf("%s: error %v, want ErrRegisterSignature", name, err)
		}
	}
	if n := reflect.TypeFor[Register]().NumField() - 1; n != len(changes) { // all but the version, which has one value
		t.Errorf("%d fields and %d changes", n, len(changes))
	}
}

func TestEveryRuleOfARegister(t *testing.T) {
	for name, change := range map[string]func(*Register){
		"version":        func(r *Register) { r.Version = 2 },
		"id":             func(r *Register) { r.ID = RegisterID{} },
		"state":          func(r *Register) { r.State = StateID{} },
		"sequence":       func(r *Register) { r.Sequence = 0 },
		"epoch":          func(r *Register) { r.Epoch = 0 },
		"key":            func(r *Register) { r.PublicKey = r.PublicKey[1:] },
		"no members":     func(r *Register) { r.Members = nil },
		"member twice":   func(r *Register) { r.Members[1] = r.Members[0] },
		"k 0":            func(r *Register) { r.K = 0 },
		"k above":        func(r *Register) { r.K = 4 },
		"no secrets":     func(r *Register) { r.Sealed = nil },
		"long secrets":   func(r *Register) { r.Sealed = make([]byte, maxSealed+1) },
		"grant twice":    func(r *Register) { r.Grants = append(r.Grants, r.Grants[0]) },
		"empty grant":    func(r *Register) { r.Grants[0].Sealed = nil },
		"too many":       func(r *Register) { r.Grants = make([]Grant, maxGrants+1) },
		"time below 0":   func(r *Register) { r.Time = -1 },
		"too many bytes": func(r *Register) { r.Grants = bigGrants() },
	} {
		r := sampleRegister(t)
		change(r)
		if _, err := r.Marshal(); !errors.Is(err, ErrRegister) {
			t.Errorf("%s: error %v, want ErrRegister", name, err)
		}
	}
}

func bigGrants() (g []Grant) {
	for i := range 5 {
		g = append(g, Grant{Recipient: [32]byte{byte(i)}, Sealed: make([]byte, maxSealed)})
	}
	return g
}

func TestRegisterParserIsStrict(t *testing.T) {
	good := mustMarshal(t, sampleRegister(t))
	for i := range 400 { // the whole head, where the structure is
		for _, flip := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= flip
			r, err := ParseRegister(bad)
			if err == nil && r.Verify() == nil {
				t.Errorf("byte %d flipped by %#x is accepted", i, flip)
			}
		}
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "huge": make([]byte, MaxRegisterSize+1),
		"no shortest length": nonMinimal(good),
		"text":               []byte("\x65hello"),
		"indefinite":         {0x9f, 0x40, 0x40, 0xff},
		"null":               {0x82, 0xf6, 0xf6},
	} {
		if _, err := ParseRegister(bad); !errors.Is(err, ErrRegister) {
			t.Errorf("%s: error %v, want ErrRegister", name, err)
		}
	}
	if _, err := ParseRegister(good); err != nil {
		t.Errorf("control: %v", err)
	}
}

// nonMinimal writes the body's length (59 hi lo) in four bytes instead of two.
func nonMinimal(b []byte) []byte {
	return append([]byte{b[0], 0x5a, 0, 0, b[2], b[3]}, b[4:]...)
}

func sampleSecrets() *RegisterSecrets {
	return &RegisterSecrets{
		Name: "land-register", Owner: "Ministry of Justice", Kind: KindFiles, Path: "/srv/land\xff",
		Seed: [32]byte(take(90, 32)), IDKey: [32]byte(take(91, 32)), GearKey: [32]byte(take(92, 32)),
		IndexKey: [32]byte(take(93, 32)), MaskKey: [32]byte(take(94, 32)),
	}
}

func TestSecretsRoundTripInFixedSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := sampleSecrets()
		want.Name = rapid.StringMatching(`[a-z][a-z0-9-]{0,31}`).Draw(t, "name")
		want.Path = "/" + strings.ReplaceAll(string(rapid.SliceOfN(rapid.Byte(), 0, 4094).Draw(t, "path")), "\x00", "x")
		if rapid.Bool().Draw(t, "home") {
			want = want.WithoutSeed()
		}
		b, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if len(b)%SecretsStep != 0 || len(b) > maxSecretsSize {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := ParseRegisterSecrets(b)
		if err != nil || *got != *want {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}

func TestSecretsOfUsualLengthsLookAlike(t *testing.T) {
	short, long := sampleSecrets(), sampleSecrets()
	short.Name, short.Owner, short.Path = "a", "b", "/"
	long.Name, long.Path = strings.Repeat("n", 32), "/"+strings.Repeat("p", 200)
	a, err1 := short.Marshal()
	b, err2 := long.WithoutSeed().Marshal()
	if err1 != nil || err2 != nil || len(a) != len(b) {
		t.Errorf("%d and %d bytes (%v, %v)", len(a), len(b), err1, err2)
	}
}

func TestSecretsParserIsStrict(t *testing.T) {
	good, err := sampleSecrets().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	padding := bytes.Clone(good)
	padding[len(padding)-1] = 1
	version := bytes.Clone(good)
	version[6] = 2 // map head, key 1, then the version
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "step too many": append(bytes.Clone(good), make([]byte, SecretsStep)...),
		"padding": padding, "length": append([]byte{0xff, 0xff, 0xff, 0xff}, good[4:]...), "zero length": make([]byte, SecretsStep),
		"version": version, "huge": make([]byte, maxSecretsSize+SecretsStep),
	} {
		if _, err := ParseRegisterSecrets(bad); !errors.Is(err, ErrRegister) {
			t.Errorf("%s: error %v, want ErrRegister", name, err)
		}
	}
	for name, change := range map[string]func(*RegisterSecrets){
		"name": func(s *RegisterSecrets) { s.Name = "Land" }, "owner": func(s *RegisterSecrets) { s.Owner = "" },
		"kind": func(s *RegisterSecrets) { s.Kind = "tape" }, "path": func(s *RegisterSecrets) { s.Path = "srv" },
		"path with NUL": func(s *RegisterSecrets) { s.Path = "/a\x00b" },
		"key":           func(s *RegisterSecrets) { s.MaskKey = [32]byte{} },
	} {
		s := sampleSecrets()
		change(s)
		if _, err := s.Marshal(); !errors.Is(err, ErrRegister) {
			t.Errorf("%s: error %v, want ErrRegister", name, err)
		}
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	s := sampleSecrets()
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&printed, verb+" "+verb+"\n", s, *s)
	}
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "secrets", s, "value", *s)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "secrets", s, "value", *s)
	js, err := json.Marshal(map[string]any{"p": s, "v": *s})
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(js)
	for _, key := range [][32]byte{s.Seed, s.IDKey, s.GearKey, s.IndexKey, s.MaskKey} {
		for _, form := range []string{hex.EncodeToString(key[:4]), strings.ToUpper(hex.EncodeToString(key[:4])), strings.Trim(fmt.Sprint(key[:4]), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(key[:4]), "[]"), " ", ","), EncodeKey(key[:6]), string(key[:4])} {
			if strings.Contains(printed.String(), form) {
				t.Errorf("%q is printed in %s", form, printed.String())
			}
		}
	}
	if !strings.Contains(printed.String(), "land-register") {
		t.Error("control: nothing was printed")
	}
}

// A null where a list belongs means the same to a lax reader, and would be a
// second encoding of one record, signed by the agent itself.
func TestNullIsNotAnEmptyList(t *testing.T) {
	r := sampleRegister(t)
	r.Grants = nil
	body, err := r.body()
	if err != nil {
		t.Fatal(err)
	}
	empty, null := []byte{0x0a, 0x80, 0x0b}, []byte{0x0a, 0xf6, 0x0b} // grants, then the key of the agent
	for name, test := range map[string]struct {
		body []byte
		ok   bool
	}{"control": {body, true}, "null": {bytes.Replace(body, empty, null, 1), false}} {
		b, err := encode(registerRecord{Body: test.body})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRegister(b); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if bytes.Count(body, empty) != 1 {
		t.Error("the test did not change what it should")
	}
}
