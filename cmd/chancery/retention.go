package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/retention"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
)

func retentionCommand(u *ui) *cobra.Command {
	return noun("retention", "See what a register's rules keep, and propose what they let go", "  chancery retention show land --home HOME",
		retentionShow(u), retentionPropose(u), retentionCheck(u), retentionRewrite(u))
}

// keptJSON is one snapshot under the rules.
type keptJSON struct {
	Snapshot  string     `json:"snapshot"`
	Witnessed *time.Time `json:"witnessed,omitempty"`
	Keep      bool       `json:"keep"`
	Why       []string   `json:"why,omitempty"`
	Released  string     `json:"released_by,omitempty"`
}

// retentionJSON is what rules keep of a register, and what letting the rest go would remove.
type retentionJSON struct {
	Register  string           `json:"register"`
	Rules     retention.Rules  `json:"-"`
	Snapshots []keptJSON       `json:"snapshots"`
	Release   *archive.Release `json:"release,omitempty"`
	Folder    string           `json:"folder,omitempty"`
}

func retentionShow(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "show REGISTER", Short: "Show which snapshots the rules keep, and what the rest would free", Args: cobra.ExactArgs(1),
		Long: "Shows what the rules in register.yaml keep, by the ledgers' order and witnessed time, and what would be removed if the\n" +
			"other snapshots were released. Nothing is changed. It takes no key that opens.",
		Example: "  chancery retention show land --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		a, err := conn.retention(c.Context(), args[0], archive.PlanRelease)
		if err != nil {
			return err
		}
		return u.answer(a, a.print)
	}
	return c
}

func retentionPropose(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "propose REGISTER", Short: "Write the lists of what would be removed, for an order to release it", Args: cobra.ExactArgs(1),
		Long: "Writes, for each embassy, the list of the objects that nothing needs any more once the snapshots that the rules let go\n" +
			"are released, and which snapshots these are. Only an order that names these lists, signed by the quorum, removes\n" +
			"anything. From now on no backup comes to need these objects, whether or not an order follows.",
		Example: "  chancery retention propose land --out RELEASE --home HOME",
	}
	dir := homeFlag(c)
	out := outFlag(c, "the folder to write")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		if _, err := os.Lstat(*out); err == nil {
			return fmt.Errorf("%s: %w", *out, os.ErrExist)
		}
		a, err := conn.retention(c.Context(), args[0], archive.ProposeRelease)
		if err != nil {
			return err
		}
		if a.Release.Packs > 0 || len(a.Release.Snapshots) > 0 {
			if err := writeRelease(*out, a.Release); err != nil {
				return err
			}
			a.Folder = *out
		}
		return u.answer(a, a.print)
	}
	return c
}

type planner func(context.Context, *register.Register, *register.Agent, []uint64) (*archive.Release, error)

// retention applies a register's rules.
func (c *connection) retention(ctx context.Context, name string, plan planner) (*retentionJSON, error) {
	r, reg, err := c.register(name)
	if err != nil {
		return nil, err
	}
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	var list []retention.Snapshot
	if err := archive.Snapshots(ctx, reg, c.agent(), func(h *snapshot.Head) error {
		list = append(list, retention.Snapshot{Sequence: h.Sequence})
		return nil
	}); err != nil {
		return nil, err
	}
	released, err := archive.Released(ctx, reg)
	if err != nil {
		return nil, err
	}
	times, err := c.noteWitnessed(ctx, r, uint64(len(list)))
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Witnessed = times[list[i].Sequence]
	}
	a := &retentionJSON{Register: name, Rules: r.Definition.Retention, Snapshots: []keptJSON{}}
	var gone []uint64
	standing := slices.DeleteFunc(slices.Clone(list), func(s retention.Snapshot) bool { return released[s.Sequence] != "" })
	decisions := retention.Decide(a.Rules, standing)
	for _, s := range list {
		k := keptJSON{Snapshot: archive.SnapshotName(s.Sequence), Released: released[s.Sequence]}
		if !s.Witnessed.IsZero() {
			k.Witnessed = &s.Witnessed
		}
		if i := slices.IndexFunc(decisions, func(d retention.Decision) bool { return d.Sequence == s.Sequence }); i >= 0 {
			if k.Keep, k.Why = decisions[i].Keep, decisions[i].Why; !k.Keep {
				gone = append(gone, s.Sequence)
			}
		}
		a.Snapshots = append(a.Snapshots, k)
	}
	if len(standing) > 0 {
		first := gone[:min(len(gone), order.MaxSnapshots)]
		if a.Release, err = plan(ctx, reg, c.agent(), first); err == nil {
			a.Release.More = a.Release.More || len(first) < len(gone)
		}
	}
	return a, err
}

func (a *retentionJSON) print(w io.Writer) {
	var rows [][]string
	for _, s := range a.Snapshots {
		at, what := "not yet", "release"
		if s.Witnessed != nil {
			at = s.Witnessed.Local().Format("2006-01-02 15:04:05")
		}
		switch {
		case s.Released != "":
			what = "released by " + s.Released
		case s.Keep:
			what = "keep: " + strings.Join(s.Why, ", ")
		}
		rows = append(rows, []string{s.Snapshot, at, what})
	}
	table(w, "SNAPSHOT WITNESSED RULES", rows)
	if a.Release == nil {
		return
	}
	if a.Release.Packs == 0 {
		fmt.Fprintln(w, "nothing would be removed")
		return
	}
	fmt.Fprintf(w, "released, these and what nothing needs are %s, %s at all embassies together\n",
		plural(a.Release.Objects, "object"), size(int64(a.Release.Bytes)))
	if a.Release.More {
		fmt.Fprintln(w, "that is not all of it, but as much as one order can list: when it is done at every embassy, propose again")
	}
	if a.Folder != "" {
		fmt.Fprintf(w, "release %s is in %s; an order that names its lists removes them\n", a.Release.ID, a.Folder)
	}
}

// writeRelease writes the lists into a new folder: one for each embassy, and what the release is.
func writeRelease(dir string, rel *archive.Release) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, l := range rel.Lists {
		data, err := l.List.Bytes()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, l.Embassy+".objects"), data, 0o644); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, seq := range rel.Snapshots {
		fmt.Fprintf(&b, "%d\n", seq)
	}
	return durable.WriteFile(filepath.Join(dir, "snapshots"), []byte(b.String()), 0o644)
}

// readRelease reads such a folder: the lists in the order of the register's embassies.
func readRelease(dir string, reg *register.Register) (snapshots []uint64, lists []ledger.ObjectList, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "snapshots"))
	if err != nil {
		return nil, nil, err
	}
	for _, line := range strings.Fields(string(text)) {
		var seq uint64
		if _, err := fmt.Sscanf(line, "%d", &seq); err != nil {
			return nil, nil, fmt.Errorf("%s: %q is no number of a snapshot", filepath.Join(dir, "snapshots"), line)
		}
		snapshots = append(snapshots, seq)
	}
	lists, err = readLists(reg, func(embassy string) string { return filepath.Join(dir, embassy+".objects") })
	return snapshots, lists, err
}

// readLists reads the lists of a register's embassies, in their order.
func readLists(reg *register.Register, path func(embassy string) string) (lists []ledger.ObjectList, err error) {
	for _, m := range reg.Members {
		data, err := readCapped(path(m.Name), maxList)
		if err != nil {
			return nil, err
		}
		list, err := ledger.ParseObjectList(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path(m.Name), err)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

// releaseCheckJSON is what a check of lists found.
type releaseCheckJSON struct {
	Register  string   `json:"register"`
	Snapshots []uint64 `json:"snapshots"`
	Objects   int      `json:"objects"`
	Contents  bool     `json:"contents_checked"`
	Sound     bool     `json:"sound"`
}

func retentionCheck(u *ui) *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "check REGISTER FOLDER", Short: "Check the lists of a release before anybody signs an order for it", Args: cobra.ExactArgs(2),
		Long: "Reads everything anew from the embassies and refuses lists with anything that a snapshot needs which stays, or that is\n" +
			"none of this register's. With a reader's --identity it also reads every folder of every such snapshot, and trusts\n" +
			"nothing that the agent wrote about what it needs. Exit 5 when the lists take too much.",
		Example: "  chancery retention check land RELEASE --identity READER.key --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file: also read the kept snapshots")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		_, reg, key, err := conn.registerFor(args[0], identity)
		if err != nil {
			return err
		}
		snapshots, lists, err := readRelease(args[1], reg)
		if err != nil {
			return err
		}
		a := releaseCheckJSON{Register: args[0], Snapshots: snapshots, Contents: key != nil, Sound: true}
		for _, l := range lists {
			a.Objects += len(l)
		}
		if err := checkRelease(c.Context(), reg, conn.agent(), key, snapshots, lists); err != nil {
			return err
		}
		return u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "%s: sound: no snapshot that stays needs any of the %s\n", args[0], plural(a.Objects, "object"))
		})
	}
	return c
}

// checkRelease checks lists in folders of its own, so that nothing that home keeps is believed.
func checkRelease(ctx context.Context, reg *register.Register, agent *register.Agent, key *seal.PrivateKey, snapshots []uint64, lists []ledger.ObjectList) error {
	dir, err := os.MkdirTemp("", "chancery-check-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	apart := *reg
	apart.Dir = filepath.Join(dir, "references")
	if err := archive.CheckRelease(ctx, &apart, agent, snapshots, lists); err != nil || key == nil {
		return err
	}
	apart.Dir = filepath.Join(dir, "contents")
	return archive.CheckContents(ctx, &apart, agent, key, snapshots, lists)
}

// rewriteJSON is what a rewriting did.
type rewriteJSON struct {
	Register string `json:"register"`
	*archive.RewriteReport
}

func retentionRewrite(u *ui) *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "rewrite REGISTER", Short: "Pack what is needed of half-empty packs anew", Args: cobra.ExactArgs(1),
		Long: "Reads what snapshots need of packs that are less than half full of it, and stores it in new packs, as a part of a\n" +
			"snapshot with the tree of the newest one. Nothing is removed: the next release finds that nothing needs the old packs.\n" +
			"It takes a reader's key, and goes on from where an interrupted run stopped.",
		Example: "  chancery retention rewrite land --identity READER.key --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file")
	required(c, "identity")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		_, reg, key, err := conn.registerFor(args[0], identity)
		if err != nil {
			return err
		}
		if key == nil {
			return usageError(c, errors.New("--identity: name a reader's private key file"))
		}
		if err := conn.watch(c.Context()); err != nil {
			return err
		}
		var p archive.Progress
		done := u.progress("rewriting of "+args[0], &p, 0)
		rep, err := archive.Rewrite(c.Context(), reg, conn.agent(), key, &p)
		done()
		if err != nil {
			return err
		}
		a := rewriteJSON{args[0], rep}
		if err := u.answer(a, a.print); err != nil {
			return err
		}
		var partial error
		if len(rep.Problems) > 0 || len(rep.Down) > 0 || rep.Local != "" {
			partial = &failure{err: errPartial, code: exitPartial, hint: "chancery verify " + args[0] + " --home HOME"}
		}
		err = conn.vouch(c.Context())
		u.tell(conn.note(c.Context(), args[0]), nil)
		return errors.Join(partial, err)
	}
	return c
}

func (a rewriteJSON) print(w io.Writer) {
	if a.Rewritten == 0 {
		fmt.Fprintf(w, "%s: no pack is worth rewriting, of %d\n", a.Register, a.Looked)
		return
	}
	fmt.Fprintf(w, "%s: snapshot %s: %s packed anew into %d, %s into %s; a release lets go of the old ones\n", a.Register, a.Snapshot,
		plural(a.Rewritten, "pack"), a.Into, size(int64(a.Before)), size(int64(a.After)))
	if a.More {
		fmt.Fprintln(w, "there is more: run it again")
	}
}
