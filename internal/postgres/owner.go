package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Owner is a user and group of this machine, by number.
type Owner struct{ UID, GID int }

// canRun asks the system whether the owner may execute a program: every folder on the way to it and its file system have
// a say. Only root can ask for another; for nobody, and asked by others, the answer is yes. It is asked before anything is
// written, since a server learns it only when it starts, and then says no more than "Permission denied".
func (o *Owner) canRun(ctx context.Context, program string) error {
	if o == nil || os.Geteuid() != 0 {
		return nil
	}
	c := exec.CommandContext(ctx, "/bin/sh", "-c", `test -x "$1"`, "sh", program)
	c.Dir, c.Env = "/", []string{}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}}
	err := c.Run()
	var no *exec.ExitError
	if errors.As(err, &no) && no.ExitCode() == 1 {
		return fmt.Errorf("%w: user %d, who runs it, cannot execute %s", ErrProgram, o.UID, program)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
