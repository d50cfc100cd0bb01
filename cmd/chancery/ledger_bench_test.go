package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

// million is the size of the ledger that is verified, in entries.
const million = 1_000_000

// BenchmarkLedgerVerify verifies a copy of a ledger of a million entries with the command, as a process of its own,
// and reports the most memory that it had resident.
func BenchmarkLedgerVerify(b *testing.B) {
	dir := b.TempDir()
	charterFile := foundLedger(b, dir)
	program := filepath.Join(dir, "chancery")
	if err := os.Symlink(os.Args[0], program); err != nil {
		b.Fatal(err)
	}
	var peak uint64
	for b.Loop() {
		var out, errs bytes.Buffer
		c := exec.CommandContext(b.Context(), program, "--json", "ledger", "verify", "--from", filepath.Join(dir, "copy"), "--charter", charterFile)
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		var err error
		for running := true; running; {
			select {
			case err = <-ended:
				running = false
			case <-time.After(5 * time.Millisecond): // rusage would count the memory of this process too
				peak = max(peak, highWater(c.Process.Pid))
			}
		}
		// Nobody cosigned it: exit 3, with every entry read.
		if n, _ := field(out.String(), "0.entries_checked"); n != "1000000" || c.ProcessState.ExitCode() != exitPartial {
			b.Fatalf("%v: %s%s", err, out.String(), errs.String())
		}
	}
	b.ReportMetric(float64(peak)/1024, "MiB-VmHWM")
}

// highWater is the most memory that a process had resident, in KiB; 0 when it is gone.
func highWater(pid int) (n uint64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, ok := strings.Cut(string(text), "VmHWM:")
	if ok {
		_, _ = fmt.Sscan(after, &n)
	}
	return n
}

// foundLedger makes a state with one embassy and a copy of its ledger, and returns the charter's file.
func foundLedger(b *testing.B, dir string) string {
	seed := sha256.Sum256([]byte("embassy"))
	key := ed25519.NewKeyFromSeed(seed[:])
	public := ed25519.PublicKey(key[32:])
	keys, err := holders()
	if err != nil {
		b.Fatal(err)
	}
	f := home.Founding{Name: "Republic of X", Code: "XX", Quorum: 3}
	for _, n := range custodians() {
		f.Custodians = append(f.Custodians, home.Holder{Name: n, Recipient: keys[n][1]})
	}
	h, err := home.Create(filepath.Join(dir, "home"), f)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	next := h.Charter.Next()
	e := charter.Embassy{
		Name: "lu", Country: "LU", ID: charter.EmbassyIDOf(public), Key: charter.EncodeKey(public),
		URLs: []string{"https://127.1.1.1:7401"}, Origin: ledger.Origin(h.Charter.State.ID, public),
	}
	next.Embassies = append(next.Embassies, e)
	next.Witnessing = next.GrownWitnessing()
	if err := h.Adopt(next); err != nil {
		b.Fatal(err)
	}
	fillLedger(b, filepath.Join(dir, "copy"), h.Charter, e, key)
	return filepath.Join(dir, "home", "charter.yaml")
}

// fillLedger writes the files of a ledger of a million entries.
func fillLedger(b *testing.B, dir string, c *charter.Charter, e charter.Embassy, key ed25519.PrivateKey) {
	var levels [4][]byte // hashes
	var tree ledger.Tree
	files := map[string][]byte{}
	var bundle []byte
	var bundles [][]byte
	for i := range uint64(million) {
		l := ledger.NewLeaf(ledger.ObjectStored, c.State.ID)
		l.Name, l.Size, l.Time = sha256.Sum256(binary.BigEndian.AppendUint64(nil, i)), 1, 1
		if i == 0 {
			l.Kind, l.Name, l.Slot = ledger.CharterTaken, c.Hash(), ledger.Slot{Kind: ledger.Charter, Sequence: c.Number}
		}
		raw, err := l.Bytes()
		if err != nil {
			b.Fatal(err)
		}
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(raw))), raw...)
		hash := ledger.LeafHash(raw)
		tree.Append(hash)
		levels[0] = append(levels[0], hash[:]...)
		if i%256 == 255 || i == million-1 {
			bundles, bundle = append(bundles, bundle), nil
		}
	}
	for l := 1; l < len(levels); l++ {
		for below := levels[l-1]; len(below) >= 256*32; below = below[256*32:] {
			var t ledger.Tree
			for i := range 256 {
				t.Append([32]byte(below[32*i:]))
			}
			root := t.Root()
			levels[l] = append(levels[l], root[:]...)
		}
	}
	rest := [4][]byte{levels[0], levels[1], levels[2], levels[3]}
	for path := range auditor.Files(million) {
		if path[5] == 'e' {
			files[path], bundles = bundles[0], bundles[1:]
			continue
		}
		l := path[5] - '0'
		n := min(256*32, len(rest[l]))
		files[path], rest[l] = rest[l][:n], rest[l][n:]
	}
	signer, err := ledger.NewSigner(e.Origin, key)
	if err != nil {
		b.Fatal(err)
	}
	text := e.Origin + "\n1000000\n" + tlog.Hash(tree.Root()).String() + "\n"
	if files["checkpoint"], err = note.Sign(&note.Note{Text: text}, signer); err != nil {
		b.Fatal(err)
	}
	for path, data := range files {
		name := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
