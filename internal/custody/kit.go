package custody

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"filippo.io/age/armor"
)

// The files of a kit.
const (
	KitReadme    = "README.txt"
	KitCharter   = "charter.yaml"
	KitSignature = "charter.yaml.sig"
	KitShare     = "share.age"
	KitEmbassies = "embassies.yaml"
)

const (
	maxEmbassies   = 32
	maxAddresses   = 8
	maxAddressSize = 255
)

// ErrKit is returned for a folder that is not a kit.
var ErrKit = errors.New("not a custodian's kit")

// Kit is what one custodian keeps: a small folder. Nothing in it is secret
// without the custodian's private key, which is never part of it. Kits of
// enough custodians, their private keys and the public program recover a state.
type Kit struct {
	State      [16]byte
	StateName  string // for people, at most 128 bytes
	Custodian  string // name in the charter
	X          uint8
	Threshold  uint8
	Total      uint8
	Generation uint32
	Charter    []byte // exact bytes of the charter
	Signature  []byte // its signatures
	Share      []byte // armored age file, see [SealShare]
	Embassies  []KitEmbassy
}

// KitEmbassy is where an embassy is found and how it is recognised.
type KitEmbassy struct {
	Name    string
	Country string   // two uppercase letters
	Key     [32]byte // Ed25519 public key
	URLs    []string // https addresses, best first
}

// CharterHash returns the SHA-256 of the charter in the kit.
func (k *Kit) CharterHash() [32]byte { return sha256.Sum256(k.Charter) }

// BuildKit returns the files of a kit, by name. All may be public; the folder
// is small enough for any medium.
func BuildKit(k *Kit) (map[string][]byte, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	return map[string][]byte{
		KitReadme:    k.readme(),
		KitCharter:   bytes.Clone(k.Charter),
		KitSignature: bytes.Clone(k.Signature),
		KitShare:     bytes.Clone(k.Share),
		KitEmbassies: k.embassies(),
	}, nil
}

// kitFiles returns the most bytes of each file of a kit.
func kitFiles() map[string]int {
	return map[string]int{
		KitReadme: 64 << 10, KitCharter: 1 << 20, KitSignature: 256 << 10,
		KitShare: 64 << 10, KitEmbassies: 256 << 10,
	}
}

// ParseKit reads the files of a kit, by name: exactly the five that [BuildKit]
// makes. The text of the page for people is not looked at. The charter must be
// the one that embassies.yaml was made from; its signatures and meaning are for
// the caller to check.
func ParseKit(files map[string][]byte) (*Kit, error) {
	want := kitFiles()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		b, there := files[name]
		switch {
		case !there:
			return nil, fmt.Errorf("kit: %w: %s is missing", ErrKit, name)
		case len(b) == 0 || len(b) > want[name]:
			return nil, fmt.Errorf("kit: %w: %s has %d bytes, want 1 to %d", ErrKit, name, len(b), want[name])
		}
	}
	if len(files) != len(want) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if _, known := want[name]; !known {
				return nil, fmt.Errorf("kit: %w: %s is not part of a kit", ErrKit, printName(name))
			}
		}
	}
	k := &Kit{
		Charter:   bytes.Clone(files[KitCharter]),
		Signature: bytes.Clone(files[KitSignature]),
		Share:     bytes.Clone(files[KitShare]),
	}
	if err := k.parseEmbassies(files[KitEmbassies]); err != nil {
		return nil, err
	}
	if err := k.validate(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Kit) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("kit: %w: %s", ErrKit, fmt.Sprintf(format, args...))
	}
	limits := kitFiles()
	switch {
	case k.State == [16]byte{}:
		return bad("state is zero")
	case !validText(k.StateName, 128):
		return bad("state name: want 1 to 128 bytes of visible text without quotes or backslashes")
	case !validName(k.Custodian):
		return bad("custodian: not a name")
	case k.Generation < 1:
		return bad("generation counts from 1")
	case k.Threshold < 1 || k.Threshold > k.Total || k.X < 1 || k.X > k.Total || k.Total > MaxHolders:
		return bad("share %d, threshold %d and total %d do not fit together", k.X, k.Threshold, k.Total)
	case len(k.Charter) < 1 || len(k.Charter) > limits[KitCharter]:
		return bad("charter of %d bytes", len(k.Charter))
	case len(k.Signature) < 1 || len(k.Signature) > limits[KitSignature]:
		return bad("signatures of %d bytes", len(k.Signature))
	case len(k.Share) > limits[KitShare] || !bytes.HasPrefix(k.Share, []byte(armor.Header+"\n")):
		return bad("share is not an armored age file")
	case len(k.Embassies) > maxEmbassies:
		return bad("%d embassies, at most %d", len(k.Embassies), maxEmbassies)
	}
	names, keys := map[string]bool{}, map[[32]byte]bool{}
	for i, e := range k.Embassies {
		switch {
		case !validName(e.Name):
			return bad("embassy %d: not a name", i+1)
		case names[e.Name]:
			return bad("embassy %s twice", e.Name)
		case keys[e.Key]:
			return bad("embassy %s: its key is another's too", e.Name)
		case len(e.Country) != 2 || strings.Trim(e.Country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
			return bad("embassy %s: country: want two uppercase letters", e.Name)
		case len(e.URLs) < 1 || len(e.URLs) > maxAddresses:
			return bad("embassy %s: %d addresses, want 1 to %d", e.Name, len(e.URLs), maxAddresses)
		}
		for _, u := range e.URLs {
			if !validText(u, maxAddressSize) || !strings.HasPrefix(u, "https://") || strings.Contains(u, " ") {
				return bad("embassy %s: an address is not https://…", e.Name)
			}
		}
		names[e.Name], keys[e.Key] = true, true
	}
	return nil
}

func keyFingerprint(key [32]byte) string {
	sum := sha256.Sum256(key[:])
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// embassies writes embassies.yaml.
func (k *Kit) embassies() []byte {
	var w bytes.Buffer
	w.WriteString("# Where the embassies are and how they are recognised, and what this kit is.\n")
	w.WriteString("# The charter beside it is what counts; this is its extract for a recovery.\n")
	hash := k.CharterHash()
	fmt.Fprintf(&w, "version: 1\nstate: \"%x\"\nstate_name: \"%s\"\ncharter_hash: \"%x\"\n", k.State[:], k.StateName, hash[:])
	fmt.Fprintf(&w, "custodian: \"%s\"\nshare: %d\nthreshold: %d\ntotal: %d\ngeneration: %d\n", k.Custodian, k.X, k.Threshold, k.Total, k.Generation)
	if len(k.Embassies) == 0 {
		w.WriteString("embassies: []\n")
	} else {
		w.WriteString("embassies:\n")
	}
	for _, e := range k.Embassies {
		fmt.Fprintf(&w, "  - name: \"%s\"\n    country: \"%s\"\n    key: \"%s\"\n    fingerprint: \"%s\"\n    urls:\n",
			e.Name, e.Country, base64.StdEncoding.EncodeToString(e.Key[:]), keyFingerprint(e.Key))
		for _, u := range e.URLs {
			fmt.Fprintf(&w, "      - \"%s\"\n", u)
		}
	}
	return w.Bytes()
}

// parseEmbassies reads embassies.yaml: exactly what embassies writes, except
// that comment lines and empty lines may come and go.
func (k *Kit) parseEmbassies(file []byte) error {
	var meaning strings.Builder
	for line := range strings.Lines(string(file)) {
		if t := strings.TrimLeft(line, " "); t != "\n" && !strings.HasPrefix(t, "#") {
			meaning.WriteString(line)
		}
	}
	var hash [32]byte
	l := lines{kind: KitEmbassies + " without its comments", rest: meaning.String()}
	l.exact("version: 1")
	l.quotedHex("state", k.State[:])
	k.StateName = l.quoted("state_name: ")
	l.quotedHex("charter_hash", hash[:])
	k.Custodian = l.quoted("custodian: ")
	k.X = uint8(l.number("share", MaxHolders))
	k.Threshold = uint8(l.number("threshold", MaxHolders))
	k.Total = uint8(l.number("total", MaxHolders))
	k.Generation = uint32(l.number("generation", 1<<32-1))
	if l.rest == "embassies: []\n" {
		l.next()
	} else {
		l.exact("embassies:")
		for first := true; l.err == nil && (first || l.rest != ""); first = false {
			k.Embassies = append(k.Embassies, l.embassy())
			if len(k.Embassies) > maxEmbassies {
				l.fail("too many embassies")
			}
		}
	}
	l.end()
	if l.err != nil {
		return fmt.Errorf("kit: %w: %w", ErrKit, l.err)
	}
	if hash != k.CharterHash() {
		return fmt.Errorf("kit: %w: %s is not the charter that %s was made from", ErrKit, KitCharter, KitEmbassies)
	}
	return nil
}

func (l *lines) embassy() KitEmbassy {
	var e KitEmbassy
	e.Name = l.quoted("  - name: ")
	e.Country = l.quoted("    country: ")
	key := l.quoted("    key: ")
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	if l.err == nil && (err != nil || len(b) != len(e.Key) || base64.StdEncoding.EncodeToString(b) != key) {
		l.fail("key: want 32 bytes in base64")
	}
	copy(e.Key[:], b)
	if f := l.quoted("    fingerprint: "); l.err == nil && f != keyFingerprint(e.Key) {
		l.fail("fingerprint: not that of the key")
	}
	l.exact("    urls:")
	for l.err == nil && strings.HasPrefix(l.rest, "      - ") {
		e.URLs = append(e.URLs, l.quoted("      - "))
		if len(e.URLs) > maxAddresses {
			l.fail("too many addresses")
		}
	}
	return e
}

// quoted demands prefix and a text in double quotes.
func (l *lines) quoted(prefix string) string {
	v, found := strings.CutPrefix(l.next(), prefix+`"`)
	v, closed := strings.CutSuffix(v, `"`)
	if l.err == nil && (!found || !closed || strings.ContainsAny(v, `"\`)) {
		l.fail("want `" + prefix + "\"…\"`")
		return ""
	}
	return v
}

func (l *lines) quotedHex(key string, dst []byte) {
	v := l.quoted(key + ": ")
	if l.err == nil && !decodeHex(dst, v) {
		l.fail(fmt.Sprintf("%s: want %d lowercase hexadecimal digits", key, 2*len(dst)))
	}
}
