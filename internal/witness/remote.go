package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// ErrNoSeen: the witness tells nobody what it saw, as those that speak C2SP tlog-witness alone. Ask it by SizeOf.
var ErrNoSeen = errors.New("the witness does not tell which tree it saw")

// remoteTime is how long one question to a witness may take; the context may end it sooner.
const remoteTime = 30 * time.Second

// Remote is a witness elsewhere. It may be used by several goroutines.
type Remote struct {
	Prefix string       // its submission prefix, http:// or https://, without a slash at the end
	HTTP   *http.Client // redirects are not followed; see [NewClient] for pinned keys
	Key    []ledger.WitnessKey
}

// authentic tells whether the connection proves who answers.
func (r *Remote) authentic() bool { return strings.HasPrefix(r.Prefix, "https://") }

// Add submits a checkpoint. It returns the cosignature lines of the Remote's keys, each verified, or what Witness.Add
// fails with there. Only the log's own signature is sent along with the checkpoint's text.
func (r *Remote) Add(ctx context.Context, req *ledger.AddCheckpoint) (lines []byte, err error) {
	cp, err := unverified(req.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("witness: add: %w: %w", ErrInvalid, err)
	}
	own := ledger.AddCheckpoint{Old: req.Old, Proof: req.Proof, Checkpoint: ledger.OwnSignatures(cp.Raw)}
	status, header, body, err := r.ask(ctx, http.MethodPost, "/add-checkpoint", own.Bytes())
	if err != nil {
		return nil, err
	}
	if status == http.StatusOK {
		return r.verified(cp, own.Checkpoint, body)
	}
	if status == http.StatusConflict && header.Get("Content-Type") == sizeType {
		text, ok := strings.CutSuffix(string(body), "\n")
		size, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil || strconv.FormatUint(size, 10) != text {
			return nil, fmt.Errorf("witness: %s: a size that is none", r.Prefix)
		}
		return nil, fmt.Errorf("witness: %s: %w", r.Prefix, &OldSize{size})
	}
	for _, s := range statuses() {
		if s.status == status {
			return nil, fmt.Errorf("witness: %s: %w", r.Prefix, s.err)
		}
	}
	return nil, fmt.Errorf("witness: %s: status %d", r.Prefix, status)
}

// verified keeps the lines that are cosignatures of cp by the Remote's keys.
func (r *Remote) verified(cp ledger.Checkpoint, note, answer []byte) ([]byte, error) {
	both, err := ledger.AddSignatures(note, answer)
	if err != nil {
		return nil, fmt.Errorf("witness: %s: %w: %w", r.Prefix, ErrSignature, err)
	}
	_, lines, err := ledger.SplitSignatures(both)
	if err != nil {
		return nil, fmt.Errorf("witness: %s: %w: %w", r.Prefix, ErrSignature, err)
	}
	var out []byte
	for _, line := range lines {
		one, err := ledger.AddSignatures(note, line)
		if err != nil {
			return nil, fmt.Errorf("witness: %s: %w: %w", r.Prefix, ErrSignature, err)
		}
		cp.Raw = one
		found, err := ledger.Cosignatures(cp, r.Key)
		if err != nil {
			return nil, fmt.Errorf("witness: %s: %w: %w", r.Prefix, ErrSignature, err)
		}
		if len(found) == 1 {
			out = append(out, line...)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("witness: %s: answered without a cosignature of its key: %w", r.Prefix, ErrSignature)
	}
	return out, nil
}

// Seen asks for the newest checkpoint that the witness holds of a log; nil when it has seen none. The note has the form
// of a checkpoint of that log and is otherwise unverified. ErrNoSeen: it does not tell.
func (r *Remote) Seen(ctx context.Context, origin string) ([]byte, error) {
	status, header, body, err := r.ask(ctx, http.MethodGet, "/seen/"+ID(origin), nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound && header.Get(seenHeader) == seenNothing:
		return nil, nil
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("witness: %s: %w", r.Prefix, ErrNoSeen)
	case status != http.StatusOK:
		return nil, fmt.Errorf("witness: %s: status %d", r.Prefix, status)
	}
	cp, err := unverified(body)
	if err != nil || cp.Origin != origin {
		return nil, fmt.Errorf("witness: %s: not a checkpoint of this log", r.Prefix)
	}
	return body, nil
}

// SizeOf asks any C2SP witness how many leaves of a log it cosigned last, by submitting the given checkpoint of that
// log from size 0. A witness that has cosigned nothing of it yet cosigns this one, and its size is the answer.
func (r *Remote) SizeOf(ctx context.Context, checkpoint []byte) (uint64, error) {
	cp, err := unverified(checkpoint)
	if err != nil {
		return 0, fmt.Errorf("witness: size: %w: %w", ErrInvalid, err)
	}
	_, err = r.Add(ctx, &ledger.AddCheckpoint{Checkpoint: checkpoint})
	var old *OldSize
	switch {
	case errors.As(err, &old):
		return old.Size, nil
	case err != nil:
		return 0, err
	}
	return cp.Size, nil
}

// Submit has the witness cosign a checkpoint, from whatever size it cosigned last: prove returns the consistency proof
// from the tree of old leaves, and guess is where to begin. What it returns is as of Add.
func (r *Remote) Submit(ctx context.Context, checkpoint []byte, guess uint64, prove func(ctx context.Context, old uint64) ([][32]byte, error)) ([]byte, error) {
	cp, err := unverified(checkpoint)
	if err != nil {
		return nil, fmt.Errorf("witness: submit: %w: %w", ErrInvalid, err)
	}
	old := min(guess, cp.Size)
	for try := 0; ; try++ {
		req := ledger.AddCheckpoint{Old: old, Checkpoint: checkpoint}
		if old > 0 && old < cp.Size {
			if req.Proof, err = prove(ctx, old); err != nil {
				return nil, fmt.Errorf("witness: submit: proof from %d: %w", old, err)
			}
		}
		lines, err := r.Add(ctx, &req)
		var is *OldSize
		// Somebody else may bring checkpoints of the same log at the same time; twice is luck, more is malice.
		if !errors.As(err, &is) || is.Size > cp.Size || is.Size == old || try == 2 {
			return lines, err
		}
		old = is.Size
	}
}

// ask sends one request and reads the whole answer, at most maxNote bytes.
func (r *Remote) ask(ctx context.Context, method, path string, body []byte) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.Prefix+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("witness: %s: %w", r.Prefix, err)
	}
	client := http.Client{}
	if r.HTTP != nil {
		client = *r.HTTP
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("witness: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxNote+1))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("witness: %s: %w", r.Prefix, err)
	}
	if len(answer) > maxNote {
		return 0, nil, nil, fmt.Errorf("witness: %s: an answer of more than %d bytes", r.Prefix, maxNote)
	}
	return resp.StatusCode, resp.Header, answer, nil
}
