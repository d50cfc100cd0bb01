package custody

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"chancery.dev/chancery/internal/vectest"
)

func vector[T any](t *testing.T, name string, fresh func() T) T {
	t.Helper()
	return vectest.Of(t, "custody/"+name, fresh)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type splitVector struct {
	Seed        string   `json:"seed"`
	State       string   `json:"state"`
	Generation  uint32   `json:"generation"`
	Threshold   int      `json:"threshold"`
	Holders     []string `json:"holders"`
	Randomness  string   `json:"randomness"` // coefficients, then salts; see the specification
	Shares      []string `json:"shares"`     // text
	Commitments []string `json:"commitments"`
	OpeningSeed string   `json:"opening_seed"`
	AccessKey   string   `json:"access_key"` // Ed25519 seed
}

func makeSplit(t *testing.T, v splitVector) splitVector {
	seed := [32]byte(unhex(t, v.Seed))
	random := bytes.NewReader(unhex(t, v.Randomness))
	shares, commitments, err := Split(random, &seed, [16]byte(unhex(t, v.State)), v.Generation, v.Threshold, v.Holders)
	if err != nil || random.Len() != 0 {
		t.Fatalf("%d bytes of randomness left: %v", random.Len(), err)
	}
	v.Shares, v.Commitments = nil, nil
	for i := range shares {
		v.Shares = append(v.Shares, string(shares[i].Marshal()))
		v.Commitments = append(v.Commitments, commitments[i].String())
	}
	opening := DeriveOpeningSeed(&seed)
	v.OpeningSeed, v.AccessKey = hex.EncodeToString(opening[:]), hex.EncodeToString(DeriveAccessKey(&seed).Seed())
	return v
}

func TestSplitVectors(t *testing.T) {
	all := vector(t, "splits.json", func() (all []splitVector) {
		for _, size := range [][2]int{{1, 1}, {1, 3}, {2, 3}, {3, 5}, {5, 5}} {
			seed, random := take32(uint64(100+size[0])), make([]byte, 32*(size[0]-1)+32*size[1])
			_, _ = seeded(uint64(200 + size[1])).Read(random)
			all = append(all, makeSplit(t, splitVector{
				Seed: hex.EncodeToString(seed[:]), State: "000102030405060708090a0b0c0d0e0f", Generation: 7,
				Threshold: size[0], Holders: names(size[1]), Randomness: hex.EncodeToString(random),
			}))
		}
		return all
	})
	for i, want := range all {
		got, err1 := json.Marshal(makeSplit(t, want))
		text, err2 := json.Marshal(want)
		if err1 != nil || err2 != nil || !bytes.Equal(got, text) {
			t.Errorf("split %d differs", i)
		}
	}
}

type productVector struct {
	A       byte `json:"a"`
	B       byte `json:"b"`
	Product byte `json:"product"`
}

func TestFieldVectors(t *testing.T) {
	for _, v := range vector(t, "field.json", func() (all []productVector) {
		for _, p := range [][2]byte{{0, 7}, {1, 0xff}, {2, 0x80}, {0x57, 0x13}, {0x57, 0x83}, {0x53, 0xca}, {0xff, 0xff}} {
			all = append(all, productVector{p[0], p[1], slowMul(p[0], p[1])})
		}
		return all
	}) {
		if got := mul(v.A, v.B); got != v.Product {
			t.Errorf("%#x times %#x is %#x, want %#x", v.A, v.B, got, v.Product)
		}
	}
}

// releaseVector was made once with real keys: what is opened here must be
// opened by every later release.
type releaseVector struct {
	CustodianIdentity string `json:"custodian_identity"`
	ShareFile         string `json:"share_file"`
	Share             string `json:"share"`
	Request           string `json:"request"`
	Fingerprint       string `json:"fingerprint"`
	OneTimeIdentity   string `json:"one_time_identity"`
	Release           string `json:"release"`
}

func TestReleaseVectors(t *testing.T) {
	v := vector(t, "release.json", func() releaseVector {
		_, shares, _ := split(t, 50, 3, 5)
		secret, recipient := identity(t, "mari")
		sealed, err1 := SealShare(shares[0], recipient)
		r, once := request(t)
		release, err2 := SealRelease(shares[0], r, noon)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		return releaseVector{secret, string(sealed), string(shares[0].Marshal()), string(r.Marshal()), r.Fingerprint(), once, string(release)}
	})
	share, err := OpenShare([]byte(v.ShareFile), v.CustodianIdentity)
	if err != nil || string(share.Marshal()) != v.Share {
		t.Errorf("share: %v", err)
	}
	r, err := ParseRequest([]byte(v.Request))
	if err != nil || r.Fingerprint() != v.Fingerprint {
		t.Fatalf("request: %v", err)
	}
	released, err := OpenRelease([]byte(v.OneTimeIdentity), []byte(v.Release), r, noon)
	if err != nil || released.Share != share {
		t.Errorf("release: %v", err)
	}
	changed := *r
	changed.Nonce[0]++
	if _, err := OpenRelease([]byte(v.OneTimeIdentity), []byte(v.Release), &changed, noon); !errors.Is(err, ErrOtherRequest) {
		t.Errorf("release for another request: %v", err)
	}
}

type kitVector struct {
	Name   string            `json:"name"`
	Files  map[string]string `json:"files"`
	Expect string            `json:"expect"` // ok or invalid
}

func TestKitVectors(t *testing.T) {
	for _, v := range vector(t, "kits.json", func() []kitVector {
		row := func(name string, k *Kit, expect string) kitVector {
			files := map[string]string{}
			for n, b := range mustBuild(t, k) {
				files[n] = string(b)
			}
			return kitVector{name, files, expect}
		}
		k := sampleKit(t)
		swapped := row("another charter", k, "invalid")
		swapped.Files[KitCharter] = "version: 2\n"
		return []kitVector{row("two embassies", k, "ok"), swapped}
	}) {
		files := map[string][]byte{}
		for n, text := range v.Files {
			files[n] = []byte(text)
		}
		if _, err := ParseKit(files); (err == nil) != (v.Expect == "ok") {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}
