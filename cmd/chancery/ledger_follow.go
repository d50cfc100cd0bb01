package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// actJSON is one entry of a ledger.
type actJSON struct {
	Embassy  string    `json:"embassy"`
	Index    uint64    `json:"entry"`
	Act      string    `json:"act"`
	Time     time.Time `json:"time"`
	Name     string    `json:"name,omitempty"`
	Size     uint64    `json:"size,omitempty"`
	Register string    `json:"register,omitempty"`
	Sequence uint64    `json:"sequence,omitempty"`
	Actor    string    `json:"actor,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	Says     string    `json:"says,omitempty"`
}

// act puts an entry into words; leaf is nil for one of an unknown version.
func (l *ledgers) act(e charter.Embassy, index uint64, leaf *ledger.Leaf) actJSON {
	a := actJSON{Embassy: e.Name, Index: index, Act: auditor.ActName(leaf)}
	if leaf == nil {
		return a
	}
	a.Time, a.Name, a.Size = time.Unix(0, leaf.Time).UTC(), fmt.Sprintf("%x", leaf.Name), leaf.Size
	a.Sequence, a.Actor = leaf.Slot.Sequence, fmt.Sprintf("%x", leaf.Actor)
	if leaf.Slot.Register != [16]byte{} {
		a.Register = fmt.Sprintf("%x", leaf.Slot.Register)
	}
	if x, ok := l.charter.AgentByKey(leaf.Actor[:]); ok {
		a.Agent = x.Name
	}
	return a
}

func (a *actJSON) line() string {
	s := fmt.Sprintf("%s %d %s %s", a.Embassy, a.Index, a.Time.Local().Format("2006-01-02 15:04:05"), a.Act)
	if a.Name != "" {
		s += " " + a.Name[:16] + ", " + size(int64(a.Size))
	}
	if a.Register != "" {
		s += ", register " + a.Register
	}
	if a.Sequence > 0 {
		s += fmt.Sprintf(", number %d", a.Sequence)
	}
	switch {
	case a.Agent != "":
		s += ", by " + a.Agent
	case a.Actor != "":
		s += ", by " + a.Actor[:16]
	}
	if a.Says != "" {
		s += ": " + a.Says
	}
	return printable(s)
}

// followPace is how often a ledger is looked at.
const followPace = time.Second

func ledgerFollow(u *ui) *cobra.Command {
	var f ledgerFlags
	var since uint64
	c := &cobra.Command{
		Use: "follow", Short: "Print the acts at embassies as they happen", Args: cobra.NoArgs,
		Long: "Prints one line for each new entry of the ledgers, with --json one JSON document a line. Of an order, a veto and what\n" +
			"came of it the line says what the document says, where the embassy gives it. Each new checkpoint is\n" +
			"proven to continue the last one, and each entry to be in it, before it is printed. An embassy that does not answer\n" +
			"is waited for. It ends when it is interrupted, or when a ledger turns out damaged (exit 6) or is not the one that it\n" +
			"was (exit 7).",
		Example: "  chancery ledger follow --embassy lu --since 0 --home HOME",
	}
	f.declare(c, "the embassy to follow; default: all")
	c.Flags().Uint64Var(&since, "since", auditor.Now, "the first entry to print; default: the next one to come")
	c.Flags().Lookup("since").DefValue = ""
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		out := &follower{ui: u, ledgers: l, since: since}
		errs := make([]error, len(l.list))
		var all sync.WaitGroup
		for i, e := range l.list {
			all.Go(func() {
				errs[i] = out.follow(ctx, e)
				cancel() // one that lies ends it for all: somebody must look
			})
		}
		all.Wait()
		for _, err := range errs {
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
		return nil // interrupted, which is how following ends
	}
	return c
}

// follower prints the acts of several ledgers.
type follower struct {
	ui      *ui
	ledgers *ledgers
	since   uint64

	mu sync.Mutex // of what is printed
}

func (f *follower) follow(ctx context.Context, e charter.Embassy) error {
	trouble := false
	known, _ := f.ledgers.seen(ctx, e)
	err := auditor.Follow(ctx, liveLedger{ctx, f.ledgers.clients[e.Name]}, e.Log(), auditor.FollowOptions{
		Since: f.since, Known: known, Wait: pause,
		Act: func(index uint64, leaf *ledger.Leaf, _ []byte) error {
			a := f.ledgers.act(e, index, leaf)
			a.Says = f.ledgers.words(ctx, e, leaf)
			return f.say(a)
		},
		Checkpoint: func(ledger.Checkpoint) {
			if trouble {
				f.note("%s: answers again", e.Name)
			}
			trouble = false
		},
		Trouble: func(err error) {
			if !trouble {
				f.note("%s: waiting for it: %v", e.Name, err)
			}
			trouble = true
		},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	return nil
}

func (f *follower) say(a actJSON) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := []byte(a.line())
	if f.ui.json {
		var err error
		if line, err = json.Marshal(a); err != nil {
			return err
		}
	}
	_, err := f.ui.out.Write(append(line, '\n'))
	return err
}

func (f *follower) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ui.note("%s", printable(fmt.Sprintf(format, args...)))
}

// pause waits until a ledger is to be looked at again.
func pause(ctx context.Context) error {
	t := time.NewTimer(followPace)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// shownJSON is the answer of ledger show.
type shownJSON struct {
	Act        actJSON  `json:"act"`
	LeafHash   string   `json:"leaf_hash"`
	Leaf       string   `json:"leaf"`
	Proof      []string `json:"proof"`
	LedgerSize uint64   `json:"ledger_size"`
	Checkpoint string   `json:"checkpoint"`
}

func ledgerShow(u *ui) *cobra.Command {
	var f ledgerFlags
	c := &cobra.Command{
		Use: "show N", Short: "Show one entry of a ledger, with its proof checked", Args: cobra.ExactArgs(1),
		Long:    "Shows the entry N, counted from 0, of an embassy's ledger, after checking that it is in the ledger's newest signed\ncheckpoint. Exit 4 when there is no such entry, 6 when the proof does not hold.",
		Example: "  chancery ledger show 12 --embassy lu --home HOME",
	}
	f.declare(c, "the embassy whose ledger it is")
	required(c, "embassy")
	c.Flags().StringVar(&f.from, "from", "", "a folder of ledger files")
	c.RunE = func(c *cobra.Command, args []string) error {
		var n uint64
		if _, err := fmt.Sscanf(args[0]+"\n", "%d\n", &n); err != nil || fmt.Sprint(n) != args[0] {
			return usageError(c, fmt.Errorf("entry %q: not a number from 0 on", args[0]))
		}
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		e := l.list[0]
		ctx, cancel := context.WithTimeout(c.Context(), showTime)
		defer cancel()
		src, err := l.source(ctx, e)
		if err != nil {
			return err
		}
		defer src.close()
		x, err := auditor.Show(ctx, src, e.Log(), n)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		a := shownJSON{
			Act: l.act(e, n, &x.Leaf), LeafHash: fmt.Sprintf("%x", x.Hash), Leaf: fmt.Sprintf("%x", x.Receipt.Leaf),
			Proof: []string{}, LedgerSize: x.Size, Checkpoint: string(x.Receipt.Checkpoint),
		}
		a.Act.Says = l.words(ctx, e, &x.Leaf)
		for _, h := range x.Receipt.Proof {
			a.Proof = append(a.Proof, fmt.Sprintf("%x", h))
		}
		return u.answer(a, a.print)
	}
	return c
}

// showTime is how long ledger show may take.
const showTime = 2 * time.Minute

func (a *shownJSON) print(w io.Writer) {
	x := &a.Act
	rows := [][2]string{
		{"act", x.Act},
		{"time", x.Time.Local().Format("2006-01-02 15:04:05") + ", by the embassy's clock"},
		{"name", x.Name},
		{"size", fmt.Sprintf("%d bytes", x.Size)},
		{"register", x.Register},
		{"number", fmt.Sprint(x.Sequence)},
		{"by", x.Actor},
		{"agent", x.Agent},
		{"says", x.Says},
		{"leaf hash", a.LeafHash},
		{"proven", fmt.Sprintf("in the signed checkpoint of %s, by %s", plural(a.LedgerSize, "entry"), plural(len(a.Proof), "hash"))},
	}
	fmt.Fprintf(w, "%s, entry %d\n", x.Embassy, x.Index)
	for _, r := range rows {
		if r[1] != "" && !(r[0] == "number" && x.Sequence == 0) {
			fmt.Fprintf(w, "%-10s%s\n", r[0], printable(r[1]))
		}
	}
}
