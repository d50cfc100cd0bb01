package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
)

func orderVeto(u *ui) *cobra.Command {
	var key, reason, name string
	c := &cobra.Command{
		Use: "veto FILE|HASH", Short: "Stop an order while it waits", Args: cobra.ExactArgs(1),
		Long: "Signs a veto of an order, and brings it to every embassy that the order is for: to all of the charter where only the\n" +
			"order's hash is named. One person of the role that the charter names is enough. What has begun is not stopped.",
		Example: "  chancery order veto HOME/orders/erase-3f2a90b1.yaml --key olev --reason \"The court has withdrawn it\" --home HOME",
	}
	open := askerFlags(c)
	c.Flags().StringVar(&key, "key", "", "your SSH key file")
	c.Flags().StringVar(&reason, "reason", "", "why, in one line")
	c.Flags().StringVar(&name, "name", "", "your name in the charter (default: whoever has that key there)")
	required(c, "key", "reason")
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := open()
		if err != nil {
			return err
		}
		defer a.close()
		v := order.Veto{Name: name, Reason: reason, Time: time.Now().UTC().Truncate(time.Second)}
		to := a.names()
		hash, perr := charter.ParseDigest(args[0])
		var o *order.Order
		if perr != nil {
			if o, _, err = readOrder(args[0]); err != nil {
				return err
			}
			hash, to = o.Hash(), o.Embassies
		}
		if v.Order = hash; v.Name == "" {
			if v.Name, err = nameOfKey(a.charter, key); err != nil {
				return err
			}
		}
		record, err := a.veto(c.Context(), v, o, key)
		if err != nil {
			return err
		}
		x := orderAtJSON{Hash: charter.EncodeDigest(hash)}
		x.Embassies = a.each(c.Context(), to, func(ctx context.Context, e charter.Embassy, client *embassy.Client) orderStandingJSON {
			s, err := client.PutVeto(ctx, x.Hash, record)
			if err != nil {
				return orderStandingJSON{Embassy: e.Name, Status: statusNoAnswer, err: err}
			}
			return standingAt(e.Name, s)
		})
		return u.answered(x, v.Name+"'s veto of order "+x.Hash+" was brought to "+strings.Join(to, ", ")+".")
	}
	return c
}

// veto writes and signs a veto. Where the order is at hand, one that would not count is refused here, with the reason.
func (a *asker) veto(ctx context.Context, v order.Veto, o *order.Order, key string) ([]byte, error) {
	doc, err := v.Marshal()
	if err != nil {
		return nil, err
	}
	sig, err := signWith(ctx, key, order.VetoNamespace, doc)
	if err != nil {
		return nil, err
	}
	if o != nil {
		signed, err := order.ParseVeto(doc)
		if err != nil {
			return nil, err
		}
		rules, err := order.Rules(a.charter, o)
		if err != nil {
			return nil, err
		}
		for _, rule := range rules {
			if _, err = order.CheckVeto(a.charter, rule, o, signed, sig, time.Now(), nil); err == nil {
				break
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return order.NewRecord(doc, sig).Bytes()
}

// nameOfKey finds whose key it is in a charter.
func nameOfKey(c *charter.Charter, keyFile string) (string, error) {
	public, err := publicHalf(keyFile)
	if err != nil {
		return "", err
	}
	for _, p := range c.Everyone() {
		if slices.Contains(p.Keys, public) {
			return p.Name, nil
		}
	}
	return "", &failure{
		err: fmt.Errorf("%s: this key is nobody's in charter %d", keyFile, c.Number), code: exitRefused,
		hint: "name the key that the charter has of you: chancery charter show",
	}
}

// publicHalf finds the public half of a key: in its own file, which may be that already, or beside it in KEY.pub.
func publicHalf(keyFile string) (string, error) {
	file, err := readCapped(keyFile, maxKeyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	defer clear(file)
	if key, err := charter.ParseSSHKey(file); err == nil {
		defer clear(key)
		return charter.SSHPublicKey(key.Public().(ed25519.PublicKey))
	}
	if text, err := charter.ParseSSHPublicKey(file); err == nil {
		return text, nil
	}
	line, err := os.ReadFile(keyFile + ".pub")
	if err != nil {
		return "", &failure{err: fmt.Errorf("%s: its public half is not known: %w", keyFile, err), code: exitUsage, hint: "put it beside the key, in " + keyFile + ".pub"}
	}
	return charter.ParseSSHPublicKey(line)
}

// ordersAtHome are the orders that lie in a home's folder, each open at every embassy that it is for until that one tells.
func ordersAtHome(h *home.Home, now time.Time) ([]orderAtJSON, error) {
	list := []orderAtJSON{}
	entries, err := os.ReadDir(ordersDir(h))
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".yaml" {
			continue
		}
		path := filepath.Join(ordersDir(h), entry.Name())
		o, sigs, err := readOrder(path)
		if err != nil {
			return nil, err
		}
		said, why := orderAnswer(path, o, sigs, h.Charter, now)
		x := orderAtJSON{
			Hash: said.Hash, Kind: said.Kind, Path: path, Proposer: o.Proposer, Charter: o.Charter, Expires: &o.Expires, Embassies: []orderStandingJSON{},
		}
		s := orderStandingJSON{Status: order.Judge(o, order.Facts{}, now).Status.String()}
		switch {
		case errors.Is(why, charter.ErrQuorum):
			x.Missing = said.Missing
		case why != nil && s.Status == order.Open.String():
			s.Why = why.Error()
		}
		for _, name := range o.Embassies {
			s.Embassy = name
			x.Embassies = append(x.Embassies, s)
		}
		list = append(list, x)
	}
	return list, nil
}
