package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
)

func orderCommand(u *ui) *cobra.Command {
	return noun("order", "Instructions to embassies that a quorum signs", "  chancery order list --home HOME",
		orderPropose(u), orderShow(u), orderCheck(u), orderSign(u), orderSubmit(u), orderList(u), orderVeto(u))
}

// An order is one file, FILE.yaml in HOME/orders or wherever people hand it on. Beside it lie its signatures, in
// FILE.yaml.sig, and what it binds: FILE.yaml.EMBASSY.objects is what one embassy is to remove, FILE.yaml.charter the next
// charter and FILE.yaml.charter.sig its signatures.

// ordersDir is where a home keeps orders.
func ordersDir(h *home.Home) string { return filepath.Join(h.Dir, "orders") }

// listFile is where what one embassy is to remove lies.
func listFile(path, embassy string) string { return path + "." + embassy + ".objects" }

// orderLine is the command by which anybody signs an order with the tool and the key that they have.
func orderLine(path string) string {
	return fmt.Sprintf("ssh-keygen -Y sign -n %s -f YOUR_KEY < %s >> %s.sig", order.Namespace, path, path)
}

// readOrder reads an order and its signatures.
func readOrder(path string) (*order.Order, []byte, error) {
	doc, err := readCapped(path, order.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	o, err := order.Parse(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	sigs, err := readCapped(path+".sig", order.MaxSignatures)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return o, sigs, err
}

// readCapped reads a file of at most limit bytes.
func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &failure{err: fmt.Errorf("%s: longer than %d bytes", path, limit), code: exitUsage, hint: "name the file of an order"}
	}
	return data, err
}

// orderJSON is the answer of order propose, show, check and sign.
type orderJSON struct {
	Path      string          `json:"path"`
	Hash      string          `json:"hash"`
	Kind      string          `json:"order"`
	Says      string          `json:"says"`
	State     string          `json:"state"`
	Charter   uint64          `json:"charter"`
	Embassies []string        `json:"embassies"`
	Proposer  string          `json:"proposer"`
	Created   time.Time       `json:"created"`
	Expires   time.Time       `json:"expires"`
	Reason    string          `json:"reason"`
	Lists     []orderListJSON `json:"lists"`
	Judged    bool            `json:"judged"` // by a charter: the rest says what that one asks
	Role      string          `json:"role,omitempty"`
	Need      int             `json:"need,omitempty"`
	Touch     bool            `json:"touch,omitempty"`
	Cooling   float64         `json:"cooling_seconds,omitempty"`
	Veto      string          `json:"veto,omitempty"`
	Heirs     bool            `json:"succession,omitempty"`
	SignedBy  []string        `json:"signed_by"`
	Missing   []string        `json:"missing"`
	Complete  bool            `json:"complete"`
	Why       string          `json:"why,omitempty"`
}

// orderListJSON is what an order has one embassy remove.
type orderListJSON struct {
	Embassy string `json:"embassy"`
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
	SHA256  string `json:"sha256"`
	File    string `json:"file"`
	State   string `json:"state"` // here, missing, or other
}

// orderAnswer says what an order is, and what it lacks under a charter: the error. Without one it says only what it is.
func orderAnswer(path string, o *order.Order, sigs []byte, c *charter.Charter, now time.Time) (x orderJSON, err error) {
	x = orderJSON{
		Path: path, Hash: charter.EncodeDigest(o.Hash()), Kind: string(o.Kind), Says: o.Say(), State: o.State.String(), Charter: o.Charter,
		Embassies: o.Embassies, Proposer: o.Proposer, Created: o.Created, Expires: o.Expires, Reason: o.Reason,
		Lists: []orderListJSON{}, SignedBy: []string{}, Missing: []string{},
	}
	for _, l := range o.Content.Lists {
		file := listFile(path, l.Embassy)
		x.Lists = append(x.Lists, orderListJSON{
			Embassy: l.Embassy, Objects: l.Count, Bytes: l.Bytes, SHA256: charter.EncodeDigest(l.Hash), File: file, State: listState(l, file),
		})
	}
	if c == nil {
		return x, nil
	}
	a, err := order.Check(c, o, sigs, now, nil)
	x.Judged, x.Complete = true, err == nil
	x.Role, x.Need, x.Touch, x.Veto, x.Heirs = a.Rule.Role, a.Rule.Need, a.Rule.Touch == "yes", a.Rule.Veto, a.Succession
	x.Cooling = a.Rule.Cooling.Duration().Seconds()
	for _, v := range a.Votes {
		x.SignedBy = append(x.SignedBy, v.Name)
	}
	x.Missing = append(x.Missing, a.Missing...)
	if err != nil {
		x.Why = err.Error()
	}
	return x, err
}

// maxList caps a list of objects, in bytes.
const maxList = 64<<20 + 4<<10

// listState tells whether a list lies where it should.
func listState(l order.List, file string) string {
	data, err := readCapped(file, maxList)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	case err != nil || sha256.Sum256(data) != l.Hash:
		return "other"
	}
	return "here"
}

// print shows an order to whoever is to sign it.
func (x *orderJSON) print(w io.Writer) {
	fmt.Fprintf(w, "order     %s, SHA-256 %s\nit will   %s\nat        %s\nbecause   %s\n", x.Kind, x.Hash, printable(x.Says), strings.Join(x.Embassies, ", "), printable(x.Reason))
	fmt.Fprintf(w, "proposed  by %s on %s, under charter %d of state %s; open until %s\n",
		x.Proposer, x.Created.Format(time.RFC3339), x.Charter, x.State, x.Expires.Format(time.RFC3339))
	var rows [][]string
	for _, l := range x.Lists {
		rows = append(rows, []string{l.Embassy, fmt.Sprint(l.Objects), size(int64(l.Bytes)), l.SHA256, l.File + " (" + l.State + ")"})
	}
	if len(rows) > 0 {
		table(w, "EMBASSY OBJECTS BYTES SHA-256 LIST", rows)
	}
	if x.Judged {
		x.printRule(w)
	}
}

// printRule says what the charter asks, who has signed, and who may still.
func (x *orderJSON) printRule(w io.Writer) {
	if x.Role != "" {
		how := ""
		if x.Touch {
			how = ", with hardware keys that they touch"
		}
		fmt.Fprintf(w, "needs     %d of role %s%s\n", x.Need, x.Role, how)
		then := "it takes effect as soon as it is logged"
		if x.Cooling > 0 {
			then = fmt.Sprintf("it waits %s after witnesses have seen it logged; nobody can stop it", time.Duration(x.Cooling*float64(time.Second)))
			if x.Veto != "" {
				then = strings.Replace(then, "nobody", "anyone of role "+x.Veto, 1) + " in that time"
			}
		}
		fmt.Fprintf(w, "then      %s\n", then)
	}
	fmt.Fprintf(w, "signed by %s\nmissing   %s\n", orNobody(x.SignedBy), orNobody(x.Missing))
	if x.Complete {
		fmt.Fprintf(w, "Enough have signed.\n")
	}
}

func orderShow(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "show FILE", Short: "Show what an order says", Args: cobra.ExactArgs(1),
		Long: "Says in plain words what the order in FILE does, and, where a charter is at hand, who has signed it. That an order is\n" +
			"shown does not mean that it counts: order check says that.",
		Example: "  chancery order show HOME/orders/hold-3f2a90b1.yaml --home HOME",
	}
	state := chosenCharter(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, sigs, err := readOrder(args[0])
		if err != nil {
			return err
		}
		ch, err := state(false)
		if err != nil {
			return err
		}
		x, why := orderAnswer(args[0], o, sigs, ch, time.Now())
		return u.answer(x, func(w io.Writer) {
			x.print(w)
			if why != nil {
				fmt.Fprintf(w, "It does not count: %v.\n", why)
			}
		})
	}
	return c
}

func orderCheck(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "check FILE", Short: "Say who has signed an order, who has yet to, and what it does", Args: cobra.ExactArgs(1),
		Long: "Holds the order in FILE, with FILE.sig, against the charter, as every embassy does. Exit code 0 says that it counts; 5\n" +
			"that something is missing, 6 that a signature or a list is not what it says. Whether someone is suspended, only\n" +
			"the embassies know.",
		Example: "  chancery order check HOME/orders/hold-3f2a90b1.yaml --charter charter.yaml",
	}
	state := chosenCharter(c)
	objects := c.Flags().Bool("objects", false, "also see for yourself what its lists remove: from the embassies, believing nobody")
	identity := c.Flags().String("identity", "", "with --objects, a reader's private key file: also read the snapshots that stay")
	c.RunE = func(c *cobra.Command, args []string) error {
		o, sigs, err := readOrder(args[0])
		if err != nil {
			return err
		}
		ch, err := state(true)
		if err != nil {
			return err
		}
		x, why := orderAnswer(args[0], o, sigs, ch, time.Now())
		if lacks := x.listsMissing(); lacks != nil {
			why = lacks
		}
		if *objects && (why == nil || errors.Is(why, charter.ErrQuorum)) { // whoever is to sign looks first
			dir, err := c.Flags().GetString("home")
			if err != nil {
				return err
			}
			if wrong := checkObjects(c.Context(), dir, *identity, args[0], o); wrong != nil {
				why = wrong
			}
		}
		x.Complete = why == nil
		if why != nil && x.Why == "" {
			x.Why = why.Error()
		}
		if err := u.answer(x, func(w io.Writer) {
			x.print(w)
			if len(x.Lists) > 0 && !*objects {
				fmt.Fprintf(w, "To see for yourself what the lists remove:  chancery order check %s --objects --home HOME\n", x.Path)
			}
		}); err != nil {
			return err
		}
		return orderRefused(why, args[0])
	}
	return c
}

// listsMissing fails where a list that the order binds is not beside it.
func (x *orderJSON) listsMissing() error {
	for _, l := range x.Lists {
		switch l.State {
		case "missing":
			return &failure{err: fmt.Errorf("%s: the list of %s is missing", l.File, l.Embassy), code: exitNotFound, hint: "take it from whoever proposed the order"}
		case "other":
			return fmt.Errorf("%s: %w", l.File, order.ErrAttachment)
		}
	}
	return nil
}

// orderRefused gives an error of an order its code and its cure: here too few signatures are no damage.
func orderRefused(err error, path string) error {
	switch {
	case errors.Is(err, charter.ErrQuorum):
		return &failure{err: err, code: exitRefused, hint: orderLine(path)}
	case errors.Is(err, charter.ErrSignature):
		return &failure{err: err, code: exitDamaged, hint: "take the order and its signatures again from whoever sent them: one is not of these bytes"}
	}
	return err
}
