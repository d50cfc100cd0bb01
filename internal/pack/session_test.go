package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/seal"
)

var (
	testState    = [16]byte{1}
	testRegister = [16]byte{2}
)

func newKey(t testing.TB, seed byte) *seal.PrivateKey {
	t.Helper()
	k, err := seal.NewPrivateKey([32]byte{seed})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSession(t testing.TB, priv *seal.PrivateKey, epoch uint32) *Session {
	t.Helper()
	s, err := NewSession(source(byte(epoch)), priv.Public(), testState, testRegister, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testMeta(k Kind, c Class) Meta {
	return Meta{State: testState, Register: testRegister, Epoch: 7, Kind: k, ID: ID{3}, K: 2, N: 3, Class: c}
}

func TestOpenIsTheInverseOfSeal(t *testing.T) {
	priv := newKey(t, 1)
	s, o := newSession(t, priv, 7), NewOpener(priv)
	for _, k := range []Kind{Data, Tree} {
		for _, c := range Classes() {
			m := testMeta(k, c)
			payload := random(byte(c), Payload(c, k))
			sealed, err := s.Seal([]byte("x"), source(9), m, payload)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != 1+c.Size() || sealed[0] != 'x' {
				t.Fatalf("class %d: sealed to %d bytes", c, len(sealed)-1)
			}
			got, err := o.Open([]byte("y"), m, sealed[1:])
			if err != nil || got[0] != 'y' || !bytes.Equal(got[1:], payload) {
				t.Errorf("class %d, %v: %d bytes, %v", c, k, len(got), err)
			}
			off := len(payload) - 70
			if c > 0 {
				off = 20_000
			}
			part, err := o.OpenAt(nil, m, bytes.NewReader(sealed[1:]), off, 70)
			if err != nil || !bytes.Equal(part, payload[off:off+70]) {
				t.Errorf("class %d, %v: OpenAt %d bytes, %v", c, k, len(part), err)
			}
		}
	}
}

func TestIndexOpensWithTheIndexKeyOnly(t *testing.T) {
	key := &seal.Key{1}
	m := testMeta(Index, 0)
	payload := PadPayload(nil, 0, Index, []byte("where chunks are"))
	sealed, err := SealIndex(nil, source(1), key, m, payload)
	if err != nil || len(sealed) != m.Class.Size() {
		t.Fatal(len(sealed), err)
	}
	if got, err := OpenIndex(nil, key, m, sealed); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := OpenIndex(nil, &seal.Key{2}, m, sealed); !errors.Is(err, seal.ErrContext) {
		t.Errorf("another key: %v", err)
	}
	other := m
	other.ID[0] ^= 1
	if _, err := OpenIndex(nil, key, other, sealed); !errors.Is(err, seal.ErrContext) {
		t.Errorf("another pack's id: %v", err)
	}
	if _, err := OpenIndex(nil, key, m, sealed[1:]); !errors.Is(err, ErrSize) {
		t.Errorf("a byte short: %v", err)
	}
}

func TestAPackOpensUnderItsOwnMeaningOnly(t *testing.T) {
	priv := newKey(t, 1)
	s, o := newSession(t, priv, 7), NewOpener(priv)
	m := testMeta(Data, 0)
	sealed, err := s.Seal(nil, source(1), m, make([]byte, Payload(0, Data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Open(nil, m, sealed); err != nil {
		t.Fatal(err) // the control
	}
	for name, tt := range map[string]struct {
		change func(*Meta)
		want   error
	}{
		"state":    {func(m *Meta) { m.State[5]++ }, seal.ErrUnwrap},
		"register": {func(m *Meta) { m.Register[5]++ }, seal.ErrUnwrap},
		"epoch":    {func(m *Meta) { m.Epoch++ }, seal.ErrContext},
		"kind":     {func(m *Meta) { m.Kind = Tree }, seal.ErrContext},
		"id":       {func(m *Meta) { m.ID[15]++ }, seal.ErrContext},
		"k":        {func(m *Meta) { m.K-- }, seal.ErrContext},
		"n":        {func(m *Meta) { m.N++ }, seal.ErrContext},
		"class":    {func(m *Meta) { m.Class = 1 }, ErrSize},
		"index":    {func(m *Meta) { m.Kind = Index }, ErrMeta},
		"shares":   {func(m *Meta) { m.K = 4 }, ErrMeta},
	} {
		other := m
		tt.change(&other)
		if _, err := o.Open(nil, other, sealed); !errors.Is(err, tt.want) {
			t.Errorf("other %s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := NewOpener(newKey(t, 2)).Open(nil, m, sealed); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("another private key: %v", err)
	}
}

func TestAnyFlippedBitIsFound(t *testing.T) {
	priv := newKey(t, 1)
	s, o := newSession(t, priv, 7), NewOpener(priv)
	m := testMeta(Data, 0)
	sealed, err := s.Seal(nil, source(1), m, random(1, Payload(0, Data)))
	if err != nil {
		t.Fatal(err)
	}
	at := []int{0, 3, 4, 7, 8, 1127, 1128, WrappedSize - 1, WrappedSize, WrappedSize + 24, WrappedSize + 56, len(sealed) / 2, len(sealed) - 1}
	for _, i := range at {
		sealed[i] ^= 0x10
		if _, err := o.Open(nil, m, sealed); err == nil {
			t.Errorf("bit flipped in byte %d was not noticed", i)
		}
		sealed[i] ^= 0x10
	}
	if _, err := o.Open(nil, m, sealed); err != nil {
		t.Errorf("the control: %v", err)
	}
	binary.BigEndian.PutUint32(sealed, 2)
	if _, err := o.Open(nil, m, sealed); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
}

func TestSessionsRefuseWhatCouldNeverBeOpened(t *testing.T) {
	s := newSession(t, newKey(t, 1), 7)
	payload := make([]byte, Payload(0, Data))
	for name, change := range map[string]func(*Meta){
		"state":    func(m *Meta) { m.State[0]++ },
		"register": func(m *Meta) { m.Register[0]++ },
		"epoch":    func(m *Meta) { m.Epoch++ },
		"kind":     func(m *Meta) { m.Kind = Head },
		"index":    func(m *Meta) { m.Kind = Index },
		"class":    func(m *Meta) { m.Class = classes },
		"k":        func(m *Meta) { m.K = 0 },
		"n":        func(m *Meta) { m.N = 1 },
	} {
		m := testMeta(Data, 0)
		change(&m)
		if _, err := s.Seal(nil, source(1), m, payload); !errors.Is(err, ErrMeta) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Seal(nil, source(1), testMeta(Data, 0), payload[1:]); !errors.Is(err, ErrSize) {
		t.Errorf("short payload: %v", err)
	}
	if _, err := s.Seal(nil, bytes.NewReader(nil), testMeta(Data, 0), payload); err == nil {
		t.Error("sealed without randomness")
	}
	if _, err := NewSession(bytes.NewReader(nil), newKey(t, 1).Public(), testState, testRegister, 1); err == nil {
		t.Error("a session without randomness")
	}
}

func TestEqualPayloadsSealToDifferentBytes(t *testing.T) {
	s := newSession(t, newKey(t, 1), 7)
	m, payload, r := testMeta(Data, 0), make([]byte, Payload(0, Data)), source(1)
	a, err := s.Seal(nil, r, m, payload)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Seal(nil, r, m, payload)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a[WrappedSize:WrappedSize+100], b[WrappedSize:WrappedSize+100]) {
		t.Error("a salt was used twice")
	}
}

func TestOpenerKeepsABoundedNumberOfSessions(t *testing.T) {
	priv := newKey(t, 1)
	o := NewOpener(priv)
	var first []byte
	m := testMeta(Data, 0)
	for i := range maxSessions + 3 {
		s, err := NewSession(source(byte(i)), priv.Public(), testState, testRegister, 7)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := s.Seal(nil, source(1), m, make([]byte, Payload(0, Data)))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = sealed
		}
		for _, b := range [][]byte{sealed, first} { // the first stays recent
			if _, err := o.Open(nil, m, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(o.recent) != maxSessions {
		t.Errorf("%d sessions kept", len(o.recent))
	}
	o.priv = newKey(t, 2) // unwraps nothing any more, so only what is kept opens
	if _, err := o.Open(nil, m, first); err != nil {
		t.Errorf("the most used session was forgotten: %v", err)
	}
	other := m
	other.Register[0]++
	if _, err := o.Open(nil, other, first); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("a kept session served another register: %v", err)
	}
}

func TestOneOpenerServesManyWorkers(t *testing.T) {
	priv := newKey(t, 1)
	o, m := NewOpener(priv), testMeta(Data, 0)
	var all [3][]byte
	for i := range all {
		s, err := NewSession(source(byte(i)), priv.Public(), testState, testRegister, 7)
		if err != nil {
			t.Fatal(err)
		}
		if all[i], err = s.Seal(nil, source(1), m, random(byte(i), Payload(0, Data))); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 6 {
				j := (w + i) % len(all)
				got, err := o.Open(nil, m, all[j])
				if err != nil || !bytes.Equal(got, random(byte(j), Payload(0, Data))) {
					t.Errorf("session %d: %v", j, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMessagesOfAnyLengthComeBack(t *testing.T) {
	priv := newKey(t, 1)
	s, o := newSession(t, priv, 7), NewOpener(priv)
	m := testMeta(Head, 0)
	for _, n := range []int{0, 1, 1019, 1020, 1021, 20_000, MaxMessage} {
		plain := random(1, n)
		sealed, err := SealMessage(source(2), s, m, plain)
		if err != nil {
			t.Fatal(err)
		}
		if want := WrappedSize + seal.Size((n+4+1023)/1024*1024); len(sealed) != want {
			t.Errorf("%d bytes sealed to %d, want %d", n, len(sealed), want)
		}
		got, err := o.OpenMessage(m, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
	}
	if _, err := SealMessage(source(2), s, m, make([]byte, MaxMessage+1)); !errors.Is(err, ErrSize) {
		t.Errorf("too long: %v", err)
	}
	if _, err := SealMessage(source(2), s, testMeta(Data, 0), nil); !errors.Is(err, ErrMeta) {
		t.Errorf("as data: %v", err)
	}
}

func TestMessagesTakeTheCanonicalFormOnly(t *testing.T) {
	priv := newKey(t, 1)
	s, o := newSession(t, priv, 7), NewOpener(priv)
	m := testMeta(Head, 0)
	sealed := func(padded []byte) []byte {
		return seal.Seal(bytes.Clone(s.wrapped), &s.key, seal.Salt{}, m.Context(), padded)
	}
	padded := make([]byte, 1024)
	padded[3], padded[4] = 1, 'x'
	if got, err := o.OpenMessage(m, sealed(padded)); err != nil || string(got) != "x" {
		t.Fatal(got, err) // the control
	}
	dirty := bytes.Clone(padded)
	dirty[1023] = 1
	long := bytes.Clone(padded)
	long[0] = 1
	for name, bad := range map[string][]byte{
		"two steps for one": append(bytes.Clone(padded), make([]byte, 1024)...),
		"no whole step":     padded[:1000],
		"padding not zero":  dirty,
		"length beyond":     long,
		"nothing":           nil,
	} {
		if _, err := o.OpenMessage(m, sealed(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, 1, WrappedSize - 1, 1 << 20} {
		if _, err := o.OpenMessage(m, make([]byte, n)); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzOpenMessage(f *testing.F) {
	// From the vectors, since the sealed form must be the same in every process of the fuzzer.
	v := readVectors[sealedVector](f, "sealed.json")[2]
	m := v.Meta.meta(f)
	priv, err := seal.NewPrivateKey([32]byte(unhex(f, v.Seed)))
	if err != nil {
		f.Fatal(err)
	}
	o, wrapped, key := NewOpener(priv), unhex(f, v.Wrapped), seal.Key(unhex(f, v.Secret))
	good := seal.Seal(bytes.Clone(wrapped), &key, seal.Salt(unhex(f, v.Salt)), m.Context(), v.payload(f, m))
	if _, err := o.OpenMessage(m, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(make([]byte, 1024), false)
	f.Add([]byte{0, 0, 0, 9}, false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		in := b
		if !sealed { // reach what is behind the seal
			in = seal.Seal(bytes.Clone(wrapped), &key, seal.Salt{}, m.Context(), b)
		}
		plain, err := o.OpenMessage(m, in)
		if err != nil {
			return
		}
		if sealed && !bytes.Equal(b, good) {
			t.Error("opened what nobody sealed")
		}
		if !sealed && len(b) != paddedMessage(len(plain)) {
			t.Error("took a message that is not canonical")
		}
	})
}
