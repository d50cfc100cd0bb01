package custody

import (
	"bytes"
	"testing"
)

func FuzzParseShare(f *testing.F) {
	_, shares, _ := split(f, 1, 3, 5)
	f.Add(shares[0].Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseShare(text)
		if err == nil && !bytes.Equal(s.Marshal(), text) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	r, _ := request(f)
	f.Add(r.Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRequest(text)
		if err == nil && !bytes.Equal(r.Marshal(), text) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	_, shares, _ := split(f, 1, 3, 5)
	f.Add(append([]byte("chancery release v1\nrequest: 0000000000000000000000000000000000000000000000000000000000000000\n"), shares[0].Marshal()...))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRelease(text)
		if err == nil && !bytes.HasSuffix(text, r.Share.Marshal()) {
			t.Error("not canonical")
		}
	})
}

func FuzzParseKit(f *testing.F) {
	files := mustBuild(f, sampleKit(f))
	f.Add(files[KitEmbassies], files[KitShare])
	f.Fuzz(func(t *testing.T, embassies, share []byte) {
		k, err := ParseKit(map[string][]byte{
			KitReadme: files[KitReadme], KitCharter: files[KitCharter], KitSignature: files[KitSignature],
			KitEmbassies: embassies, KitShare: share,
		})
		if err != nil {
			return
		}
		if _, err := BuildKit(k); err != nil {
			t.Errorf("built again: %v", err)
		}
	})
}

func FuzzIdentityAndRecipient(f *testing.F) {
	secret, recipient := identity(f, "mari")
	f.Add(secret, recipient)
	f.Fuzz(func(t *testing.T, secret, recipient string) {
		if id, err := ParseIdentity([]byte(secret)); err == nil && CheckRecipient(id.Recipient) != nil {
			t.Error("an identity without a recipient")
		}
		_ = CheckRecipient(recipient)
	})
}

func FuzzOpenShare(f *testing.F) {
	secret, recipient := identity(f, "mari")
	_, shares, _ := split(f, 1, 3, 5)
	sealed, err := SealShare(shares[0], recipient)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, file []byte) {
		if s, err := OpenShare(file, secret); err == nil && s != shares[0] {
			t.Error("another share than was sealed")
		}
	})
}

func FuzzParseAttestation(f *testing.F) {
	_, _, commitments := split(f, 1, 3, 5)
	f.Add(attestation(f, commitments, "mari").Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAttestation(text)
		if err == nil && !bytes.Equal(a.Marshal(), text) {
			t.Error("not canonical")
		}
	})
}
