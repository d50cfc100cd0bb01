package sim

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"math/rand/v2"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
)

// State is one state with one register in n embassies, of which k are needed.
type State struct {
	Embassies []*Embassy
	Agent     *register.Agent
	Key       *seal.PrivateKey // opens the register
	template  register.Register
}

// NewState makes a state; the same seed makes the same keys.
func NewState(seed uint64, k, n int) (*State, error) {
	var s [32]byte
	copy(s[:], fmt.Sprintf("chancery sim %d", seed))
	random := rand.NewChaCha8(s)
	fill := func(p []byte) { _, _ = io.ReadFull(random, p) } // ChaCha8 never ends

	st := &State{}
	keySeed, err := seal.GenerateSeed(random)
	if err != nil {
		return nil, err
	}
	if st.Key, err = seal.NewPrivateKey(keySeed); err != nil {
		return nil, err
	}
	r := &st.template
	r.Name, r.Public, r.K, r.Epoch = "land", st.Key.Public(), k, 1
	fill(r.State[:])
	fill(r.ID[:])
	fill(r.IDKey[:])
	fill(r.GearKey[:])
	fill(r.IndexKey[:])
	fill(r.MaskKey[:])
	for i := range n {
		key := make([]byte, ed25519.SeedSize)
		fill(key)
		e, err := NewEmbassy(fmt.Sprintf("e%d", i), r.State, ed25519.NewKeyFromSeed(key))
		if err != nil {
			return nil, err
		}
		st.Embassies = append(st.Embassies, e)
		r.Members = append(r.Members, e.Member())
	}
	agent := make([]byte, ed25519.SeedSize)
	fill(agent)
	st.Agent = NewAgent(ed25519.NewKeyFromSeed(agent))
	return st, nil
}

// NewAgent makes an agent that trusts itself.
func NewAgent(key ed25519.PrivateKey) *register.Agent {
	pub := ed25519.PublicKey(key[ed25519.SeedSize:])
	return &register.Agent{Key: key, CharterNumber: 1, Host: "home", Trusted: []ed25519.PublicKey{pub}}
}

// Register is the register as the agent knows it whose local folder is dir.
func (s *State) Register(dir string) *register.Register {
	r := s.template
	r.Dir = dir
	return &r
}

// Fail sets the same faults at all embassies.
func (s *State) Fail(f Faults) {
	for _, e := range s.Embassies {
		e.Fail(f)
	}
}

// Received is how many bytes of objects all embassies were sent.
func (s *State) Received() int64 {
	n := int64(0)
	for _, e := range s.Embassies {
		n += e.Received()
	}
	return n
}
