package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
)

// orderAtJSON is the answer of order submit and order veto, and one of those of order list.
type orderAtJSON struct {
	Hash      string              `json:"hash"`
	Kind      string              `json:"order,omitempty"`
	Path      string              `json:"path,omitempty"`
	Proposer  string              `json:"proposer,omitempty"`
	Charter   uint64              `json:"charter,omitempty"`
	Expires   *time.Time          `json:"expires,omitempty"`
	Missing   []string            `json:"missing,omitempty"`
	Embassies []orderStandingJSON `json:"embassies"`
}

// orderStandingJSON is where an order stands at one embassy.
type orderStandingJSON struct {
	Embassy  string     `json:"embassy"`
	Status   string     `json:"status"`
	Sequence uint64     `json:"sequence,omitempty"`
	Until    *time.Time `json:"until,omitempty"`
	VetoedBy string     `json:"vetoed_by,omitempty"`
	Objects  uint64     `json:"objects,omitempty"`
	Bytes    uint64     `json:"bytes,omitempty"`
	Why      string     `json:"why,omitempty"`
	Cosigned []string   `json:"cosigned,omitempty"`
	err      error
}

// statusNoAnswer is the one status that is not an embassy's.
const statusNoAnswer = "no answer" // or none that is good

func standingAt(name string, s embassy.OrderStatus) orderStandingJSON {
	x := orderStandingJSON{
		Embassy: name, Status: s.Status, Sequence: s.Sequence, VetoedBy: s.VetoedBy, Objects: s.Objects, Bytes: s.Freed, Why: s.Why,
		Cosigned: s.Cosigned,
	}
	if !s.Until.IsZero() {
		x.Until = &s.Until
	}
	return x
}

// asker speaks to embassies of a charter, from home or from anywhere: an order carries its own authority.
type asker struct {
	charter *charter.Charter
	home    *home.Home // nil where only a charter was named
	key     ed25519.PrivateKey
}

// askerFlags gives a command the options by which it finds the state's embassies.
func askerFlags(c *cobra.Command) func() (*asker, error) {
	path := c.Flags().String("charter", "", "the state's charter, to work without a home")
	dir := homeFlag(c)
	return func() (*asker, error) {
		if *path != "" {
			ch, err := readCharterFile(*path)
			if err != nil {
				return nil, err
			}
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return &asker{charter: ch, key: key}, err
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return nil, err
		}
		return &asker{charter: conn.home.Charter, home: conn.home, key: conn.key}, nil
	}
}

func (a *asker) close() {
	if a.home != nil {
		a.home.Close()
	}
}

// each asks embassies at once, and returns their answers in that order.
func (a *asker) each(ctx context.Context, names []string, ask func(context.Context, charter.Embassy, *embassy.Client) orderStandingJSON) []orderStandingJSON {
	out := make([]orderStandingJSON, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		e, ok := a.charter.EmbassyByName(name)
		if !ok {
			out[i] = orderStandingJSON{Embassy: name, Status: statusNoAnswer, err: fmt.Errorf("charter %d has no embassy %s", a.charter.Number, name)}
			continue
		}
		all.Go(func() {
			x := dial(e, a.charter.State.ID, a.key)
			defer x.Close()
			out[i] = ask(ctx, e, x)
		})
	}
	all.Wait()
	for i := range out {
		if out[i].err != nil {
			out[i].Why = out[i].err.Error()
		}
	}
	return out
}

// names are the embassies of the charter.
func (a *asker) names() (all []string) {
	for _, e := range a.charter.Embassies {
		all = append(all, e.Name)
	}
	return all
}

// answered prints how an order stands, and ends with what kept embassies from it: in part, or for all of them.
func (u *ui) answered(x orderAtJSON, text string) error {
	if err := u.answer(x, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n", text)
		printStandings(w, x.Embassies)
	}); err != nil {
		return err
	}
	var failed []error
	for _, s := range x.Embassies {
		if s.err != nil {
			failed = append(failed, s.err)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(failed) == len(x.Embassies):
		return failed[0]
	}
	return &failure{err: errPartial, code: exitPartial}
}

func printStandings(w io.Writer, list []orderStandingJSON) {
	var rows [][]string
	for _, s := range list {
		rows = append(rows, []string{s.Embassy, s.text()})
	}
	table(w, "EMBASSY STATUS", rows)
}

func (s *orderStandingJSON) text() string {
	t := s.Status
	switch {
	case s.Status == order.Waiting.String() && s.Until != nil:
		t += " until " + s.Until.UTC().Format(time.RFC3339)
	case s.Status == order.Waiting.String():
		t += " for witnesses"
	case s.VetoedBy != "":
		t += " by " + s.VetoedBy
	case s.Objects > 0:
		t += fmt.Sprintf(", %s removed, %s", plural(s.Objects, "object"), size(int64(s.Bytes)))
	}
	if s.Why != "" {
		t += ": " + strings.TrimPrefix(s.Why, s.VetoedBy+": ")
	}
	return t
}

func orderSubmit(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "submit FILE", Short: "Bring a signed order to the embassies that it is for", Args: cobra.ExactArgs(1),
		Long: "Brings the order in FILE, with FILE.sig and the lists beside it, to every embassy that it names. Each checks it by\n" +
			"itself, writes it to its ledger, waits as long as the charter says, and does it. To bring it again is harmless.\n" +
			"Whoever has no home names the charter: an order carries its own authority.",
		Example: "  chancery order submit HOME/orders/hold-3f2a90b1.yaml --home HOME",
	}
	open := askerFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, sigs, err := readOrder(args[0])
		if err != nil {
			return err
		}
		a, err := open()
		if err != nil {
			return err
		}
		defer a.close()
		// Embassies tell strangers nothing, so what is wrong is found here first.
		if _, err := orderAnswer(args[0], o, sigs, a.charter, time.Now()); err != nil {
			return orderRefused(err, args[0])
		}
		records := map[string][]byte{}
		beside := map[string][][]byte{}
		for _, name := range o.Embassies {
			if beside[name], err = a.beside(args[0], o, name); err != nil {
				return err
			}
			var sums [][32]byte
			for _, b := range beside[name] {
				sums = append(sums, sha256.Sum256(b))
			}
			if records[name], err = order.NewRecord(o.Bytes(), sigs, sums...).Bytes(); err != nil {
				return err
			}
		}
		x := orderAtJSON{Hash: charter.EncodeDigest(o.Hash()), Kind: string(o.Kind), Path: args[0], Proposer: o.Proposer, Charter: o.Charter, Expires: &o.Expires}
		x.Embassies = a.each(c.Context(), o.Embassies, func(ctx context.Context, e charter.Embassy, client *embassy.Client) orderStandingJSON {
			s, err := client.PutOrder(ctx, records[e.Name], beside[e.Name]...)
			if err != nil {
				return orderStandingJSON{Embassy: e.Name, Status: statusNoAnswer, err: err}
			}
			return standingAt(e.Name, s)
		})
		return u.answered(x, "Order "+x.Hash+" was brought to "+strings.Join(o.Embassies, ", ")+".")
	}
	return c
}

// beside reads what travels with an order to one embassy, and holds it against the order.
func (a *asker) beside(path string, o *order.Order, name string) ([][]byte, error) {
	if l, ok := o.Content.ListFor(name); ok {
		data, err := readCapped(listFile(path, name), maxList)
		if err != nil {
			return nil, err
		}
		return [][]byte{data}, l.Check(data)
	}
	if o.Kind != charter.ActCharter {
		return nil, nil
	}
	doc, err := readCapped(path+".charter", charter.MaxSize)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(doc) != o.Content.Hash {
		return nil, fmt.Errorf("%s.charter: %w", path, order.ErrAttachment)
	}
	sig, err := readCapped(path+".charter.sig", order.MaxSignatures)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Who signed the charter at home after the order was written down counts, too.
	if a.home != nil {
		if p, err := a.home.Proposal(); err == nil && p.Charter.Hash() == o.Content.Hash {
			sig = p.Sig
		}
	}
	return [][]byte{doc, sig}, nil
}

func orderList(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "Show orders: open, waiting, stopped, done", Args: cobra.NoArgs,
		Long: "Shows the orders that lie in HOME/orders, with who has yet to sign, and those that the embassies took, as each tells.\n" +
			"What an embassy tells is its word; ledger verify holds its ledger to it.",
		Example: "  chancery order list --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		a := &asker{charter: conn.home.Charter, home: conn.home, key: conn.key}
		list, err := ordersAtHome(conn.home, time.Now())
		if err != nil {
			return err
		}
		down := a.told(c.Context(), &list)
		if err := u.answer(list, func(w io.Writer) { printOrders(w, list) }); err != nil {
			return err
		}
		for _, s := range down {
			u.note("%s: no answer: %s", s.Embassy, s.Why)
		}
		if len(down) > 0 {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// told adds what each embassy tells of its orders, and returns those that tell nothing.
func (a *asker) told(ctx context.Context, list *[]orderAtJSON) (down []orderStandingJSON) {
	all := make(map[string][]embassy.OrderStatus)
	var mu sync.Mutex
	asked := a.each(ctx, a.names(), func(ctx context.Context, e charter.Embassy, x *embassy.Client) orderStandingJSON {
		orders, err := x.Orders(ctx)
		mu.Lock()
		defer mu.Unlock()
		all[e.Name] = orders
		return orderStandingJSON{Embassy: e.Name, err: err}
	})
	for _, s := range asked {
		if s.err != nil {
			down = append(down, s)
			continue
		}
		for _, o := range all[s.Embassy] {
			i := slices.IndexFunc(*list, func(x orderAtJSON) bool { return x.Hash == o.Hash })
			if i < 0 {
				i = len(*list)
				*list = append(*list, orderAtJSON{Hash: o.Hash, Kind: o.Kind, Proposer: o.Proposer, Charter: o.Charter, Expires: &o.Expires})
			}
			x := &(*list)[i]
			x.Embassies = slices.DeleteFunc(x.Embassies, func(old orderStandingJSON) bool { return old.Embassy == s.Embassy })
			x.Embassies = append(x.Embassies, standingAt(s.Embassy, o))
		}
	}
	return down
}

func printOrders(w io.Writer, list []orderAtJSON) {
	var rows [][]string
	for _, x := range list {
		for i, s := range x.Embassies {
			row := []string{"", "", "", s.Embassy, s.text()}
			if i == 0 {
				row[0], row[1], row[2] = x.Hash[:16], x.Kind, x.Proposer
			}
			if len(x.Missing) > 0 && s.Status == order.Open.String() {
				row[4] += ", not signed by " + strings.Join(x.Missing, ", ")
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "No orders.")
		return
	}
	table(w, "ORDER KIND PROPOSER EMBASSY STATUS", rows)
}

// readCharterFile reads a charter that a person vouches for by naming it.
func readCharterFile(path string) (*charter.Charter, error) {
	doc, err := readCapped(path, charter.MaxSize)
	if err != nil {
		return nil, err
	}
	c, err := charter.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}
