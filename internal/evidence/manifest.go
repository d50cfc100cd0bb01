package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

const (
	packVersion  = 2 // 1 knew no orders
	packFormat   = "chancery evidence"
	manifestName = "manifest.json"
	maxManifest  = 64 << 20
)

// manifest says what the file is and lists its other files. It is JSON as encoding/json writes it with one space of
// indent, and a newline.
type manifest struct {
	Format  string         `json:"format"`
	Version int            `json:"version"`
	State   string         `json:"state"`
	Made    string         `json:"made"`
	Ledgers []ledgerLine   `json:"ledgers"`
	Files   []manifestFile `json:"files"`
}

type ledgerLine struct {
	Name   string `json:"name"`
	Key    string `json:"key"` // base64
	Origin string `json:"origin"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
}

type manifestFile struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
}

// Write writes the pack as one file. The pack is put into the order of the format. ErrFormat and ErrTooLarge: it
// holds what no file may.
func Write(w io.Writer, p *Pack) error {
	p.normalize()
	if err := p.check(); err != nil {
		return err
	}
	files, err := p.files()
	if err != nil {
		return err
	}
	out := packer{w: w}
	for _, f := range files {
		if err := out.add(f.name, f.data); err != nil {
			return err
		}
	}
	return out.close()
}

// files are the files of a pack that is in order, the manifest among them.
func (p *Pack) files() ([]file, error) {
	var files []file
	files, err := p.charterFiles(files)
	if err != nil {
		return nil, err
	}
	m := manifest{
		Format: packFormat, Version: p.version(), State: p.State.String(), Made: p.Made.Format(time.RFC3339),
		Ledgers: []ledgerLine{}, Files: []manifestFile{},
	}
	for i := range p.Ledgers {
		l := &p.Ledgers[i]
		m.Ledgers = append(m.Ledgers, ledgerLine{l.Name, base64.StdEncoding.EncodeToString(l.Key), l.Origin, l.From, l.To()})
		files = l.files(files)
	}
	for _, r := range p.Records {
		name := sha256.Sum256(r.Data)
		files = append(files, file{"records/" + r.Kind.String() + "/" + hexOf(name[:]), r.Data})
	}
	for _, a := range p.Attachments {
		name := sha256.Sum256(a)
		files = append(files, file{"attachments/" + hexOf(name[:]), a})
	}
	sorted(files)
	for _, f := range files {
		sum := sha256.Sum256(f.data)
		m.Files = append(m.Files, manifestFile{f.name, len(f.data), hexOf(sum[:])})
	}
	text, err := m.bytes()
	if err != nil {
		return nil, err
	}
	files = append(files, file{manifestName, text})
	sorted(files)
	return files, nil
}

// version is the oldest that can hold the pack, so that old readers read what they can.
func (p *Pack) version() int {
	if len(p.Attachments) > 0 || slices.ContainsFunc(p.Records, func(r Record) bool { return r.Kind >= ledger.OrderRecord }) {
		return packVersion
	}
	return 1
}

func (m *manifest) bytes() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, fmt.Errorf("evidence: manifest: %w", err)
	}
	if len(text) >= maxManifest {
		return nil, fmt.Errorf("evidence: manifest: %w", ErrTooLarge)
	}
	return append(text, '\n'), nil
}

// charterFiles names charters by their number; a second one of a number gets .2, and so on.
func (p *Pack) charterFiles(files []file) ([]file, error) {
	seen := map[uint64]int{}
	for _, c := range p.Charters {
		parsed, err := charter.Parse(c.Document)
		if err != nil {
			return nil, fmt.Errorf("evidence: %w: %w", ErrFormat, err)
		}
		seen[parsed.Number]++
		name := fmt.Sprintf("charters/%04d.yaml", parsed.Number)
		if n := seen[parsed.Number]; n > 1 {
			name = fmt.Sprintf("charters/%04d.%d.yaml", parsed.Number, n)
		}
		files = append(files, file{name, c.Document}, file{name + ".sig", c.Signatures})
	}
	return files, nil
}

func (l *Ledger) files(files []file) []file {
	dir := "ledgers/" + l.Name + "/"
	if len(l.Prefix) > 0 {
		files = append(files, file{dir + "prefix", joinHashes(l.Prefix)})
	}
	if len(l.Leaves) > 0 {
		files = append(files, file{dir + "leaves", encodeLeaves(l.Leaves)})
	}
	count := map[string]int{}
	for _, c := range l.Checkpoints {
		count[c.Source]++
		files = append(files, file{fmt.Sprintf("%scheckpoints/%s-%04d.note", dir, c.Source, count[c.Source]), c.Note})
	}
	for i, j := range l.Joins {
		data := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, j.Old), j.New)
		files = append(files, file{fmt.Sprintf("%sjoins/%04d", dir, i+1), append(data, joinHashes(j.Proof)...)})
	}
	for i := range l.Proofs {
		files = append(files, file{fmt.Sprintf("%sproofs/%05d.tlog-proof", dir, i+1), l.Proofs[i].Bytes()})
	}
	return files
}

func joinHashes(hashes [][32]byte) []byte {
	b := make([]byte, 0, 32*len(hashes))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

func splitHashes(b []byte) ([][32]byte, bool) {
	out := make([][32]byte, len(b)/32)
	for i := range out {
		out[i] = [32]byte(b[32*i:])
	}
	return out, len(b)%32 == 0
}

// encodeLeaves writes each leaf as its length in two bytes and its bytes; a length of zero is followed by the hash
// of a leaf that is withheld.
func encodeLeaves(leaves []Leaf) []byte {
	size := 0
	for i := range leaves {
		size += 2 + max(32, len(leaves[i].Data))
	}
	b := make([]byte, 0, size)
	for i := range leaves {
		f := &leaves[i]
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.Data)))
		if f.Data == nil {
			b = append(b, f.Hash[:]...)
		}
		b = append(b, f.Data...)
	}
	return b
}

func decodeLeaves(b []byte) ([]Leaf, bool) {
	var out []Leaf
	for len(b) > 0 {
		if len(b) < 2 || len(out) == maxLeaves {
			return nil, false
		}
		n := int(binary.BigEndian.Uint16(b))
		b = b[2:]
		if n == 0 {
			if len(b) < 32 {
				return nil, false
			}
			out, b = append(out, Leaf{Hash: [32]byte(b)}), b[32:]
			continue
		}
		if len(b) < n || n > ledger.MaxLeaf {
			return nil, false
		}
		out, b = append(out, NewLeaf(b[:n:n])), b[n:]
	}
	return out, true
}

// Read reads what Write wrote and nothing else: ErrFormat, ErrUnknown or ErrTooLarge. Nothing in the result is proven.
// It holds the whole file in memory.
func Read(r io.ReaderAt, size int64) (*Pack, error) {
	c, err := open(r, size)
	if err != nil {
		return nil, err
	}
	m, err := c.manifest()
	if err != nil {
		return nil, err
	}
	p := &Pack{}
	if err := p.start(m); err != nil {
		return nil, err
	}
	for i := range c.entries {
		e := &c.entries[i]
		if e.name == manifestName {
			continue
		}
		data, err := c.read(e)
		if err != nil {
			return nil, err
		}
		if err := p.take(e.name, data); err != nil {
			return nil, fmt.Errorf("evidence: file %s: %w", e.name, err)
		}
	}
	return p, p.same(c)
}

// manifest reads the manifest, before anything else of a file.
func (c *container) manifest() (*manifest, error) {
	e, ok := c.find(manifestName)
	if !ok || e.size > maxManifest {
		return nil, fmt.Errorf("evidence: no manifest: %w", ErrFormat)
	}
	text, err := c.read(e)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil || m.Format != packFormat {
		return nil, fmt.Errorf("evidence: manifest: not of an evidence file: %w", ErrFormat)
	}
	if m.Version < 1 || m.Version > packVersion {
		return nil, fmt.Errorf("evidence: version %d: %w", m.Version, ErrUnknown)
	}
	return &m, nil
}

// start takes from the manifest what no other file says.
func (p *Pack) start(m *manifest) error {
	var err error
	if p.State, err = charter.ParseStateID(m.State); err != nil {
		return fmt.Errorf("evidence: manifest: state: %w", ErrFormat)
	}
	if p.Made, err = time.Parse(time.RFC3339, m.Made); err != nil {
		return fmt.Errorf("evidence: manifest: time: %w", ErrFormat)
	}
	if len(m.Ledgers) > maxLedgers {
		return fmt.Errorf("evidence: manifest: %d ledgers: %w", len(m.Ledgers), ErrTooLarge)
	}
	for _, l := range m.Ledgers {
		key, err := base64.StdEncoding.DecodeString(l.Key)
		if err != nil {
			return fmt.Errorf("evidence: manifest: key: %w", ErrFormat)
		}
		p.Ledgers = append(p.Ledgers, Ledger{Name: l.Name, Key: ed25519.PublicKey(key), Origin: l.Origin, From: l.From})
	}
	return nil
}

// take puts one file where it belongs. What it lets through is held against Write's own names and order by same.
func (p *Pack) take(name string, data []byte) error {
	part := strings.Split(name, "/")
	switch {
	case part[0] == "charters" && len(part) == 2:
		if strings.HasSuffix(name, ".yaml") {
			p.Charters = append(p.Charters, Charter{Document: data})
			return nil
		}
		if n := len(p.Charters); n > 0 && p.Charters[n-1].Signatures == nil {
			p.Charters[n-1].Signatures = data
			return nil
		}
	case part[0] == "records" && len(part) == 3:
		kind, err := ledger.ParseRecordKind(part[1])
		if err != nil {
			return ErrFormat
		}
		p.Records = append(p.Records, Record{kind, data})
		return nil
	case part[0] == "attachments" && len(part) == 2:
		p.Attachments = append(p.Attachments, data)
		return nil
	case part[0] == "ledgers" && len(part) >= 3:
		i := slices.IndexFunc(p.Ledgers, func(l Ledger) bool { return l.Name == part[1] })
		if i >= 0 {
			return p.Ledgers[i].take(part[2:], data)
		}
	}
	return ErrFormat
}

func (l *Ledger) take(part []string, data []byte) (err error) {
	ok := true
	switch {
	case len(part) == 1 && part[0] == "prefix":
		l.Prefix, ok = splitHashes(data)
	case len(part) == 1 && part[0] == "leaves":
		l.Leaves, ok = decodeLeaves(data)
	case len(part) == 1:
		ok = false
	case part[0] == "checkpoints":
		source, _, _ := strings.Cut(part[1], ".")
		if i := strings.LastIndexByte(source, '-'); i >= 0 {
			source = source[:i]
		}
		l.Checkpoints = append(l.Checkpoints, Checkpoint{source, data})
	case part[0] == "joins" && len(data) >= 16:
		j := Join{Old: binary.BigEndian.Uint64(data), New: binary.BigEndian.Uint64(data[8:])}
		j.Proof, ok = splitHashes(data[16:])
		l.Joins = append(l.Joins, j)
	case part[0] == "proofs":
		var q ledger.Proof
		q, err = ledger.ParseProof(data)
		l.Proofs = append(l.Proofs, q)
	default:
		ok = false
	}
	if err != nil || !ok {
		return fmt.Errorf("%w", ErrFormat)
	}
	return nil
}

// same holds what was read against what Write would write: one content has one file.
func (p *Pack) same(c *container) error {
	bad := func(name string) error { return fmt.Errorf("evidence: file %s: %w", strconv.Quote(name), ErrFormat) }
	p.normalize()
	if err := p.check(); err != nil {
		return err
	}
	files, err := p.files()
	if err != nil {
		return err
	}
	if len(files) != len(c.entries) {
		return bad("of which there is one too many, or too few")
	}
	for i, f := range files {
		e := &c.entries[i]
		if e.name != f.name || int(e.size) != len(f.data) {
			return bad(e.name)
		}
		got, err := c.read(e)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, f.data) {
			return bad(e.name)
		}
	}
	return nil
}
