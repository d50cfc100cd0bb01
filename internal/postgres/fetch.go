package postgres

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/wal"
)

// Exit codes of wal-fetch. A server takes 1 to 125 for the end of the archive and opens with what it has, so 1 is for a
// proven end alone; above 125 it stops. 143 would be taken for a shutdown that was asked for. Numbers are never reused.
const (
	FetchDone       = 0
	FetchEnd        = 1   // the signed index proves that the file is not there
	FetchUnserved   = 126 // nobody answers at the socket, or not in time
	FetchHole       = 150 // a hole in the log
	FetchDamaged    = 151 // damaged or forged
	FetchUnproven   = 152 // whether there is such a file cannot be proven
	FetchUnanswered = 153 // too few embassies answer
	FetchRefused    = 154 // a name that no server asks for, a key refused, or anything else
)

// fetchCode is the exit code for a file that could not be given.
func fetchCode(err error) int {
	for _, c := range []struct {
		err  error
		code int
	}{
		{ErrHole, FetchHole},
		{register.ErrDamaged, FetchDamaged},
		{register.ErrForked, FetchDamaged},
		{ErrUnproven, FetchUnproven},
		{register.ErrTooFew, FetchUnanswered},
		{wal.ErrFormat, FetchRefused},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return FetchRefused
}

// fetchTimeout is how long a file may take: the embassies' own deadlines end sooner.
const fetchTimeout = 15 * time.Minute

// Fetch brings a file of the log to a server: what its restore_command calls. from is the recovery folder; to is where
// the server wants the file. It returns an exit code and what to say.
func Fetch(from, name, to string) (int, error) {
	answer, err := ask(from, "get "+name)
	if err != nil {
		return FetchUnserved, err
	}
	verb, rest, _ := strings.Cut(answer, " ")
	switch verb {
	case "ok":
		if err := take(filepath.Join(from, name), to); err != nil {
			return FetchUnserved, err
		}
		return FetchDone, nil
	case "end":
		return FetchEnd, endError(rest)
	case "no":
		code, text, _ := strings.Cut(rest, " ")
		if n, err := strconv.Atoi(code); err == nil && n > 125 && n < 256 && n != 143 {
			return n, errors.New(text)
		}
		return FetchRefused, errors.New(text)
	}
	return FetchUnserved, fmt.Errorf("an answer that makes no sense: %.80q", answer)
}

// End says that recovery has ended: what its recovery_end_command calls.
func End(from string) error {
	_, err := ask(from, "end")
	return err
}

// ask sends one request and returns the line that comes back.
func ask(from, request string) (string, error) {
	if strings.ContainsAny(request, "\n\x00") || strings.Contains(request, "/") {
		return "", fmt.Errorf("%q is no file of the log", request)
	}
	d, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer d.Close()
	conn, err := net.DialTimeout("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), 10*time.Second)
	if err != nil {
		return "", fmt.Errorf("%s: nobody hands out the log: %w", from, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(fetchTimeout))
	if _, err := io.WriteString(conn, request+"\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, requestLimit)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: the answer broke off: %w", from, err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// take moves a file to where the server wants it; it may be on another file system.
func take(from, to string) error {
	err := os.Rename(from, to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Remove(from)
}

// endError is a proven end in the words in which it came.
type endError string

func (e endError) Error() string { return string(e) }

// Is reports that it is ErrEnd.
func (e endError) Is(err error) bool { return err == ErrEnd }
