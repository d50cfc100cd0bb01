package charter

import (
	"crypto/ed25519"
	"fmt"

	"chancery.dev/chancery/internal/ledger"
)

// Policy is the charter's witness policy as checkpoints are judged by it: each
// embassy and witness a member, under its name in the charter, of the group of
// its country. For a charter of version 1 it is the default policy. It fails with
// ledger.ErrPolicy for a charter without embassies and witnesses, and, for one
// put together by hand alone, where the policy does not hold.
func (c *Charter) Policy() (*ledger.Policy, error) {
	w := c.WitnessingInForce()
	p := &ledger.Policy{Need: w.Need, Faulty: w.Faulty}
	for _, g := range w.Groups {
		group := ledger.Group{Name: g.Country, Need: g.Need}
		for _, e := range c.Embassies {
			if e.Country != g.Country {
				continue
			}
			keys, err := e.Keys()
			if err != nil {
				return nil, err
			}
			group.Members = append(group.Members, ledger.Member{Name: e.Name, Keys: keys})
		}
		for _, x := range c.Witnesses {
			if x.Country != g.Country {
				continue
			}
			keys, err := x.Keys()
			if err != nil {
				return nil, err
			}
			group.Members = append(group.Members, ledger.Member{Name: x.Name, Keys: keys})
		}
		p.Groups = append(p.Groups, group)
	}
	return p, p.Check()
}

// Keys are what the witness cosigns with: its Ed25519 key, and its ML-DSA-44 key
// where it has one.
func (w Witness) Keys() ([]ledger.WitnessKey, error) {
	keys, err := cosigningKeys(w.Cosigner, w.PublicKey(), w.MLDSAKey)
	if err != nil {
		return nil, fmt.Errorf("charter: witness %s: %w", w.Name, err)
	}
	return keys, nil
}

// Keys are what the embassy cosigns with, as of a witness.
func (e Embassy) Keys() ([]ledger.WitnessKey, error) {
	keys, err := cosigningKeys(CosignerName(e.PublicKey()), e.PublicKey(), e.MLDSAKey)
	if err != nil {
		return nil, fmt.Errorf("charter: embassy %s: %w", e.Name, err)
	}
	return keys, nil
}

func cosigningKeys(name string, public ed25519.PublicKey, mldsa string) ([]ledger.WitnessKey, error) {
	key, err := ledger.NewWitnessKey(name, public)
	if err != nil || mldsa == "" {
		return []ledger.WitnessKey{key}, err
	}
	second, _ := parseKeyBytes(mldsa, MLDSAKeySize) // nil where it is none, which is refused next
	both, err := ledger.NewMLDSAWitnessKey(name, second)
	return []ledger.WitnessKey{key, both}, err
}

// Log is the embassy's ledger as the policy sees it.
func (e Embassy) Log() ledger.Log {
	return ledger.Log{Origin: e.Origin, Key: e.PublicKey(), Group: e.Country, Member: e.Name}
}

// Logs are the ledgers of all embassies, in the charter's order.
func (c *Charter) Logs() []ledger.Log {
	logs := make([]ledger.Log, len(c.Embassies))
	for i, e := range c.Embassies {
		logs[i] = e.Log()
	}
	return logs
}
