package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
	"chancery.dev/chancery/internal/witness"
)

// ledgerFlags say whose ledgers, and how they are reached.
type ledgerFlags struct {
	embassy, from, charter, identity string
	home                             *string
}

func (f *ledgerFlags) declare(c *cobra.Command, embassy string) {
	c.Flags().StringVar(&f.embassy, "embassy", "", embassy)
	c.Flags().StringVar(&f.charter, "charter", "", "the state's charter, instead of a home folder")
	c.Flags().StringVar(&f.identity, "identity", "", "with --charter: an auditor's private key file")
	f.home = homeFlag(c)
}

// ledgers are those that a command looks at.
type ledgers struct {
	charter  *charter.Charter
	charters []*charter.Charter // of this state, as far as at hand
	policy   *ledger.Policy     // nil where the charter asks for no witness
	list     []charter.Embassy
	from     string // folder; empty: the embassies themselves

	conn    *connection // home; nil with --charter
	key     ed25519.PrivateKey
	clients map[string]*embassy.Client
}

func (f *ledgerFlags) open(u *ui) (*ledgers, error) {
	l := &ledgers{from: f.from, clients: map[string]*embassy.Client{}}
	err := l.know(f, u)
	if err == nil {
		err = l.choose(f.embassy)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	for _, e := range l.charter.Embassies {
		if l.key != nil {
			l.clients[e.Name] = dial(e, l.charter.State.ID, l.key)
		}
	}
	return l, nil
}

// know finds the charter and the key.
func (l *ledgers) know(f *ledgerFlags, u *ui) (err error) {
	if f.charter != "" {
		if l.charter, err = readCharter(f.charter, u); err != nil {
			return err
		}
		l.charters = []*charter.Charter{l.charter}
		switch {
		case f.identity != "":
			if l.key, err = readIdentity(f.identity); err != nil {
				return err
			}
		case f.from == "":
			return &failure{err: errors.New("embassies answer only to a key that the charter names"), code: exitUsage, hint: "add an auditor's private key, --identity KEY, or read a copy: --from FOLDER"}
		}
	} else {
		if l.conn, err = connect(*f.home, false); err != nil {
			return err
		}
		l.charter = l.conn.home.Charter
		if f.from == "" {
			l.key = l.conn.key
		}
		all, err := l.conn.home.Charters()
		if err != nil {
			return err
		}
		for _, s := range all {
			c, err := charter.Parse(s.Doc)
			if err != nil {
				return err
			}
			l.charters = append(l.charters, c)
		}
	}
	if len(l.charter.WitnessingInForce().Groups) > 0 {
		l.policy, err = l.charter.Policy()
	}
	return err
}

// readCharter reads a charter that the caller trusts; where its signature lies beside it, that is checked too.
func readCharter(path string, u *ui) (*charter.Charter, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := charter.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sig, err := os.ReadFile(path + ".sig")
	if errors.Is(err, fs.ErrNotExist) {
		u.note("%s.sig is not there: the charter is taken as it is.", path)
		return c, nil
	}
	if err == nil {
		err = c.Verify(sig)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// readIdentity reads an Ed25519 private key, in PKCS 8 or as OpenSSH writes it.
func readIdentity(path string) (ed25519.PrivateKey, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if key, _, err := peer.ParseKey(file); err == nil {
		return key, nil
	}
	key, err := charter.ParseSSHKey(file)
	if err != nil {
		return nil, &failure{err: fmt.Errorf("%s: not an Ed25519 private key", path), code: exitUsage, hint: "make one with ssh-keygen -t ed25519, without a passphrase; the charter names its public half"}
	}
	return key, nil
}

// choose picks the ledgers: the one named, or all; in a folder, those that are there.
func (l *ledgers) choose(name string) error {
	all := l.charter.Embassies
	if name != "" {
		e, err := accredited(l.charter, name)
		if err != nil {
			return err
		}
		all = []charter.Embassy{e}
	}
	if l.from != "" {
		var err error
		if all, err = l.inFolder(all, name != ""); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return &failure{err: errors.New("no ledger is there to look at"), code: exitNotFound, hint: "chancery embassy list --home HOME"}
	}
	l.list = all
	return nil
}

// inFolder finds the embassies whose ledgers lie in --from: in a folder of each one's name, or in --from itself, where
// the first line of the checkpoint tells whose it is.
func (l *ledgers) inFolder(all []charter.Embassy, named bool) ([]charter.Embassy, error) {
	if info, err := os.Stat(l.from); err != nil || !info.IsDir() {
		if err == nil {
			err = fmt.Errorf("%s is no folder", l.from)
		}
		return nil, &failure{err: err, code: exitNotFound, hint: "chancery ledger copy --embassy NAME --to FOLDER --home HOME"}
	}
	raw, err := head(filepath.Join(l.from, "checkpoint"))
	if err == nil {
		if named {
			return all, nil // whatever it says of itself
		}
		origin, _, _ := strings.Cut(raw, "\n")
		for _, e := range all {
			if e.Origin == origin {
				return []charter.Embassy{e}, nil
			}
		}
		return nil, &failure{err: fmt.Errorf("%s is of no embassy of this charter", filepath.Join(l.from, "checkpoint")), code: exitDamaged, hint: "name the embassy that it should be of: --embassy NAME"}
	}
	var found []charter.Embassy
	for _, e := range all {
		if _, err := os.Stat(filepath.Join(l.from, e.Name)); err == nil {
			found = append(found, e)
		}
	}
	if len(found) == 0 && named {
		return all, nil // a copy without a checkpoint is told as such
	}
	return found, nil
}

// head is the beginning of a regular file.
func head(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNote))
	return string(text), err
}

// maxNote caps a checkpoint with its signatures.
const maxNote = 64 << 10

func (l *ledgers) close() {
	for _, c := range l.clients {
		c.Close()
	}
	if l.conn != nil {
		l.conn.close()
	}
}

// openLedger is where one ledger is read, and its newest cosigned checkpoint.
type openLedger struct {
	auditor.Source
	cosigned func() []byte // nil where there is none
	close    func()
}

func (l *ledgers) source(ctx context.Context, e charter.Embassy) (openLedger, error) {
	if l.from == "" {
		live := liveLedger{ctx, l.clients[e.Name]}
		return openLedger{live, live.cosigned, func() {}}, nil
	}
	dir := l.from
	if _, err := os.Stat(filepath.Join(dir, "checkpoint")); err != nil {
		if _, err := os.Stat(filepath.Join(dir, e.Name)); err == nil {
			dir = filepath.Join(dir, e.Name)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return openLedger{}, err
	}
	cosigned := func() []byte {
		// An embassy keeps it beside its ledger's folder.
		path := filepath.Join(dir, "cosigned")
		if whole, err := filepath.Abs(dir); err == nil && filepath.Base(whole) == "ledger" {
			path = filepath.Join(filepath.Dir(whole), "cosigned")
		}
		text, err := head(path)
		if err != nil {
			return nil
		}
		return []byte(text)
	}
	return openLedger{auditor.Folder(root.FS()), cosigned, func() { root.Close() }}, nil
}

// liveLedger reads an embassy's ledger through its client.
type liveLedger struct {
	ctx    context.Context
	client *embassy.Client
}

// sourceError puts a client's error as the auditor tells them apart.
func sourceError(err error) error {
	switch {
	case errors.Is(err, embassy.ErrNotFound):
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case errors.Is(err, embassy.ErrForged):
		return fmt.Errorf("%w: %w", auditor.ErrUnusable, err)
	}
	return err
}

// Checkpoint returns the embassy's newest.
func (l liveLedger) Checkpoint() ([]byte, error) {
	cp, err := l.client.Checkpoint(l.ctx)
	return cp.Raw, sourceError(err)
}

// Tile returns a tile or bundle.
func (l liveLedger) Tile(path string) ([]byte, error) {
	data, err := l.client.Tile(l.ctx, path)
	return data, sourceError(err)
}

func (l liveLedger) cosigned() []byte {
	raw, err := l.client.Cosigned(l.ctx)
	if errors.Is(err, embassy.ErrForged) {
		return []byte("?") // no checkpoint of this ledger, and told as such
	}
	return raw
}

// seen gathers the checkpoints of an embassy's ledger that home and the other witnesses hold. Who did not tell is
// silent: each has its own deadline.
func (l *ledgers) seen(ctx context.Context, e charter.Embassy) (known []auditor.Known, silent []string) {
	if l.conn != nil {
		if raw, err := l.conn.home.Ledger(e.Name); err == nil && raw != nil {
			known = append(known, auditor.Known{From: "home", Raw: raw})
		}
		own := filepath.Join(l.conn.home.Dir, "witness", "logs", witness.ID(e.Origin))
		if raw, err := head(own); err == nil {
			known = append(known, auditor.Known{From: "home's witness", Raw: []byte(raw)})
		}
	}
	if l.from != "" {
		return known, nil
	}
	ask := map[string]func(context.Context) ([]byte, error){}
	for _, other := range l.charter.Embassies {
		if other.ID != e.ID {
			ask[other.Name] = func(ctx context.Context) ([]byte, error) { return l.clients[other.Name].Seen(ctx, e.Origin) }
		}
	}
	for _, w := range l.charter.Witnesses {
		if w.URL != "" {
			ask[w.Name] = func(ctx context.Context) ([]byte, error) {
				client, err := witness.NewClient(w.PublicKey(), l.key)
				if err != nil {
					return nil, err
				}
				return (&witness.Remote{Prefix: w.URL, HTTP: client}).Seen(ctx, e.Origin)
			}
		}
	}
	patience := seenTime
	if end, ok := ctx.Deadline(); ok { // one that stalls leaves time for the ledger itself
		patience = min(patience, time.Until(end)/4)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, f := range ask {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			raw, err := f(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				silent = append(silent, name)
			case raw != nil:
				known = append(known, auditor.Known{From: name, Raw: raw})
			}
		})
	}
	all.Wait()
	slices.Sort(silent)
	slices.SortFunc(known, func(a, b auditor.Known) int { return strings.Compare(a.From, b.From) })
	return known, silent
}

// seenTime is how long a witness may take to tell what it saw.
const seenTime = 20 * time.Second
