package charter

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"chancery.dev/chancery/internal/vectest"
)

func signed(t testing.TB, doc []byte, keys ...uint64) []byte {
	t.Helper()
	var all []byte
	for _, n := range keys {
		sig, err := Sign(doc, testKey(n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sig...)
	}
	return all
}

func TestQuorumRules(t *testing.T) {
	doc := []byte("a charter\n")
	mari, jaan, tiit := signerOf("mari", 10), signerOf("jaan", 11), signerOf("tiit", 12)
	three := []Signer{mari, jaan, tiit}
	other, err := sshsig.SignWithRand(bytes.NewReader(doc), nil, mustSigner(t, 10), sshsig.HashSHA512, "order@chancery")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		sigs      []byte
		signers   []Signer
		threshold int
		want      error
	}{
		"two of three":                   {signed(t, doc, 10, 12), three, 2, nil},
		"order does not matter":          {signed(t, doc, 12, 10), three, 2, nil},
		"all":                            {signed(t, doc, 10, 11, 12), three, 3, nil},
		"a stranger's is passed over":    {signed(t, doc, 99, 10, 12), three, 2, nil},
		"one of two":                     {signed(t, doc, 10), three, 2, ErrQuorum},
		"none":                           {nil, three, 1, ErrQuorum},
		"one person twice":               {signed(t, doc, 10, 10), three, 2, ErrQuorum},
		"a stranger does not count":      {signed(t, doc, 10, 99), three, 2, ErrQuorum},
		"one key under two names":        {signed(t, doc, 10), []Signer{mari, {"other", mari.Key}}, 2, ErrQuorum},
		"one key under two names, twice": {signed(t, doc, 10, 10), []Signer{mari, {"other", mari.Key}}, 2, ErrQuorum},
		"one person with two keys":       {signed(t, doc, 10, 11), []Signer{mari, {"mari", jaan.Key}}, 2, ErrQuorum},
		"threshold 0":                    {signed(t, doc, 10), three, 0, ErrThreshold},
		"threshold below 0":              {signed(t, doc, 10), three, -1, ErrThreshold},
		"threshold above signers":        {signed(t, doc, 10, 11, 12), three, 4, ErrThreshold},
		"no signers":                     {signed(t, doc, 10), nil, 1, ErrThreshold},
		"other bytes":                    {signed(t, []byte("a charter"), 10, 11), three, 2, ErrSignature},
		"other namespace":                {append(sshsig.Armor(other), signed(t, doc, 11)...), three, 2, ErrSignature},
		"text between":                   {append([]byte("hello\n"), signed(t, doc, 10, 11)...), three, 2, ErrSignature},
		"no end":                         {signed(t, doc, 10, 11)[:500], three, 2, ErrSignature},
		"too many":                       {bytes.Repeat(signed(t, doc, 10), MaxSignatures+1), three, 1, ErrSignature},
		"CRLF and empty lines":           {bytes.ReplaceAll(append([]byte("\n\n"), signed(t, doc, 10, 11)...), []byte("\n"), []byte("\r\n")), three, 2, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := VerifySignatures(doc, test.sigs, test.signers, test.threshold)
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func mustSigner(t testing.TB, n uint64) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(testKey(n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAFlippedBitOfASignatureIsFound(t *testing.T) {
	doc := []byte("a charter\n")
	sig, err := sshsig.SignWithRand(bytes.NewReader(doc), nil, mustSigner(t, 10), sshsig.HashSHA512, Namespace)
	if err != nil {
		t.Fatal(err)
	}
	raw := sig.Marshal()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		parsed, err := sshsig.ParseSignature(bad)
		if err != nil {
			continue
		}
		if VerifySignatures(doc, sshsig.Armor(parsed), []Signer{signerOf("mari", 10)}, 1) == nil {
			t.Errorf("byte %d flipped and still accepted", i)
		}
	}
}

func TestHardwareKeyCountsOnlyWhenTouched(t *testing.T) {
	doc := []byte("a charter\n")
	touched := vectest.Hardware{Key: testKey(60), Flags: 1}
	signer := Signer{"mari", touched.Text()}
	if err := VerifySignatures(doc, touched.SignIn(t, Namespace, doc), []Signer{signer}, 1); err != nil {
		t.Errorf("touched: %v", err)
	}
	untouched := vectest.Hardware{Key: testKey(60), Flags: 0}
	if err := VerifySignatures(doc, untouched.SignIn(t, Namespace, doc), []Signer{signer}, 1); !errors.Is(err, ErrSignature) {
		t.Errorf("untouched: %v, want ErrSignature", err)
	}
	c := sample()
	c.Signers[0] = signer
	if _, err := New(c); err != nil {
		t.Errorf("charter with a hardware key: %v", err)
	}
}

// keygen runs the real ssh-keygen.
func keygen(t *testing.T, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd.CombinedOutput()
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSSHKeygenAcceptsOurSignatures(t *testing.T) {
	c := mustNew(t, sample())
	sig := write(t, "sig", signed(t, c.Bytes(), 10))
	hard := vectest.Hardware{Key: testKey(60), Flags: 1}
	hardSig := write(t, "hardsig", hard.SignIn(t, Namespace, c.Bytes()))
	allowed := write(t, "allowed", []byte("mari "+c.Signers[0].Key+"\nhard "+hard.Text()+"\n"))

	verify := func(who, namespace, sig string, doc []byte) error {
		out, err := keygen(t, doc, "-Y", "verify", "-f", allowed, "-I", who, "-n", namespace, "-s", sig)
		if err == nil && !strings.Contains(string(out), "Good") {
			t.Errorf("ssh-keygen says %s", out)
		}
		return err
	}
	if err := verify("mari", Namespace, sig, c.Bytes()); err != nil {
		t.Errorf("our signature: %v", err)
	}
	if err := verify("hard", Namespace, hardSig, c.Bytes()); err != nil {
		t.Errorf("hardware signature: %v", err)
	}
	if err := verify("mari", "file", sig, c.Bytes()); err == nil {
		t.Error("control: another namespace is accepted")
	}
	if err := verify("mari", Namespace, sig, append(c.Bytes(), '\n')); err == nil {
		t.Error("control: other bytes are accepted")
	}
}

func TestWeAcceptSignaturesOfSSHKeygen(t *testing.T) {
	c := mustNew(t, sample())
	file, err := MarshalSSHKey(testKey(10), "mari@home")
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, "key", file)
	sig, err := keygen(t, c.Bytes(), "-q", "-Y", "sign", "-n", Namespace, "-f", key)
	if err != nil {
		t.Fatalf("%v: %s", err, sig)
	}
	sig = sig[bytes.Index(sig, []byte(armorBegin)):]
	if err := c.Verify(append(sig, signed(t, c.Bytes(), 11)...)); err != nil {
		t.Errorf("with ours: %v", err)
	}
	if err := c.Verify(sig); !errors.Is(err, ErrQuorum) {
		t.Errorf("alone: %v, want ErrQuorum", err)
	}

	// A key that ssh-keygen made signs and is read by us.
	path := filepath.Join(t.TempDir(), "made")
	if out, err := keygen(t, nil, "-q", "-t", "ed25519", "-N", "", "-C", "someone", "-f", path); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := ParseSSHKey(made)
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	text, err := ParseSSHPublicKey(line)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := SSHPublicKey(priv.Public().(ed25519.PublicKey)); text != want {
		t.Errorf("public key %q, want %q", text, want)
	}
}

func TestSSHKeyFiles(t *testing.T) {
	file, err := MarshalSSHKey(testKey(10), "mari")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseSSHKey(file)
	if err != nil || !key.Equal(testKey(10)) {
		t.Errorf("round trip: %v", err)
	}
	out, err := keygen(t, nil, "-y", "-f", write(t, "key", file))
	if err != nil || !strings.HasPrefix(string(out), signerOf("mari", 10).Key) {
		t.Errorf("ssh-keygen -y: %v %s", err, out)
	}
	for _, bad := range [][]byte{nil, []byte("x"), file[:100]} {
		if _, err := ParseSSHKey(bad); err == nil {
			t.Error("a damaged key is accepted")
		}
	}
	for _, bad := range []string{"", "ssh-rsa AAAA", `command="x" ` + signerOf("a", 1).Key, signerOf("a", 1).Key + "\n" + signerOf("b", 2).Key} {
		if _, err := ParseSSHPublicKey([]byte(bad)); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := MarshalSSHKey(nil, ""); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v", err)
	}
	if _, err := Sign(nil, nil); !errors.Is(err, ErrKey) {
		t.Errorf("sign without a key: %v", err)
	}
	if _, err := SSHPublicKey(nil); !errors.Is(err, ErrKey) {
		t.Errorf("no public key: %v", err)
	}
	if _, err := GenerateSSHKey(strings.NewReader("short")); err == nil {
		t.Error("a key from too little randomness")
	}
}

func TestSuccession(t *testing.T) {
	old := mustNew(t, sample())
	tests := map[string]struct {
		change func(*Charter)
		keys   []uint64
		want   error
		say    string
	}{
		"nothing changed":            {func(*Charter) {}, []uint64{10, 11}, nil, ""},
		"embassy closed":             {closeEmbassy, []uint64{10, 11}, nil, ""},
		"new signers, both quorums":  {newSigners, []uint64{10, 11, 70, 71}, nil, ""},
		"custodian's new age key":    {func(c *Charter) { c.Custody.Custodians[0].Recipient = recipientOf(99) }, []uint64{10, 11}, nil, ""},
		"new generation":             {newGeneration, []uint64{10, 11}, nil, ""},
		"new signers, not the old":   {newSigners, []uint64{70, 71}, ErrQuorum, "quorum of charter 1"},
		"new signers, only the old":  {newSigners, []uint64{10, 11}, ErrQuorum, "its own quorum"},
		"too few":                    {func(*Charter) {}, []uint64{10}, ErrQuorum, "quorum of charter 1"},
		"no signatures":              {func(*Charter) {}, nil, ErrQuorum, ""},
		"other state":                {func(c *Charter) { c.State.ID[0]++ }, []uint64{10, 11}, ErrSuccession, "state"},
		"other state code":           {func(c *Charter) { c.State.Code = "XX" }, []uint64{10, 11}, ErrSuccession, "state code"},
		"number skipped":             {func(c *Charter) { c.Number++ }, []uint64{10, 11}, ErrSuccession, "number 3 after 1"},
		"previous is another":        {func(c *Charter) { c.Previous = EncodeDigest([32]byte{1}) }, []uint64{10, 11}, ErrSuccession, "follows another"},
		"custody threshold lowered":  {func(c *Charter) { c.Custody.Threshold = 1 }, []uint64{10, 11}, ErrSuccession, "within generation"},
		"opening key swapped":        {func(c *Charter) { c.Custody.OpeningKey = EncodeKey(take(98, OpeningKeySize)) }, []uint64{10, 11}, ErrSuccession, "within generation"},
		"recovery key swapped":       {func(c *Charter) { c.Custody.RecoveryKey = EncodeKey(pub(97)) }, []uint64{10, 11}, ErrSuccession, "within generation"},
		"custodian gone":             {func(c *Charter) { c.Custody.Custodians = c.Custody.Custodians[:4] }, []uint64{10, 11}, ErrSuccession, "within generation"},
		"commitment swapped":         {func(c *Charter) { c.Custody.Custodians[4].Commitment = EncodeDigest([32]byte{5}) }, []uint64{10, 11}, ErrSuccession, "within generation"},
		"custodian under other name": {func(c *Charter) { c.Custody.Custodians[4].Name = "new" }, []uint64{10, 11}, ErrSuccession, "within generation"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := old.Next()
			test.change(&n)
			next := mustNew(t, n)
			err := CheckSuccession(old, next, signed(t, next.Bytes(), test.keys...))
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), test.say) {
				t.Errorf("error %q does not speak of %q", err, test.say)
			}
		})
	}
}

func newSigners(c *Charter) { c.Signers = []Signer{signerOf("kati", 70), signerOf("mati", 71)} }

func closeEmbassy(c *Charter) {
	c.Embassies = c.Embassies[1:]
	c.Witnessing = c.DefaultWitnessing()
}

func newGeneration(c *Charter) {
	c.Custody.Generation++
	c.Custody.Threshold = 1
	c.Custody.OpeningKey = EncodeKey(take(98, OpeningKeySize))
	c.Custody.Custodians = c.Custody.Custodians[:2]
}

// A thief of the one key that signs can add, and can take nothing away.
func TestASingleHandOnlyAdds(t *testing.T) {
	c := sample()
	c.Threshold, c.Signers = 1, c.Signers[:1]
	old := mustNew(t, c)
	tests := map[string]struct {
		change func(*Charter)
		want   error
	}{
		"nothing changed":         {func(*Charter) {}, nil},
		"another agent":           {func(c *Charter) { c.Agents = append(c.Agents, Agent{Name: "second", Key: EncodeKey(pub(96))}) }, nil},
		"an embassy moved":        {func(c *Charter) { c.Embassies[0].URLs = []string{"https://moved.example:7401"} }, nil},
		"new generation":          {newGeneration, ErrSuccession},
		"custodian's new age key": {func(c *Charter) { c.Custody.Custodians[0].Recipient = recipientOf(99) }, ErrSuccession},
		"new signers":             {func(c *Charter) { newSigners(c); c.Threshold = 1 }, ErrSuccession},
		"an agent gone":           {func(c *Charter) { c.Agents = c.Agents[1:] }, ErrSuccession},
		"an agent's other key":    {func(c *Charter) { c.Agents[0].Key = EncodeKey(pub(95)) }, ErrSuccession},
		"an embassy closed":       {closeEmbassy, ErrSuccession},
		"an embassy's other host": {func(c *Charter) { c.Embassies[0].Country = "ZZ"; c.Witnessing = c.GrownWitnessing() }, ErrSuccession},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := old.Next()
			test.change(&n)
			next, err := New(n)
			if err != nil {
				t.Fatalf("not a charter: %v", err)
			}
			keys := []uint64{10}
			if name == "new signers" {
				keys = []uint64{10, 70, 71}
			}
			if err := CheckSuccession(old, next, signed(t, next.Bytes(), keys...)); !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestCustodyNeverGoesBack(t *testing.T) {
	c := sample()
	newGeneration(&c)
	old := mustNew(t, c)
	n := old.Next()
	n.Custody.Generation--
	next := mustNew(t, n)
	if err := CheckSuccession(old, next, signed(t, next.Bytes(), 10, 11)); !errors.Is(err, ErrSuccession) {
		t.Errorf("error %v, want ErrSuccession", err)
	}
}

func TestSuccessionNeedsDocuments(t *testing.T) {
	old := mustNew(t, sample())
	n := old.Next()
	if err := CheckSuccession(old, &n, nil); !errors.Is(err, ErrSuccession) {
		t.Errorf("error %v, want ErrSuccession", err)
	}
}

func TestNextSharesNothing(t *testing.T) {
	old := mustNew(t, sample())
	n := old.Next()
	n.Signers[0].Name, n.Agents[0].Name, n.Embassies[0].URLs[0] = "x", "x", "x"
	n.Custody.Custodians[0].Name = "x"
	n.Witnesses[0].Name, n.Witnessing.Groups[0].Need, n.Auditors[0].Name = "x", 9, "x"
	again, err := Parse(old.Bytes())
	if err != nil || old.Signers[0] != again.Signers[0] || old.Embassies[0].URLs[0] != again.Embassies[0].URLs[0] ||
		old.Agents[0] != again.Agents[0] || old.Custody.Custodians[0] != again.Custody.Custodians[0] ||
		old.Witnesses[0] != again.Witnesses[0] || old.Witnessing.Groups[0] != again.Witnessing.Groups[0] || old.Auditors[0] != again.Auditors[0] {
		t.Error("changing the next charter changed the old one")
	}
	if n.Number != 2 || n.Previous != EncodeDigest(old.Hash()) || n.Bytes() != nil {
		t.Errorf("next: %d %s", n.Number, n.Previous)
	}
}

// The kit's page and the specification say so.
func TestSSHKeygenLooksAtTheFirstSignatureOnly(t *testing.T) {
	doc := []byte("a charter\n")
	for _, first := range []uint64{10, 11} {
		both := write(t, "sig", signed(t, doc, first, 21-first))
		out, err := keygen(t, doc, "-Y", "check-novalidate", "-n", Namespace, "-s", both)
		if err != nil || !strings.Contains(string(out), sshFingerprint(t, first)) || strings.Contains(string(out), sshFingerprint(t, 21-first)) {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func sshFingerprint(t *testing.T, n uint64) string {
	t.Helper()
	return ssh.FingerprintSHA256(mustSigner(t, n).PublicKey())
}
