package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

const (
	manifestTitle = "chancery index 1"
	segmentSuffix = ".segment"
	maxManifest   = 64 << 10
)

// manifest names the segments that make the index, oldest first. It is a text, and the last file that
// Add writes: what it does not name does not count.
//
//	chancery index 1
//	through 17
//	segment 0000000000000004 1234567 HASH
//	sum HASH
//
// A segment line has the file's number, its size in bytes and its header's SHA-256; sum is the SHA-256
// of all bytes before its line.
type manifest struct {
	Through  uint64
	Segments []segmentName
}

type segmentName struct {
	Number uint64
	Size   int64
	Hash   [32]byte
}

func (n segmentName) file() string { return fmt.Sprintf("%016x%s", n.Number, segmentSuffix) }

func parseSegmentName(file string) (uint64, bool) {
	s, ok := strings.CutSuffix(file, segmentSuffix)
	if !ok || len(s) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && segmentName{Number: n}.file() == file
}

func (m *manifest) has(number uint64) bool {
	for i := range m.Segments {
		if m.Segments[i].Number == number {
			return true
		}
	}
	return false
}

// next returns a number that no segment has.
func (m *manifest) next() uint64 {
	n := uint64(0)
	for i := range m.Segments {
		n = max(n, m.Segments[i].Number)
	}
	return n + 1
}

func (m *manifest) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nthrough %d\n", manifestTitle, m.Through)
	for i := range m.Segments {
		s := &m.Segments[i]
		fmt.Fprintf(&b, "segment %016x %d %x\n", s.Number, s.Size, s.Hash)
	}
	fmt.Fprintf(&b, "sum %x\n", sha256.Sum256(b.Bytes()))
	return b.Bytes()
}

func parseManifest(b []byte) (*manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes: %w", len(b), ErrDamaged)
	}
	m := &manifest{}
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		f := strings.Split(line, " ")
		var err error
		switch {
		case f[0] == "through" && len(f) == 2:
			m.Through, err = strconv.ParseUint(f[1], 10, 64)
		case f[0] == "segment" && len(f) == 4:
			err = m.addSegment(f)
		}
		if err != nil {
			return nil, fmt.Errorf("manifest: line %d: %w: %w", i+1, err, ErrDamaged)
		}
	}
	// There is one spelling: whatever else the text may hold, it is not that.
	if !bytes.Equal(m.bytes(), b) {
		return nil, fmt.Errorf("manifest: not what was written: %w", ErrDamaged)
	}
	return m, nil
}

func (m *manifest) addSegment(f []string) error {
	var s segmentName
	var err error
	if s.Number, err = strconv.ParseUint(f[1], 16, 64); err != nil {
		return err
	}
	if m.has(s.Number) || s.Number == 1<<64-1 {
		return fmt.Errorf("segment %s: named twice, or the last number", f[1])
	}
	if s.Size, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return err
	}
	hash, err := hex.DecodeString(f[3])
	if err != nil || len(hash) != len(s.Hash) {
		return fmt.Errorf("segment %s: hash %q", f[1], f[3])
	}
	s.Hash = [32]byte(hash)
	m.Segments = append(m.Segments, s)
	return nil
}
