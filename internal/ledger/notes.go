package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSignatures caps the signature lines of a note: 100, as x/mod's note does.
const maxSignatures = 100

// dash begins each signature line of a C2SP signed-note.
const dash = "\u2014 "

// A sigLine is one signature line of a note.
type sigLine struct {
	name string
	id   uint32
	blob []byte // after the key's id
	raw  []byte // the whole line with its newline
}

// time is the timestamp of a cosignature, known by its length; false for others.
func (s *sigLine) time() (uint64, bool) {
	if len(s.blob) != ed25519Blob && len(s.blob) != mldsaBlob {
		return 0, false
	}
	return binary.BigEndian.Uint64(s.blob), true
}

// same tells whether two lines are of one key.
func (s *sigLine) same(o *sigLine) bool { return s.name == o.name && s.id == o.id }

// parseLine reads "— NAME BASE64\n".
func parseLine(raw []byte) (sigLine, error) {
	bad := func(what string) (sigLine, error) {
		return sigLine{}, fmt.Errorf("ledger: signature line: %s: %w", what, ErrFormat)
	}
	line, ended := strings.CutSuffix(string(raw), "\n")
	line, begun := strings.CutPrefix(line, dash)
	name, text, cut := strings.Cut(line, " ")
	if !ended || !begun || !cut || !validName(name) {
		return bad("no name")
	}
	blob, ok := unbase64(text)
	if !ok || len(blob) < 5 {
		return bad("not base64")
	}
	return sigLine{name: name, id: binary.BigEndian.Uint32(blob), blob: blob[4:], raw: raw}, nil
}

// makeLine writes "— NAME BASE64(ID ‖ BLOB)\n".
func makeLine(name string, id uint32, blob []byte) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, id), blob...)
	return []byte(dash + name + " " + base64.StdEncoding.EncodeToString(b) + "\n")
}

// lineSize is the length in bytes of a line that makeLine writes.
func lineSize(name string, blob int) int {
	return len(dash) + len(name) + 1 + base64.StdEncoding.EncodedLen(4+blob) + 1
}

// validName is what C2SP signed-note lets a key be called, of at most 255 bytes
// because an ML-DSA cosignature gives the length one byte.
func validName(name string) bool {
	return name != "" && len(name) <= 255 && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '+' || r < 0x20 || unicode.IsSpace(r)
	})
}

// SplitSignatures cuts a signed note into its text, with the newline that ends
// it, and its signature lines, each with its newline. Both refer to raw. Only the
// form is checked (ErrFormat); no signature is.
func SplitSignatures(raw []byte) (text []byte, lines [][]byte, err error) {
	text, parsed, err := splitNote(raw)
	if err != nil {
		return nil, nil, err
	}
	for i := range parsed {
		lines = append(lines, parsed[i].raw)
	}
	return text, lines, nil
}

func splitNote(raw []byte) ([]byte, []sigLine, error) {
	if len(raw) > maxCheckpoint {
		return nil, nil, fmt.Errorf("ledger: note of %d bytes: %w", len(raw), ErrFormat)
	}
	if !utf8.Valid(raw) || bytes.ContainsFunc(raw, func(r rune) bool { return r < 0x20 && r != '\n' }) {
		return nil, nil, fmt.Errorf("ledger: note: not text: %w", ErrFormat)
	}
	end := bytes.LastIndex(raw, []byte("\n\n"))
	if end < 0 {
		return nil, nil, fmt.Errorf("ledger: note: no signatures: %w", ErrFormat)
	}
	lines, err := splitLines(raw[end+2:])
	if err != nil {
		return nil, nil, err
	}
	if len(lines) == 0 {
		return nil, nil, fmt.Errorf("ledger: note: no signatures: %w", ErrFormat)
	}
	return raw[:end+1], lines, nil
}

// splitLines reads one signature line after the other.
func splitLines(data []byte) ([]sigLine, error) {
	var lines []sigLine
	for one := range bytes.Lines(data) {
		if len(lines) == maxSignatures {
			return nil, fmt.Errorf("ledger: note: more than %d signatures: %w", maxSignatures, ErrFormat)
		}
		l, err := parseLine(one)
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// AddSignatures returns the note with further signature lines after its own. A
// note holds one line of a key: of two, the cosignature with the later time
// stays, and else the one that was there. Each of lines may be several lines, as
// a witness answers them. No signature is checked here, so the caller has done
// that: a forged line with a late time would displace a true one. ErrFormat: a
// line or the note is malformed, or the whole has more than 100 signatures or 64
// KiB. The result is new bytes.
func AddSignatures(raw []byte, lines ...[]byte) ([]byte, error) {
	text, have, err := splitNote(raw)
	if err != nil {
		return nil, err
	}
	for _, some := range lines {
		if len(some) > maxCheckpoint {
			return nil, fmt.Errorf("ledger: note: %d bytes of signatures: %w", len(some), ErrFormat)
		}
		more, err := splitLines(some)
		if err != nil {
			return nil, err
		}
		have = append(have, more...)
	}
	out := append(bytes.Clone(text), '\n')
	kept := newest(have)
	for i := range kept {
		out = append(out, kept[i].raw...)
	}
	if len(kept) > maxSignatures || len(out) > maxCheckpoint {
		return nil, fmt.Errorf("ledger: note: %d signatures, %d bytes: %w", len(kept), len(out), ErrFormat)
	}
	return out, nil
}

// newest keeps one line of each key, in the order in which the keys came.
func newest(lines []sigLine) []sigLine {
	var kept []sigLine
next:
	for i := range lines {
		for j := range kept {
			if !kept[j].same(&lines[i]) {
				continue
			}
			was, timed := kept[j].time()
			if is, ok := lines[i].time(); timed && ok && is > was {
				kept[j] = lines[i]
			}
			continue next
		}
		kept = append(kept, lines[i])
	}
	return kept
}

// unbase64 reads strict padded base64 without anything that Go's decoder skips.
func unbase64(s string) ([]byte, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return b, err == nil && base64.StdEncoding.EncodedLen(len(b)) == len(s)
}

// decimal reads an unsigned number without leading zeros, at most maxTree.
func decimal(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= maxTree && strconv.FormatUint(n, 10) == s
}

// maxHashLines is the longest proof that C2SP's text forms carry.
const maxHashLines = 63

// appendHashes writes hashes, one line each, and the empty line that ends them.
func appendHashes(b []byte, hashes [][32]byte) []byte {
	for i := range hashes {
		b = base64.StdEncoding.AppendEncode(b, hashes[i][:])
		b = append(b, '\n')
	}
	return append(b, '\n')
}

// cutHashes is its inverse: at most 63 hashes up to an empty line, and what
// follows that line. ok is false for anything else.
func cutHashes(data []byte) (hashes [][32]byte, rest []byte, ok bool) {
	for {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if !found {
			return nil, nil, false
		}
		if len(line) == 0 {
			return hashes, rest, true
		}
		h, good := unbase64(string(line))
		if !good || len(h) != 32 || len(hashes) == maxHashLines {
			return nil, nil, false
		}
		hashes, data = append(hashes, [32]byte(h)), rest
	}
}

// OwnSignatures is a checkpoint's note without anybody's signatures but those in
// the name of its log. What is no note, or has none of them, comes back as it is.
func OwnSignatures(raw []byte) []byte {
	text, lines, err := SplitSignatures(raw)
	if err != nil {
		return raw
	}
	origin, _, _ := bytes.Cut(text, []byte("\n"))
	own := append([]byte(dash), append(bytes.Clone(origin), ' ')...)
	out := append(bytes.Clone(text), '\n')
	bare := len(out)
	for _, l := range lines {
		if bytes.HasPrefix(l, own) {
			out = append(out, l...)
		}
	}
	if len(out) == bare {
		return raw
	}
	return out
}
