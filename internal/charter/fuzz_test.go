package charter

import (
	"bytes"
	"reflect"
	"testing"

	"chancery.dev/chancery/internal/vectest"
)

func FuzzParse(f *testing.F) {
	c := mustNew(f, sample())
	f.Add(c.Bytes())
	small := sample()
	small.Agents, small.Embassies, small.Witnesses, small.Auditors = []Agent{}, []Embassy{}, nil, nil
	small.Witnessing = Witnessing{}
	f.Add(mustNew(f, small).Bytes())
	f.Add(mustNew(f, sampleOfVersion1()).Bytes())
	f.Add([]byte("version: 1\nstate:\n  id: \"\"\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := Parse(doc)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Bytes(), doc) {
			t.Error("the bytes are not kept")
		}
		again, err := New(*c)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		again.doc = c.doc
		if !reflect.DeepEqual(again, c) {
			t.Error("written again it means something else")
		}
	})
}

func FuzzVerifySignatures(f *testing.F) {
	doc := []byte("a charter\n")
	f.Add(signed(f, doc, 10, 11))
	f.Add(vectest.Hardware{Key: testKey(10), Flags: 0}.SignIn(f, Namespace, doc))
	signers := []Signer{signerOf("mari", 90), signerOf("jaan", 91)}
	f.Fuzz(func(t *testing.T, sigs []byte) {
		// Nobody who signed what the fuzzer knows is on the list.
		if VerifySignatures(doc, sigs, signers, 1) == nil {
			t.Error("a quorum from nowhere")
		}
	})
}

func FuzzParseSSHKey(f *testing.F) {
	file, err := MarshalSSHKey(testKey(10), "mari")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, file []byte) {
		key, err := ParseSSHKey(file)
		if err == nil && len(key) != 64 {
			t.Errorf("key of %d bytes", len(key))
		}
	})
}

func FuzzParseSSHPublicKey(f *testing.F) {
	f.Add([]byte(signerOf("mari", 10).Key + " mari@home\n"))
	f.Add([]byte(vectest.Hardware{Key: testKey(60), Flags: 1}.Text()))
	f.Fuzz(func(t *testing.T, line []byte) {
		text, err := ParseSSHPublicKey(line)
		if err != nil {
			return
		}
		if again, err := ParseSSHPublicKey([]byte(text)); err != nil || again != text {
			t.Errorf("%q is not canonical: %v", text, err)
		}
	})
}

func FuzzParseRegister(f *testing.F) {
	f.Add(mustMarshal(f, sampleRegister(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRegister(b)
		if err != nil {
			return
		}
		if again, err := r.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("not canonical: %v", err)
		}
	})
}

func FuzzParseRegisterSecrets(f *testing.F) {
	b, err := sampleSecrets().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseRegisterSecrets(b)
		if err != nil {
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("not canonical: %v", err)
		}
	})
}

func FuzzTextForms(f *testing.F) {
	f.Add(EncodeKey(pub(1)))
	f.Add(EncodeDigest([32]byte{1}))
	f.Add(StateID{1}.String())
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseKey(text); err == nil && EncodeKey(k) != text {
			t.Error("key")
		}
		if k, err := ParseOpeningKey(text); err == nil && EncodeKey(k) != text {
			t.Error("opening key")
		}
		if d, err := ParseDigest(text); err == nil && EncodeDigest(d) != text {
			t.Error("digest")
		}
		if id, err := ParseStateID(text); err == nil && id.String() != text {
			t.Error("id")
		}
	})
}
