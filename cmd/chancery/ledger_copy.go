package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

// ledgerCopyJSON is the answer of ledger copy.
type ledgerCopyJSON struct {
	To       string      `json:"to"`
	Files    int64       `json:"files"`
	Fetched  int64       `json:"files_fetched"`
	Bytes    int64       `json:"bytes_fetched"`
	Verified *ledgerJSON `json:"verified"`
}

func ledgerCopy(u *ui) *cobra.Command {
	var f ledgerFlags
	var to string
	c := &cobra.Command{
		Use: "copy", Short: "Copy an embassy's ledger, so that anybody can verify it offline", Args: cobra.NoArgs,
		Long: "Fetches every tile and entry of a ledger, its checkpoint and its newest cosigned checkpoint into a folder, and\n" +
			"verifies the copy. Whoever has the folder and the state's charter can verify it again, with no key and no network.\n" +
			"Run it again after an interruption, or when the ledger has grown: what is there is not fetched twice.",
		Example: "  chancery ledger copy --embassy lu --to COPY --home HOME",
	}
	f.declare(c, "the embassy whose ledger it is")
	c.Flags().StringVar(&to, "to", "", "the folder; it may be a copy of before")
	required(c, "embassy", "to")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		k := &copying{ledgers: l, dir: to}
		done := u.shown(func(took time.Duration) string {
			return fmt.Sprintf("ledger copy: %d of %d files, %s fetched, %.0f s", k.done.Load(), k.files.Load(), size(k.bytes.Load()), took.Seconds())
		})
		err = k.run(c.Context())
		done()
		if err != nil {
			return err
		}
		l.from = to
		found, err := l.verifyOne(c.Context(), l.list[0], nil, nil)
		if err != nil {
			return err
		}
		if c.Context().Err() != nil {
			return c.Context().Err()
		}
		a := ledgerCopyJSON{To: to, Files: k.files.Load(), Fetched: k.fetched.Load(), Bytes: k.bytes.Load(), Verified: found}
		if !u.json {
			fmt.Fprintf(u.out, "%s in %s, %d fetched (%s).\n", plural(a.Files, "file"), to, a.Fetched, size(a.Bytes))
		}
		return u.ledgerAnswer(a, []*ledgerJSON{found})
	}
	return c
}

// copying is one copy under way.
type copying struct {
	ledgers *ledgers
	dir     string

	files, done, fetched, bytes atomic.Int64
}

// copiesAtOnce is how many files are fetched at once: as many as a client has connections.
const copiesAtOnce = 4

// run fetches what is not there. A crash leaves whole files and the checkpoint of before, which they still are of; the
// new checkpoint comes last.
func (k *copying) run(ctx context.Context) error {
	e := k.ledgers.list[0]
	client := k.ledgers.clients[e.Name]
	v, err := ledger.NewVerifier(e.Origin, e.PublicKey())
	if err != nil {
		return err
	}
	var before ledger.Checkpoint
	if text, err := head(filepath.Join(k.dir, "checkpoint")); err == nil {
		if before, err = ledger.ParseCheckpoint([]byte(text), v); err != nil {
			return &failure{err: fmt.Errorf("%s: not a copy of the ledger of %s: %w", k.dir, e.Name, err), hint: "name another folder: --to NEW-FOLDER"}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	live := liveLedger{ctx, client}
	cosigned := live.cosigned()
	cp, err := client.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if before.Raw != nil {
		if _, err := client.Consistency(ctx, before, cp); err != nil {
			return fmt.Errorf("the copy of before, of %s: %w", plural(before.Size, "entry"), err)
		}
	}
	if err := k.fetchAll(ctx, live, cp.Size); err != nil {
		return err
	}
	if cosigned != nil {
		if err := durable.WriteFile(filepath.Join(k.dir, "cosigned"), cosigned, 0o644); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(k.dir, "checkpoint"), cp.Raw, 0o644)
}

func (k *copying) fetchAll(ctx context.Context, live liveLedger, size uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := durable.MkdirAll(k.dir, 0o755); err != nil {
		return err
	}
	live.ctx = ctx
	for range auditor.Files(size) {
		k.files.Add(1)
	}
	paths := make(chan string)
	var all sync.WaitGroup
	for range copiesAtOnce {
		all.Go(func() {
			for path := range paths {
				if err := k.fetch(live, path); err != nil {
					cancel(err)
				}
				k.done.Add(1)
			}
		})
	}
	for path := range auditor.Files(size) {
		if ctx.Err() != nil {
			break
		}
		paths <- path
	}
	close(paths)
	all.Wait()
	return context.Cause(ctx)
}

// fetch takes one file, unless it is there.
func (k *copying) fetch(live liveLedger, path string) error {
	whole := auditor.Whole(path)
	for _, name := range []string{path, whole} {
		if name == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(k.dir, filepath.FromSlash(name))); err == nil {
			return nil
		}
	}
	data, err := live.Tile(path)
	if err != nil {
		return err
	}
	if whole != "" && wholeTile(path, data) {
		path = whole // the embassy has no partial one any more
	}
	name := filepath.Join(k.dir, filepath.FromSlash(path))
	if err := durable.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(name, data, 0o644); err != nil {
		return err
	}
	k.fetched.Add(1)
	k.bytes.Add(int64(len(data)))
	return nil
}

// wholeTile tells whether the bytes are of a whole tile or bundle.
func wholeTile(path string, data []byte) bool {
	const wide = 256
	if strings.HasPrefix(path, "tile/entries/") {
		list, err := ledger.SplitBundle(data)
		return err == nil && len(list) == wide
	}
	return len(data) == wide*32
}
