package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

func auditorCommand(u *ui) *cobra.Command {
	return noun("auditor", "Let outsiders inspect ledgers and audit embassies",
		"  chancery auditor add --name court --key court.pub --home HOME", auditorAdd(u), auditorList(u))
}

type auditorJSON struct {
	Name        string `json:"name"`
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"`
}

func auditorAnswer(a charter.Auditor) auditorJSON {
	return auditorJSON{Name: a.Name, Key: a.Key, Fingerprint: charter.Fingerprint(a.PublicKey())}
}

func auditorAdd(u *ui) *cobra.Command {
	var name, file string
	c := &cobra.Command{
		Use: "add", Short: "Take an auditor into the charter", Args: cobra.NoArgs,
		Long: "Puts an auditor's key into the next charter and tells every embassy. An auditor may read ledgers and records, and have\n" +
			"embassies audited: chancery ledger verify, follow, show and copy, audit, each with --charter and --identity. It may\n" +
			"read no object and write nothing. The key is one that ssh-keygen -t ed25519 made; the file is its public half.",
		Example: "  chancery auditor add --name court --key court.pub --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "its name: small letters, digits, hyphens")
	c.Flags().StringVar(&file, "key", "", "file with its public key, as ssh-keygen -t ed25519 writes it")
	required(c, "name", "key")
	c.RunE = func(c *cobra.Command, _ []string) error {
		a, err := auditorOf(name, file)
		if err != nil {
			return err
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		next, err := conn.home.Next()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(next.Auditors, func(x charter.Auditor) bool { return x.Name == name }); i >= 0 {
			return &failure{err: fmt.Errorf("the charter has an auditor %s already", name), code: exitRefused, hint: "give this one a name of its own"}
		}
		next.Auditors = append(next.Auditors, a)
		if err := conn.home.Adopt(next); err != nil {
			return err
		}
		conn.tellAll(c.Context(), u)
		return u.answer(auditorAnswer(a), func(w io.Writer) {
			fmt.Fprintf(w, "%s may inspect and audit under charter %d.\n", name, conn.home.Charter.Number)
		})
	}
	return c
}

// auditorOf reads what the charter says of an auditor.
func auditorOf(name, file string) (charter.Auditor, error) {
	line, err := os.ReadFile(file)
	if err != nil {
		return charter.Auditor{}, err
	}
	text, err := charter.ParseSSHPublicKey(line)
	if err == nil {
		var key ssh.PublicKey
		if key, _, _, _, err = ssh.ParseAuthorizedKey([]byte(text)); err == nil {
			if k, ok := key.(ssh.CryptoPublicKey); ok {
				if ed, ok := k.CryptoPublicKey().(ed25519.PublicKey); ok && key.Type() == ssh.KeyAlgoED25519 {
					return charter.Auditor{Name: name, Key: charter.EncodeKey(ed)}, nil
				}
			}
			err = errors.New("a hardware key cannot be an auditor's: it would have to be touched for each connection")
		}
	}
	return charter.Auditor{}, &failure{
		err: fmt.Errorf("%s: not an Ed25519 public key: %w", file, err), code: exitUsage, hint: "ssh-keygen -t ed25519 -f court, and give court.pub",
	}
}

func auditorList(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the charter's auditors", Args: cobra.NoArgs,
		Example: "  chancery auditor list --home HOME",
	}
	return listing(u, c, "NAME KEY", func(h *home.Home) (list []auditorJSON, err error) {
		for _, a := range h.Charter.Auditors {
			list = append(list, auditorAnswer(a))
		}
		return list, nil
	}, func(a auditorJSON) []string { return []string{a.Name, a.Fingerprint} })
}

// tellAll brings every embassy up to the newest charter, and says which could not be told.
func (c *connection) tellAll(ctx context.Context, u *ui) {
	for _, e := range c.home.Charter.Embassies {
		if err := c.tellCharter(ctx, e); err != nil {
			u.note("%s has not heard of the new charter yet (chancery repair tells it): %v", e.Name, err)
		}
	}
}
