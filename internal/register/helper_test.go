package register_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

// check ends a test at an error that the property is not about.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is a state whose embassies hold one pack.
type bench struct {
	testing.TB
	state   *sim.State
	reg     *register.Register
	ref     *snapshot.PackRef
	payload []byte // of the pack
}

func newBench(t testing.TB, k, n int) *bench {
	t.Helper()
	s, err := sim.NewState(1, k, n)
	check(t, err)
	b := &bench{TB: t, state: s, reg: s.Register("")}
	chunk := bytes.Repeat([]byte("chunk "), 500)
	builder := pack.NewBuilder(make([]byte, 0, pack.Payload(0, pack.Data)))
	builder.Add(b.reg.IDKey.NewHasher().Sum(chunk), chunk, len(chunk), false)
	b.ref = &snapshot.PackRef{Kind: pack.Data, K: uint8(k), N: uint8(n), Epoch: b.reg.Epoch, Shares: make([]shard.Name, n)}
	_, err = rand.Read(b.ref.ID[:])
	check(t, err)
	b.payload = builder.Finish(b.ref.Class)
	session, err := pack.NewSession(rand.Reader, b.reg.Public, b.reg.State, b.reg.ID, b.reg.Epoch)
	check(t, err)
	buf := make([]byte, 0, n*shard.Size(b.ref.Class.Size(), k))
	sealed, err := session.Seal(buf, rand.Reader, b.reg.MetaOf(b.ref), bytes.Clone(b.payload))
	check(t, err)
	coder, err := shard.NewCoder(k, n)
	check(t, err)
	parts, err := coder.Split(sealed, sealed)
	check(t, err)
	for _, x := range b.reg.Sites() {
		b.ref.Shares[x.Share] = shard.MaskAndHash(x.Mask, b.ref.ID, x.Share, parts[x.Share])
		check(t, x.Objects.Put(t.Context(), b.ref.Shares[x.Share], parts[x.Share]))
	}
	return b
}

// open fetches the pack as one does who knows nothing yet, and returns what was found wrong.
func (b *bench) open(buffers *register.Buffers) ([]byte, []register.Fault, error) {
	f := &register.Fetcher{
		Register: b.reg, Sites: b.reg.Sites(), Opener: pack.NewOpener(b.state.Key), Faults: &register.Faults{},
	}
	payload, err := f.Open(b.Context(), buffers, b.ref)
	return payload, f.Faults.All(), err
}
