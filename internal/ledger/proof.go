package ledger

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// proofHeader is the first line of a C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1\n"

// MaxExtra caps the extra data of a proof, in bytes.
const MaxExtra = 64 << 10

const maxProofText = len(proofHeader) + 16 + MaxExtra/3*4 + 8 + 32 + maxHashLines*45 + maxCheckpoint

// Proof is a C2SP tlog-proof: that some leaf is in a log, as text.
//
//	"c2sp.org/tlog-proof@v1\n" ["extra BASE64\n"] "index N\n" hashes "\n" checkpoint
type Proof struct {
	Extra      []byte     // not proven; no line is written where it is empty
	Index      uint64     // of the leaf
	Path       [][32]byte // RFC 6962 audit path, lowest first
	Checkpoint []byte     // the signed note, as it is
}

// Bytes is the text. It is what ParseProof reads when the fields keep the caps.
func (p *Proof) Bytes() []byte {
	b := []byte(proofHeader)
	if len(p.Extra) > 0 {
		b = append(b, "extra "...)
		b = base64.StdEncoding.AppendEncode(b, p.Extra)
		b = append(b, '\n')
	}
	b = appendHashes(fmt.Appendf(b, "index %d\n", p.Index), p.Path)
	return append(b, p.Checkpoint...)
}

// ParseProof reads the canonical form and nothing else (ErrFormat); what it
// returns proves nothing before Verify. The checkpoint refers to data.
func ParseProof(data []byte) (Proof, error) {
	bad := func(what string) (Proof, error) {
		return Proof{}, fmt.Errorf("ledger: tlog-proof: %s: %w", what, ErrFormat)
	}
	if len(data) > maxProofText {
		return bad("too large")
	}
	rest, ok := bytes.CutPrefix(data, []byte(proofHeader))
	if !ok {
		return bad("line 1, header")
	}
	var p Proof
	if after, found := bytes.CutPrefix(rest, []byte("extra ")); found {
		text, after, _ := bytes.Cut(after, []byte("\n"))
		if p.Extra, ok = unbase64(string(text)); !ok || len(p.Extra) == 0 || len(p.Extra) > MaxExtra {
			return bad("line 2, extra")
		}
		rest = after
	}
	line, rest, _ := bytes.Cut(rest, []byte("\n"))
	text, found := bytes.CutPrefix(line, []byte("index "))
	if p.Index, ok = decimal(string(text)); !found || !ok {
		return bad("index")
	}
	if p.Path, p.Checkpoint, ok = cutHashes(rest); !ok {
		return bad("path")
	}
	if _, _, err := splitNote(p.Checkpoint); err != nil {
		return Proof{}, fmt.Errorf("ledger: tlog-proof: %w", err)
	}
	return p, nil
}

// Verify proves that these bytes are the leaf at p.Index of the log that v
// names, and returns the checkpoint that says so. ErrSignature: another log or
// key. ErrProof: the leaf is not there. The leaf's own form is not looked at.
func (p *Proof) Verify(leaf []byte, v note.Verifier) (Checkpoint, error) {
	cp, err := ParseCheckpoint(p.Checkpoint, v)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index >= cp.Size || len(p.Path) > maxHashLines {
		return Checkpoint{}, fmt.Errorf("ledger: tlog-proof: leaf %d of %d: %w", p.Index, cp.Size, ErrProof)
	}
	path := make(tlog.RecordProof, len(p.Path))
	for i := range p.Path {
		path[i] = p.Path[i]
	}
	if err := tlog.CheckRecord(path, int64(cp.Size), cp.Root, int64(p.Index), LeafHash(leaf)); err != nil {
		return Checkpoint{}, fmt.Errorf("ledger: tlog-proof: leaf %d of %d: %w", p.Index, cp.Size, ErrProof)
	}
	return cp, nil
}
