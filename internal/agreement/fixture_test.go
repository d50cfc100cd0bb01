package agreement

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

func take(n uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, n))).Read(b)
	return b
}

func key(n uint64) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(take(n, 32)) }

func public(n uint64) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

func sshOf(t testing.TB, n uint64) string {
	t.Helper()
	text, err := charter.SSHPublicKey(public(n))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The people of the state have the keys 10, 11, 12 (and 13, which is jaan's second), those of the host 20, 21, 22.
const embassyKey = 50

var (
	stateID = charter.StateID(take(1, 16))
	noon    = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)
)

// sampleCharter is that of a state of which two of three representatives make agreements; change may alter it.
func sampleCharter(t testing.TB, change func(*charter.Charter)) *charter.Charter {
	t.Helper()
	id := charter.EmbassyIDOf(public(embassyKey))
	c := charter.Charter{
		Version: charter.Version, Number: 1, Suite: charter.Suite,
		State: charter.State{ID: stateID, Name: "Republic of Ümlaut", Code: "UM"},
		People: []charter.Person{
			{Name: "mari", Office: "Minister", From: "2026-01-01", Keys: []string{sshOf(t, 10)}},
			{Name: "jaan", Office: "Archivist", From: "2026-01-01", Until: "2027-01-31", Keys: []string{sshOf(t, 11), sshOf(t, 13)}},
			{Name: "tiit", Office: "Ambassador", From: "2026-01-01", Keys: []string{sshOf(t, 12)}},
		},
		Roles: []charter.Role{{Name: "representative", People: []string{"mari", "jaan", "tiit"}}},
		Acts: []charter.Act{
			{Act: charter.ActCharter, Role: "representative", Need: 2, Cooling: "0", Valid: "30d", Touch: "no"},
			{Act: charter.ActAgreement, Role: "representative", Need: 2, Cooling: "0", Valid: "30d", Touch: "no"},
		},
		Succession: charter.Succession{After: "0"},
		Custody: charter.Custody{
			Generation: 1, Threshold: 1, OpeningKey: charter.EncodeKey(take(20, charter.OpeningKeySize)), RecoveryKey: charter.EncodeKey(public(30)),
			Custodians: []charter.Custodian{{
				Name: "eva", X: 1, Recipient: "age1pq1" + string(bytes.Repeat([]byte("q"), 1952)), Commitment: charter.EncodeDigest([32]byte(take(2, 32))),
			}},
		},
		Embassies: []charter.Embassy{{
			Name: "lu", Country: "LU", ID: id, Key: charter.EncodeKey(public(embassyKey)),
			URLs: []string{"https://lu.example:8443"}, Origin: "chancery.dev/ledger/" + id.String(),
		}},
	}
	if change != nil {
		change(&c)
	}
	made, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// sample is an agreement that is agreed in every word; two of three signatories sign it for the host.
func sample(t testing.TB) Agreement {
	t.Helper()
	a := *usual("2026-12-01")
	a.Premises, _ = placeOf("room")
	a.Premises.Place, a.Premises.Others = "Bettembourg, building 2, room 4", []string{"the data centre's other customers"}
	a.State = State{stateID, "Republic of Ümlaut", "UM"}
	a.Host = Host{Name: "Grand Duchy of Elsewhere", Code: "LU", Need: 2, Signatories: []Signatory{
		{"anne", "Minister of State", sshOf(t, 20)},
		{"paul", "Director of the data centre", sshOf(t, 21)},
		{"luc", "Ambassador", sshOf(t, 22)},
	}}
	a.Embassy = Embassy{"lu", "LU", charter.Fingerprint(public(embassyKey))}
	a.Duties.Tier, a.Disputes.Forum = "IV, of the building", "Permanent Court of Arbitration, The Hague"
	return a
}

func mustNew(t testing.TB, a Agreement) *Agreement {
	t.Helper()
	made, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// changed is the sample with a change, made an agreement.
func changed(t testing.TB, change func(*Agreement)) *Agreement {
	t.Helper()
	a := sample(t)
	change(&a)
	return mustNew(t, a)
}

func signed(t testing.TB, doc []byte, keys ...uint64) []byte {
	t.Helper()
	var all []byte
	for _, n := range keys {
		sig, err := Sign(doc, key(n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sig...)
	}
	return all
}

func without(list []uint64, drop uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(list), func(n uint64) bool { return n == drop })
}
