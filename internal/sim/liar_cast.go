package sim

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// cast is a charter with everyone's keys. It is the same for every seed of one shape: what differs is who lies.
type cast struct {
	charter   *charter.Charter
	policy    *ledger.Policy
	names     []string // of the members: embassies, home, outside witnesses
	groups    []int    // of each member, in the policy
	cosigners []*ledger.Cosigner
	hosts     []hostKeys
	agent     ed25519.PrivateKey
	auditor   ed25519.PrivateKey
}

// hostKeys is what an embassy signs with and is known by.
type hostKeys struct {
	id       [16]byte
	key      ed25519.PrivateKey
	log      ledger.Log
	verifier note.Verifier
	signer   note.Signer
	mask     shard.MaskKey // of the one register
}

// shapes are the casts: embassies, and in which countries outside witnesses stand. Home is one witness more.
var shapes = []struct {
	embassies int
	outside   string
}{{2, "A"}, {3, ""}, {3, "A"}, {3, "AAA"}, {4, "A"}, {4, "AB"}, {3, "ABC"}, {4, "ABBB"}}

var casts = func() (list []func() (*cast, error)) {
	for i := range shapes {
		list = append(list, sync.OnceValues(func() (*cast, error) { return newCast(shapes[i].embassies, shapes[i].outside) }))
	}
	return list
}()

func keyOf(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("liar " + who))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(who string) ed25519.PublicKey { return ed25519.PublicKey(keyOf(who)[ed25519.SeedSize:]) }

func newCast(embassies int, outside string) (*cast, error) {
	draft, err := draftCharter(embassies, outside)
	if err != nil {
		return nil, err
	}
	c := &cast{agent: keyOf("agent"), auditor: keyOf("auditor")}
	if c.charter, err = charter.New(*draft); err != nil {
		return nil, err
	}
	if c.policy, err = c.charter.Policy(); err != nil {
		return nil, err
	}
	for _, e := range c.charter.Embassies {
		h := hostKeys{id: e.ID, key: keyOf(e.Name), log: e.Log(), mask: shard.EmbassyMaskKey(shard.MaskKey{1}, e.ID)}
		if h.signer, err = ledger.NewSigner(e.Origin, h.key); err != nil {
			return nil, err
		}
		if h.verifier, err = ledger.NewVerifier(e.Origin, h.log.Key); err != nil {
			return nil, err
		}
		c.hosts = append(c.hosts, h)
		if err := c.join(e.Name, e.Country); err != nil {
			return nil, err
		}
	}
	for _, w := range c.charter.Witnesses {
		if err := c.join(w.Name, w.Country); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// join takes up a member.
func (c *cast) join(name, country string) error {
	s, err := ledger.NewCosigner(ledger.WitnessName(publicOf(name)), keyOf(name))
	if err != nil {
		return err
	}
	for i, g := range c.policy.Groups {
		if g.Name == country {
			c.names, c.groups, c.cosigners = append(c.names, name), append(c.groups, i), append(c.cosigners, s)
			return nil
		}
	}
	return fmt.Errorf("no group %s", country)
}

func draftCharter(embassies int, outside string) (*charter.Charter, error) {
	ssh, err := charter.SSHPublicKey(publicOf("signer"))
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256([]byte("liar state"))
	c := &charter.Charter{
		Version: 2, State: charter.State{ID: charter.StateID(id[:16]), Name: "Republic of X", Code: "XX"},
		Number: 1, Suite: charter.Suite, Threshold: 1, Signers: []charter.Signer{{Name: "mari", Key: ssh}},
		Custody: charter.Custody{
			Generation: 1, Threshold: 1, OpeningKey: charter.EncodeKey(Bytes(1, charter.OpeningKeySize)),
			RecoveryKey: charter.EncodeKey(publicOf("recovery")), Custodians: []charter.Custodian{{
				Name: "anna", X: 1, Recipient: "age1pq1" + strings.Repeat("q", 1952), Commitment: charter.EncodeDigest(id),
			}},
		},
		Agents:   []charter.Agent{{Name: "agent", Key: charter.EncodeKey(publicOf("agent"))}},
		Auditors: []charter.Auditor{{Name: "auditor", Key: charter.EncodeKey(publicOf("auditor"))}},
	}
	for i := range embassies {
		name := fmt.Sprintf("e%d", i)
		key := publicOf(name)
		c.Embassies = append(c.Embassies, charter.Embassy{
			Name: name, Country: "E" + string(rune('A'+i)), ID: charter.EmbassyIDOf(key), Key: charter.EncodeKey(key),
			URLs: []string{"https://" + name + ".example:7401"}, Origin: ledger.Origin([16]byte(c.State.ID), key),
		})
	}
	witness := func(name, country string) {
		key := publicOf(name)
		c.Witnesses = append(c.Witnesses, charter.Witness{
			Name: name, Country: country, Cosigner: charter.CosignerName(key), Key: charter.EncodeKey(key),
		})
	}
	witness("home", "XX")
	for i, group := range outside {
		witness(fmt.Sprintf("w%d", i), "W"+string(group))
	}
	return c, nil
}

// enough counts as the policy does, from a set of members who cosigned, without a signature.
func (w *world) enough(own int, members uint) bool {
	vouch := 0
	for g := range w.policy.Groups {
		n := 0
		for m, at := range w.groups {
			if at == g && members>>m&1 == 1 {
				n++
			}
		}
		if g == own || n >= w.policy.Groups[g].Need {
			vouch++
		}
	}
	return vouch >= w.need()
}

// need is the policy's; with a policy that is too weak, what two halves could each bring together.
func (w *world) need() int {
	if w.off.policyTooWeak {
		return (len(w.policy.Groups) + w.policy.Faulty) / 2
	}
	return w.policy.Need
}
