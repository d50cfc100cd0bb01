package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/shard"
)

// errMismatch: the bytes that came are not those of the name.
var errMismatch = errors.New("embassy: the bytes do not make the name")

// file is what the store writes objects to.
type file interface {
	io.Writer
	Reserve(size int64) error
	Commit() error
	Abort() error
}

// store keeps one state's objects: objects/ab/HEX, written in tmp/ and renamed.
type store struct {
	dir    string
	blocks *blocks
	group  *durable.Group
	create func(folder, path string) (file, error) // replaced by tests that fill the disk

	reserved atomic.Int64  // bytes on their way to disk
	lanes    chan struct{} // one token per object of a batch at work
	locks    locks
}

func openStore(dir string, b *blocks) (*store, error) {
	group, err := durable.NewGroup(dir)
	if err != nil {
		return nil, fmt.Errorf("embassy: objects: %w", err)
	}
	s := &store{dir: dir, blocks: b, group: group, lanes: make(chan struct{}, batchLeaves)}
	s.create = func(folder, path string) (file, error) {
		f, err := group.CreateIn(folder, path, filePerm)
		if err != nil {
			return nil, err
		}
		f.Cold()
		return f, nil
	}
	if err := s.clear(); err != nil {
		return nil, errors.Join(fmt.Errorf("embassy: objects: %w", err), s.close())
	}
	return s, nil
}

func (s *store) close() error { return s.group.Close() }

// clear empties tmp and makes its folders.
func (s *store) clear() error {
	// What lies in tmp was acknowledged to nobody.
	if _, err := durable.RemoveTemps(s.tmp()); err != nil {
		return err
	}
	for i := range tmpFolders {
		// Nothing durable lies in these: a crash may take one away or not.
		folder := s.tmpFolder(i)
		if err := os.Mkdir(folder, folderPerm); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if _, err := durable.RemoveTemps(folder); err != nil {
			return err
		}
	}
	return nil
}

// tmpFolders is how many folders objects are written in. In one alone all
// writers would wait for each other: the system lets one at a time add a name
// to a folder or take one away.
const tmpFolders = 16

func (s *store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *store) tmpFolder(i int) string { return filepath.Join(s.tmp(), fmt.Sprintf("%02x", i)) }

func (s *store) path(name shard.Name) string {
	hex := name.String()
	return filepath.Join(s.dir, "objects", hex[:2], hex)
}

// write stores size bytes of body under name: durable when it returns nil. It
// fails with errMismatch, durable.Full errors, or whatever the body fails with;
// then nothing is left but what was there before.
func (s *store) write(name shard.Name, body io.Reader, size int64) error {
	f, err := s.create(s.tmpFolder(int(name[0])%tmpFolders), s.path(name))
	if err != nil {
		return err
	}
	if err := s.fill(f, name, body, size); err != nil {
		return errors.Join(err, f.Abort())
	}
	// A crash before this ends leaves a file in tmp, removed at the next start;
	// after it, an object without a leaf, which the next PUT of it gives one.
	return f.Commit()
}

// fill reads, hashes and writes block by block, while a block is in the cache.
func (s *store) fill(f file, name shard.Name, body io.Reader, size int64) error {
	if size > blockSize { // for one block it would only be another call
		if err := f.Reserve(size); err != nil {
			return err
		}
	}
	buf := s.blocks.get()
	defer s.blocks.put(buf)
	var h shard.Hasher
	for left := size; left > 0; {
		b := (*buf)[:min(left, blockSize)]
		if _, err := io.ReadFull(body, b); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return invalid("request", "the body ended early")
			}
			return fmt.Errorf("embassy: body: %w", err)
		}
		if _, err := h.Write(b); err != nil {
			return fmt.Errorf("embassy: hash: %w", err)
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	if h.Name() != name {
		return errMismatch
	}
	return nil
}

// stat tells the length of an object's file, or fs.ErrNotExist.
func (s *store) stat(name shard.Name) (int64, error) {
	info, err := os.Lstat(s.path(name))
	if err != nil {
		return 0, fmt.Errorf("embassy: object: %w", err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("embassy: object: %s is not a file", s.path(name))
	}
	return info.Size(), nil
}

func (s *store) open(name shard.Name) (*os.File, error) {
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("embassy: object: %w", err)
	}
	return f, nil
}

// check reads an object and compares it with its name and size; it returns what
// is wrong: "" for nothing, "lost", "length" or "altered".
func (s *store) check(ctx context.Context, name shard.Name, size int64) (string, error) {
	f, err := s.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "lost", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("embassy: object: %w", err)
	}
	if info.Size() != size {
		return "length", nil
	}
	defer durable.DropCache(f) // a scrub reads everything once
	buf := s.blocks.get()
	defer s.blocks.put(buf)
	var h shard.Hasher
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(*buf)
		if n > 0 {
			if _, err := h.Write((*buf)[:n]); err != nil {
				return "", fmt.Errorf("embassy: hash: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, syscall.EIO) {
			return "altered", nil // the disk itself gives it up
		}
		if err != nil {
			return "", fmt.Errorf("embassy: object: %w", err)
		}
	}
	if h.Name() != name {
		return "altered", nil
	}
	return "", nil
}

// leaves hashes an object's leaves.
func (s *store) leaves(name shard.Name) ([]byte, error) {
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	buf := s.blocks.get()
	defer s.blocks.put(buf)
	var out []byte
	hashes := make([][32]byte, 0, blockSize/shard.LeafSize)
	for {
		n, err := io.ReadFull(f, *buf)
		hashes = shard.LeafHashes(hashes[:0], (*buf)[:n])
		for i := range hashes {
			out = append(out, hashes[i][:]...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out, nil
		}
		if err != nil || len(out) > maxLeafCount*32 {
			return nil, fmt.Errorf("embassy: object: %w", errors.Join(err, errMismatch))
		}
	}
}

// free is the room of the file system in bytes.
func (s *store) free() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("embassy: room: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// locks lets one request at a time work on a name or slot.
type locks struct {
	mu   sync.Mutex
	held map[any]*lock
}

type lock struct {
	turn chan struct{} // holds one token while free
	want int
}

// take waits for key's turn; release gives it back.
func (l *locks) take(ctx context.Context, key any) (release func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[any]*lock)
	}
	k := l.held[key]
	if k == nil {
		k = &lock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[key] = k
	}
	k.want++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		if k.want--; k.want == 0 {
			delete(l.held, key)
		}
		l.mu.Unlock()
	}
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
