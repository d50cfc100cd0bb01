package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

func receiptCommand(u *ui) *cobra.Command {
	return noun("receipt", "Keep a snapshot's receipts as one file, and check such a file", "  chancery receipt export land --out land.receipts --home HOME",
		receiptExport(u), receiptVerify(u))
}

// receiptExportJSON is the answer of receipt export.
type receiptExportJSON struct {
	File      string     `json:"file"`
	Register  string     `json:"register"`
	Snapshot  string     `json:"snapshot"`
	SHA256    string     `json:"sha256"`
	Bytes     int64      `json:"bytes"`
	Objects   int        `json:"objects"`
	Earlier   int        `json:"earlier_snapshots"` // that are in the file too
	Embassies []string   `json:"embassies"`
	Uncosign  []string   `json:"not_cosigned,omitempty"`
	Down      []downJSON `json:"embassies_down,omitempty"`
}

// downJSON is an embassy that could not be asked for something.
type downJSON struct {
	Embassy string `json:"embassy"`
	Why     string `json:"why"`
}

func receiptExport(u *ui) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "export REGISTER[@SNAPSHOT]", Short: "Write a snapshot's receipts into one file that lasts", Args: cobra.ExactArgs(1),
		Long: "Writes proofs that the snapshot's head, what the agent had each embassy store for it, and every object of that are\n" +
			"in the embassies' ledgers, under checkpoints that witnesses cosigned: a zip of C2SP tlog-proof files. Anyone who has\n" +
			"the charter checks it, offline and for ever. Exit 3 when an embassy is down or its checkpoint not cosigned.\n\n" +
			"What a snapshot shares with earlier ones was stored with those. With --all their receipts are in the file too, so\n" +
			"that it proves all that the snapshot needs.",
		Example: "  chancery receipt export land@3 --out land-3.receipts --home HOME\n" +
			"  chancery receipt export land@3 --all --out land-3-all.receipts --home HOME",
	}
	dir := homeFlag(c)
	out := outFlag(c, "the file to write")
	c.Flags().BoolVar(&all, "all", false, "with the receipts of all snapshots before it")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		a, bundle, err := conn.receipts(c.Context(), args[0], all)
		if err != nil {
			return err
		}
		if a.SHA256, a.Bytes, err = writeFile(*out, func(w io.Writer) error { return evidence.WriteBundle(w, bundle) }); err != nil {
			return err
		}
		a.File = *out
		err = u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "%s: snapshot %s of %s, %s at %s, %s\n", *out, a.Snapshot, a.Register, plural(a.Objects, "object"), strings.Join(a.Embassies, ", "), size(a.Bytes))
			if a.Earlier > 0 {
				fmt.Fprintf(w, "with %s before it\n", plural(a.Earlier, "snapshot"))
			}
			for _, d := range a.Down {
				fmt.Fprintf(w, "without %s: %s\n", d.Embassy, printable(d.Why))
			}
			for _, n := range a.Uncosign {
				fmt.Fprintf(w, "%s: not cosigned by enough witnesses yet\n", n)
			}
		})
		if err == nil && len(a.Down)+len(a.Uncosign) > 0 {
			err = &failure{err: errPartial, code: exitPartial}
		}
		return err
	}
	return c
}

// writeFile writes a new file, and removes it when that fails. A crash leaves a part of it, which no reader takes.
func writeFile(path string, write func(io.Writer) error) (sum string, n int64, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", 0, err
	}
	hash := sha256.New()
	b := bufio.NewWriterSize(f, 1<<20)
	if err = write(io.MultiWriter(b, hash)); err == nil {
		err = b.Flush()
	}
	if err == nil {
		n, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return "", 0, err
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), n, nil
}

// receipts collects the proofs of one snapshot, or with all of those before it too.
func (c *connection) receipts(ctx context.Context, name string, all bool) (*receiptExportJSON, *evidence.Bundle, error) {
	of, want := splitName(name)
	_, reg, err := c.register(of)
	if err != nil {
		return nil, nil, err
	}
	heads, err := headsUpTo(ctx, reg, c.agent(), want)
	if err != nil {
		return nil, nil, err
	}
	head := heads[len(heads)-1]
	a := &receiptExportJSON{Register: of, Snapshot: archive.SnapshotName(head.Sequence), Embassies: []string{}}
	bundle := &evidence.Bundle{}
	for _, h := range heads {
		if h != head && !all {
			continue
		}
		b, err := c.headReceipts(ctx, h, h != head, a)
		if err != nil {
			return nil, nil, err
		}
		if h != head {
			a.Earlier++
			bundle.Before = append(bundle.Before, *b)
			continue
		}
		bundle.Head, bundle.Sites = b.Head, b.Sites
	}
	if len(bundle.Sites) == 0 {
		return nil, nil, fmt.Errorf("%s: %w: %s", name, register.ErrTooFew, "no embassy gives receipts")
	}
	return a, bundle, nil
}

// headReceipts collects those of one head, and notes what is missing.
func (c *connection) headReceipts(ctx context.Context, head *snapshot.Head, earlier bool, a *receiptExportJSON) (*evidence.Bundle, error) {
	policy, _ := c.home.Charter.Policy() // without one nothing is cosigned, and that is said
	bundle := &evidence.Bundle{Head: head.Bytes()}
	for _, id := range head.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		site, err := c.siteReceipts(ctx, e, head.Register, head.Sequence, earlier)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if !slices.ContainsFunc(a.Down, func(d downJSON) bool { return d.Embassy == e.Name }) {
				a.Down = append(a.Down, downJSON{e.Name, err.Error()})
			}
			continue
		}
		verdict, err := policy.Judge(site.Head.Checkpoint, e.Log())
		if (err != nil || !verdict.Enough) && !slices.Contains(a.Uncosign, e.Name) {
			a.Uncosign = append(a.Uncosign, e.Name)
		}
		if !slices.Contains(a.Embassies, e.Name) {
			a.Embassies = append(a.Embassies, e.Name)
		}
		a.Objects += len(site.Objects)
		bundle.Sites = append(bundle.Sites, *site)
	}
	return bundle, nil
}

// headsUpTo are a register's heads up to one: by number, or the newest.
func headsUpTo(ctx context.Context, reg *register.Register, agent *register.Agent, want string) (heads []*snapshot.Head, err error) {
	newest, found := want == "" || want == "latest", false
	last := uint64(0)
	err = archive.Snapshots(ctx, reg, agent, func(h *snapshot.Head) error {
		if !found {
			heads = append(heads, h)
		}
		found = found || !newest && archive.SnapshotName(h.Sequence) == want
		last = max(last, h.Sequence)
		return nil
	})
	if err == nil && (len(heads) == 0 || !newest && !found) {
		err = fmt.Errorf("%w: %q (there are %d)", archive.ErrNoSnapshot, want, last)
	}
	return heads, err
}

// siteReceipts collects one embassy's part: its deliveries, and proofs of them, the head and every object; of an earlier
// snapshot, of every object that the embassy still holds.
func (c *connection) siteReceipts(ctx context.Context, e charter.Embassy, register [16]byte, n uint64, earlier bool) (*evidence.Site, error) {
	x := c.client(e)
	slots := []ledger.Slot{{Kind: ledger.Head, Register: register, Sequence: n}}
	site := &evidence.Site{Embassy: e.Name}
	var names []shard.Name
	deliveries, err := deliveriesOf(ctx, x, register, n)
	if err != nil {
		return nil, err
	}
	for _, info := range deliveries {
		doc, err := x.GetRecord(ctx, info.Slot)
		if err != nil {
			return nil, err
		}
		d, err := ledger.ParseDelivery(doc)
		if err != nil {
			return nil, err
		}
		for _, o := range d.Objects {
			names = append(names, shard.Name(o))
		}
		slots = append(slots, info.Slot)
		site.Deliveries = append(site.Deliveries, evidence.Delivery{Document: doc})
	}
	slices.SortFunc(names, func(a, b shard.Name) int { return slices.Compare(a[:], b[:]) })
	names = slices.Compact(names) // a later part may name what an interrupted run had named
	if earlier {
		gone, err := x.Missing(ctx, names)
		if err != nil {
			return nil, err
		}
		not := make(map[shard.Name]bool, len(gone))
		for _, n := range gone {
			not[n] = true
		}
		names = slices.DeleteFunc(names, func(n shard.Name) bool { return not[n] })
	}
	receipts, err := x.CosignedReceipts(ctx, names, slots)
	if errors.Is(err, embassy.ErrUnreachable) { // busy: nothing is cosigned yet; the embassy's own word is better than none
		receipts, err = x.Receipts(ctx, names, slots)
	}
	if err != nil {
		return nil, err
	}
	for i, r := range receipts {
		p := ledger.Proof{Extra: r.Leaf, Index: r.Index, Path: r.Proof, Checkpoint: r.Checkpoint}
		switch at := i - len(names); {
		case at < 0:
			site.Objects = append(site.Objects, p)
		case at == 0:
			site.Head = p
		default:
			site.Deliveries[at-1].Proof = p
		}
	}
	return site, nil
}

// deliveriesOf lists the deliveries of one snapshot at an embassy, by part.
func deliveriesOf(ctx context.Context, x *embassy.Client, register [16]byte, n uint64) (list []ledger.RecordInfo, err error) {
	after := ledger.DeliverySlot(register, n, 0).Sequence - 1
	for {
		page, err := x.ListRecords(ctx, ledger.DeliveryRecord, register, after)
		if err != nil {
			return nil, err
		}
		for _, info := range page {
			if info.Slot.Sequence>>16 != n {
				return list, nil
			}
			list, after = append(list, info), info.Slot.Sequence
		}
		if len(page) == 0 {
			return list, nil
		}
	}
}

// receiptVerifyJSON is the answer of receipt verify.
type receiptVerifyJSON struct {
	Charter uint64 `json:"checked_with_charter"`
	*evidence.Proven
	Whole bool   `json:"whole"`
	Why   string `json:"why,omitempty"`
}

func receiptVerify(u *ui) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "verify FILE", Short: "Check a file of receipts with nothing but the charter", Args: cobra.ExactArgs(1),
		Long: "Checks offline every signature, inclusion and leaf, that every object that the agent says it delivered is there, and\n" +
			"that enough witnesses cosigned, with nothing but the charter. Exit 6 when anything is wrong, 3 when all is right but\n" +
			"not everything is cosigned or an embassy is not in the file.",
		Example: "  chancery receipt verify land-3.receipts --charter charter.yaml",
	}
	c.Flags().StringVar(&path, "charter", "", "the state's charter")
	required(c, "charter")
	c.RunE = func(_ *cobra.Command, args []string) error {
		ch, err := readCharter(path, u)
		if err != nil {
			return err
		}
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		proven, err := evidence.VerifyBundle(f, st.Size(), ch)
		if proven == nil || err != nil && !errors.Is(err, evidence.ErrNotCosigned) {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		a := receiptVerifyJSON{Charter: ch.Number, Proven: proven, Whole: err == nil}
		if err != nil {
			a.Why = err.Error()
		}
		if aerr := u.answer(a, a.print); aerr != nil {
			return aerr
		}
		if err != nil {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

func (a receiptVerifyJSON) print(w io.Writer) {
	p := a.Proven
	what := "This is of what was new with it: what it shares with earlier snapshots is in their receipts."
	if n := len(p.Earlier); n > 0 {
		what = fmt.Sprintf("This is of all that it needs, stored with it and with %s before it.", plural(n, "snapshot"))
	}
	fmt.Fprintf(w, "snapshot %d of register %s, signed by agent %s under charter %d\nany %d of its embassies bring it back; checked with charter %d\n%s\n\n",
		p.Snapshot, p.Register, p.Agent, p.Charter, p.Need, a.Charter, what)
	for _, e := range p.Earlier {
		printSites(w, e)
	}
	printSites(w, p)
	if a.Why != "" {
		fmt.Fprintf(w, "not all is proven: %s\n", printable(a.Why))
	}
}

// printSites prints what is proven of one snapshot.
func printSites(w io.Writer, p *evidence.Proven) {
	var rows [][]string
	for _, s := range p.Sites {
		proven := "not cosigned: " + s.Why
		switch {
		case s.Cosigned && s.Since != nil:
			proven = "since " + s.Since.Format(time.RFC3339) + " by " + strings.Join(s.Groups, ",")
		case s.Cosigned:
			proven = "by the embassy itself; the charter asks for no other"
		}
		if s.Lacked {
			proven += "; it lacked objects when the snapshot was made"
		}
		if s.Gone > 0 {
			proven += fmt.Sprintf("; %s not proven: released since, or left out", plural(s.Gone, "object"))
		}
		rows = append(rows, []string{fmt.Sprint(p.Snapshot), s.Embassy, s.Host, fmt.Sprint(s.Objects), fmt.Sprint(s.Size), proven})
	}
	for _, n := range p.Absent {
		rows = append(rows, []string{fmt.Sprint(p.Snapshot), n, "", "", "", "not in the file: nothing is proven of it"})
	}
	table(w, "SNAPSHOT EMBASSY HOST OBJECTS LEDGER PROVEN", rows)
}
