package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// SummaryVersion is the first major version whose servers can send what changed since an earlier backup.
const SummaryVersion = 17

// ErrUnchanging: the server cannot send what changed since the earlier backup, or sent it in a form that is not known. A
// whole backup may still be taken.
var ErrUnchanging = errors.New("the server cannot say what changed since the last backup")

// Summarizes asks whether the server keeps summaries of what its log changes, which a backup of changes needs. Servers
// before [SummaryVersion] never do. [Conn.Identify] comes first.
func (c *Conn) Summarizes(ctx context.Context) (bool, error) {
	if c.known.Major() < SummaryVersion {
		return false, nil
	}
	r, err := c.queryOne(ctx, "SHOW summarize_wal", "summarize_wal")
	if err != nil {
		return false, fmt.Errorf("summaries of the log: %w", err)
	}
	return r["summarize_wal"] == "on", nil
}

// uploadManifest tells the server what the earlier backup was.
func (c *Conn) uploadManifest(ctx context.Context, write func(io.Writer) error) error {
	if err := c.send(ctx, "UPLOAD_MANIFEST"); err != nil {
		return err
	}
	m, err := c.next(ctx, answerTimeout)
	if err != nil {
		return c.unchanging(err)
	}
	if _, ok := m.(*pgproto3.CopyInResponse); !ok {
		return c.nonsense(m, "the answer to a manifest")
	}
	w := bufio.NewWriterSize(&copyWriter{c, ctx}, 64<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if err != nil {
		return c.fail(err)
	}
	defer c.guard(ctx, answerTimeout)()
	c.front.Send(&pgproto3.CopyDone{})
	if err := c.front.Flush(); err != nil {
		return c.fail(broken(ctx, err))
	}
	return c.unchanging(c.ready(ctx))
}

// unchanging names what the server itself refused, after which it takes other commands.
func (c *Conn) unchanging(err error) error {
	if err == nil || c.busy || stateOf(err) == "" {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnchanging, err)
}

// copyWriter sends what is written to a server that takes a copy.
type copyWriter struct {
	c   *Conn
	ctx context.Context
}

func (w *copyWriter) Write(p []byte) (int, error) {
	defer w.c.guard(w.ctx, answerTimeout)()
	w.c.front.Send(&pgproto3.CopyData{Data: p})
	if err := w.c.front.Flush(); err != nil {
		return 0, broken(w.ctx, err)
	}
	return len(p), nil
}

// Changes is the beginning of what a server sends in place of a file, of which it sends only the blocks that changed:
// what to make of them and of the file as it was.
//
//	magic u32 | blocks u32 | length u32 | their numbers, u32 each, ascending | zeros up to a whole block, where there are some
//	the blocks
//
// All little endian: servers write what their machine has, and one of another kind is not known.
type Changes struct {
	Blocks []uint32 // their numbers in the file
	Length uint32   // of the file in blocks; what lies behind the earlier one and is not among Blocks is zeros
}

const (
	changesPrefix = "INCREMENTAL."
	changesMagic  = 0xd3ae1f0d
	// maxBlocks caps the blocks of one file: a server cuts its files at 1 GiB, unless it was built otherwise.
	maxBlocks = 1 << 20
)

// ChangedName is the name of the file of which an entry holds the changes; ok is false where it is a file itself.
func ChangedName(name string) (of string, ok bool) {
	dir, base := path.Split(name)
	base, ok = strings.CutPrefix(base, changesPrefix)
	return dir + base, ok && base != ""
}

// ReadChanges reads the beginning of an entry of so many bytes; the blocks follow, of blockSize bytes each. What is not of
// the form that is known wraps [ErrUnchanging]. It reads and allocates no more than 4 bytes for each block.
func ReadChanges(r io.Reader, size int64, blockSize int) (c Changes, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return c, fmt.Errorf("changes: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[4:])
	c.Length = binary.LittleEndian.Uint32(head[8:])
	begin := int64(len(head)) + 4*int64(n)
	if n > 0 {
		begin = (begin + int64(blockSize) - 1) / int64(blockSize) * int64(blockSize)
	}
	if binary.LittleEndian.Uint32(head[:]) != changesMagic || n > maxBlocks || c.Length > maxBlocks ||
		size != begin+int64(n)*int64(blockSize) {
		return c, fmt.Errorf("%w: %d changes to %d blocks in %d bytes", ErrUnchanging, n, c.Length, size)
	}
	rest := make([]byte, begin-int64(len(head)))
	if _, err := io.ReadFull(r, rest); err != nil {
		return c, fmt.Errorf("changes: %w", err)
	}
	c.Blocks = make([]uint32, n)
	for i := range c.Blocks {
		b := binary.LittleEndian.Uint32(rest[4*i:])
		if b >= maxBlocks || i > 0 && b <= c.Blocks[i-1] {
			return c, fmt.Errorf("%w: block %d after others", ErrUnchanging, b)
		}
		c.Blocks[i] = b
		c.Length = max(c.Length, b+1)
	}
	if strings.Trim(string(rest[4*int(n):]), "\x00") != "" {
		return c, fmt.Errorf("%w: more than the numbers of blocks", ErrUnchanging)
	}
	return c, nil
}
