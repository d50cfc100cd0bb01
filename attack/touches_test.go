package attack

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// touched is what a traced program did to files below a folder: one line for each system call that names a file or
// uses an open one, in the order in which they ended, with how each ended.
type touched struct {
	dir string
	pid func() int

	mu    sync.Mutex
	under map[int]string // by thread: the call that it is in
	lines []string
}

func touches(dir string, pid func() int) *touched {
	return &touched{dir: dir, pid: pid, under: map[int]string{}}
}

// byPath are the calls that name a file, and which argument does: 1 where it follows the descriptor of a folder.
func byPath() map[uint64]int {
	return map[uint64]int{
		unix.SYS_OPEN: 0, unix.SYS_STAT: 0, unix.SYS_LSTAT: 0, unix.SYS_ACCESS: 0, unix.SYS_UNLINK: 0, unix.SYS_RENAME: 0,
		unix.SYS_MKDIR: 0, unix.SYS_RMDIR: 0, unix.SYS_LINK: 0, unix.SYS_READLINK: 0, unix.SYS_STATFS: 0, unix.SYS_TRUNCATE: 0,
		unix.SYS_CHMOD: 0, unix.SYS_GETXATTR: 0, unix.SYS_OPENAT: 1, unix.SYS_OPENAT2: 1, unix.SYS_NEWFSTATAT: 1, unix.SYS_STATX: 1,
		unix.SYS_FACCESSAT: 1, unix.SYS_FACCESSAT2: 1, unix.SYS_UNLINKAT: 1, unix.SYS_RENAMEAT: 1, unix.SYS_RENAMEAT2: 1,
		unix.SYS_MKDIRAT: 1, unix.SYS_LINKAT: 1, unix.SYS_SYMLINKAT: 1, unix.SYS_READLINKAT: 1, unix.SYS_FCHMODAT: 1, unix.SYS_UTIMENSAT: 1,
	}
}

// byDescriptor are those that use an open file.
func byDescriptor() map[uint64]bool {
	all := map[uint64]bool{}
	for _, n := range []uint64{
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV, unix.SYS_PWRITEV,
		unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FLOCK,
		unix.SYS_GETDENTS64, unix.SYS_FSTATFS, unix.SYS_FADVISE64, unix.SYS_SYNC_FILE_RANGE, unix.SYS_CLOSE, unix.SYS_SENDFILE,
	} {
		all[n] = true
	}
	return all
}

var (
	pathCalls       = byPath()
	descriptorCalls = byDescriptor()
)

// saw is told of every call of the program.
func (x *touched) saw(tid int, begins bool, regs *[regWords]uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if begins {
		x.under[tid] = x.name(regs)
		return
	}
	if what := x.under[tid]; what != "" {
		end := "done"
		if answer := int64(regs[regAnswer]); answer < 0 {
			end = syscall.Errno(-answer).Error()
		}
		x.lines = append(x.lines, what+" "+end)
	}
	delete(x.under, tid)
}

// name is what a call does to which file below the folder; nothing for any other.
func (x *touched) name(regs *[regWords]uint64) string {
	call, path := regs[regCall], ""
	switch at, named := pathCalls[call]; {
	case named && at == 0:
		path = x.text(regs[regFirst])
	case named:
		if path = x.text(regs[regSecond]); !filepath.IsAbs(path) {
			path = filepath.Join(x.file(regs[regFirst]), path)
		}
	case descriptorCalls[call]:
		path = x.file(regs[regFirst])
	case call == unix.SYS_MMAP:
		path = x.file(regs[regFifth])
	}
	if path != x.dir && !strings.HasPrefix(path, x.dir+"/") {
		return ""
	}
	return fmt.Sprintf("%d %s", call, strings.TrimPrefix(path, x.dir))
}

// file is the file of a descriptor.
func (x *touched) file(fd uint64) string {
	if int32(fd) == unix.AT_FDCWD {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", x.pid()))
		return path
	}
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", x.pid(), int32(fd)))
	return path
}

// text reads a path out of the program's memory, which may end before the longest path would.
func (x *touched) text(at uint64) string {
	const page = 4096
	var all []byte
	for len(all) < unix.PathMax {
		part := make([]byte, page-at%page)
		n, err := unix.ProcessVMReadv(x.pid(), []unix.Iovec{{Base: &part[0], Len: uint64(len(part))}},
			[]unix.RemoteIovec{{Base: uintptr(at), Len: len(part)}}, 0)
		if err != nil || n == 0 {
			return string(all)
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(all, part[:end]...))
		}
		all, at = append(all, part[:n]...), at+uint64(n)
	}
	return string(all)
}

// mark is where the list stands.
func (x *touched) mark() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.lines)
}

var longHex = regexp.MustCompile(`[0-9a-f]{2}/[0-9a-f]{32,}|[0-9a-f]{32,}|(tmp|objects)/[0-9a-f]{2}\b|\.tmp[-.0-9a-z]*`)

// since is what was done since a mark in a part of the folder (all of it: ""), one line for each call; what a request
// names is left out of it.
func (x *touched) since(mark int, only string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var b strings.Builder
	part := regexp.MustCompile(only)
	for _, line := range x.lines[mark:] {
		if !part.MatchString(line) {
			continue
		}
		b.WriteString(longHex.ReplaceAllString(line, "NAME") + "\n")
	}
	return b.String()
}
