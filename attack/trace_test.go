package attack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// harm is what happens to one system call of a traced program.
type harm uint8

const (
	fail harm = iota // it is not made and answers EIO
	late             // it is made and answers EIO all the same
	kill             // the program is killed before it
)

func (h harm) String() string { return [...]string{"fail", "fail after", "kill before"}[h] }

// calls are the system calls that change disk or network, or open what does, by name.
func calls() map[string]uint64 {
	return map[string]uint64{
		"write": unix.SYS_WRITE, "pwrite64": unix.SYS_PWRITE64, "writev": unix.SYS_WRITEV, "sendto": unix.SYS_SENDTO,
		"fsync": unix.SYS_FSYNC, "fdatasync": unix.SYS_FDATASYNC, "syncfs": unix.SYS_SYNCFS, "renameat": unix.SYS_RENAMEAT,
		"renameat2": unix.SYS_RENAMEAT2, "openat": unix.SYS_OPENAT, "mkdirat": unix.SYS_MKDIRAT,
		"unlinkat": unix.SYS_UNLINKAT, "linkat": unix.SYS_LINKAT, "fallocate": unix.SYS_FALLOCATE,
		"ftruncate": unix.SYS_FTRUNCATE, "flock": unix.SYS_FLOCK, "fchmodat": unix.SYS_FCHMODAT, "mmap": unix.SYS_MMAP,
	}
}

// tracer runs a program and harms the at-th call of one kind, counted over all its threads in the order in which
// the calls are made. With at 0 it harms none and counts.
type tracer struct {
	call uint64
	at   int
	harm harm
	saw  func(tid int, begins bool, regs *[regWords]uint64) // every call, if there is one who looks

	count  map[uint64]int
	struck bool
	inCall map[int]bool // threads whose call is under way
	hurt   int          // the thread whose call is to answer EIO
	pid    int
}

// killed is the code of a program that a signal ended.
const killed = -1

// run starts a program, and returns its exit code when it has ended. started is told the process.
func (x *tracer) run(argv []string, stdout, stderr *os.File, started func(pid int)) (code int, err error) {
	if runtime.GOARCH != "amd64" {
		return 0, fmt.Errorf("this test does not know the registers of %s", runtime.GOARCH)
	}
	// A tracer is one thread: it is the parent of the process and the only one that may ask for its stops.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	x.count, x.inCall = map[uint64]int{}, map[int]bool{}
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Files: []*os.File{nil, stdout, stderr}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return 0, err
	}
	x.pid = p.Pid
	defer func() { _ = p.Release() }()
	var status unix.WaitStatus
	if _, err := unix.Wait4(x.pid, &status, unix.WALL, nil); err != nil {
		return 0, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(x.pid, options); err != nil {
		return 0, err
	}
	if err := unix.PtraceSyscall(x.pid, 0); err != nil {
		return 0, err
	}
	started(x.pid)
	return x.follow()
}

// follow handles stops until the process is gone.
func (x *tracer) follow() (code int, err error) {
	for {
		var status unix.WaitStatus
		// By its process group: the thread may have other children, which others wait for.
		tid, err := unix.Wait4(-x.pid, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if tid == x.pid && (status.Exited() || status.Signaled()) {
			if status.Signaled() {
				return killed, nil
			}
			return status.ExitStatus(), nil
		}
		if !status.Stopped() {
			continue // a thread ended
		}
		signal := 0
		switch sig := status.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			if err := x.stopped(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return 0, err
			}
		case sig == unix.SIGTRAP, sig == unix.SIGSTOP: // a new thread
		default:
			signal = int(sig)
		}
		if err := unix.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, err
		}
	}
}

// Places in the registers of amd64, in words.
const (
	regFifth  = 9  // r8
	regAnswer = 10 // rax
	regSecond = 13 // rsi
	regFirst  = 14 // rdi
	regCall   = 15 // orig_rax
	regWords  = 27
)

// stopped is called when a thread begins a call, and when it ends one.
func (x *tracer) stopped(tid int) error {
	begins := !x.inCall[tid]
	x.inCall[tid] = begins
	if x.saw != nil {
		var words [regWords]uint64
		if err := regs(unix.PTRACE_GETREGSET, tid, &words); err != nil {
			return err
		}
		x.saw(tid, begins, &words)
	}
	if !begins {
		if tid == x.hurt {
			x.hurt = 0
			return setReg(tid, regAnswer, -int64(unix.EIO))
		}
		return nil
	}
	call, err := getReg(tid, regCall)
	if err != nil {
		return err
	}
	x.count[call]++
	if x.at == 0 || call != x.call || x.count[call] != x.at {
		return nil
	}
	x.struck = true
	switch x.harm {
	case kill:
		return unix.Kill(x.pid, unix.SIGKILL)
	case fail:
		x.hurt = tid
		return setReg(tid, regCall, -1)
	}
	x.hurt = tid
	return nil
}

func regs(request, tid int, words *[regWords]uint64) error {
	const generalRegisters = 1 // NT_PRSTATUS
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(words)), Len: uint64(binary.Size(words))}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), generalRegisters, uintptr(unsafe.Pointer(&v)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getReg(tid, n int) (uint64, error) {
	var words [regWords]uint64
	err := regs(unix.PTRACE_GETREGSET, tid, &words)
	return words[n], err
}

func setReg(tid, n int, value int64) error {
	var words [regWords]uint64
	if err := regs(unix.PTRACE_GETREGSET, tid, &words); err != nil {
		return err
	}
	words[n] = uint64(value)
	return regs(unix.PTRACE_SETREGSET, tid, &words)
}
