package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
)

// lockMemory keeps the memory of short commands that hold secrets out of swap, where the system lets us.
func lockMemory() { _ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE) }

func custodianCommand(u *ui) *cobra.Command {
	return noun("custodian", "What a custodian does: make a key, look at a kit, release a share",
		"  chancery custodian keygen --name mari --out mari.key", custodianKeygen(u), custodianKit(u), custodianRelease(u), custodianHeard(u))
}

func custodianHeard(u *ui) *cobra.Command {
	var on string
	c := &cobra.Command{
		Use: "heard NAME", Short: "Note that a custodian was heard from", Args: cobra.ExactArgs(1),
		Long: "A share is worth what its custodian is: the person must be there, with kit and key. Ask each once a year, have them run\n" +
			"chancery custodian kit, and note it here. Status tells of those who were not heard from for nine months.",
		Example: "  chancery custodian heard mari --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&on, "on", "", "the day, such as 2026-01-31 (default: today)")
	c.RunE = func(c *cobra.Command, args []string) error {
		day := charter.DateOf(time.Now())
		if on != "" {
			day = charter.Date(on)
		}
		if !day.Valid() {
			return usageError(c, fmt.Errorf("--on %q: want a day such as 2026-01-31", on))
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		if err := conn.home.Heard(args[0], day); err != nil {
			return err
		}
		return u.answer(map[string]string{"custodian": args[0], "on": string(day)}, func(w io.Writer) {
			fmt.Fprintf(w, "%s was heard from on %s.\n", args[0], day)
		})
	}
	return c
}

func custodianKeygen(u *ui) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "keygen", Short: "Make a custodian's or reader's key and print its public half", Args: cobra.NoArgs,
		Long:    "Makes a post-quantum age key. The file is the secret: keep it where nobody else reaches. The line printed is\npublic: it goes into the charter, or is named as the reader of a register.",
		Example: "  chancery custodian keygen --name mari --out mari.key",
	}
	c.Flags().StringVar(&name, "name", "", "the custodian's or reader's name: small letters, digits, hyphens")
	out := outFlag(c, "file for the private key")
	required(c, "name")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkName(name); err != nil {
			return usageError(c, err)
		}
		lockMemory()
		secret, recipient, err := custody.GenerateIdentity(name)
		if err != nil {
			return err
		}
		if err := writeNew(*out, []byte(secret), 0o600); err != nil {
			return err
		}
		return u.answer(map[string]string{"name": name, "recipient": recipient, "file": *out}, func(w io.Writer) {
			fmt.Fprintln(w, recipient)
		})
	}
	return c
}

// writeNew writes a file that must not exist yet, durably.
func writeNew(path string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

func custodianKit(u *ui) *cobra.Command {
	var kit, identity, newest string
	c := &cobra.Command{
		Use: "kit", Short: "Look at a kit, and check the share in it", Args: cobra.NoArgs,
		Long: "Checks that the charter in a kit is signed as it says, and with --identity that the share opens with that key and\n" +
			"is the one that the charter commits to. Do so when a kit comes, and once a year. With --charter it is also held\n" +
			"against a newer charter: a kit of an older generation of the opening key is refused. Nothing leaves this machine.",
		Example: "  chancery custodian kit --kit kits/mari --identity mari.key",
	}
	c.Flags().StringVar(&kit, "kit", "", "the kit's folder")
	c.Flags().StringVar(&identity, "identity", "", "the custodian's private key file; without it the share is not opened")
	c.Flags().StringVar(&newest, "charter", "", "the state's newest charter, with its .sig beside it")
	required(c, "kit")
	c.RunE = func(*cobra.Command, []string) error {
		k, ch, err := readKit(kit)
		if err != nil {
			return err
		}
		if newest != "" {
			if err := kitServes(k, ch, newest); err != nil {
				return err
			}
		}
		checked := false
		if identity != "" {
			lockMemory()
			if _, err := openShare(k, ch, identity); err != nil {
				return err
			}
			checked = true
		}
		a := map[string]any{
			"state": ch.State.Name, "custodian": k.Custodian, "share": k.X, "generation": k.Generation, "quorum": k.Threshold, "shares": k.Total,
			"charter": ch.Number, "charter_hash": charter.EncodeDigest(ch.Hash()), "embassies": len(k.Embassies), "share_checked": checked,
		}
		return u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "Share %d of %d for %s, custodian of %s; any %d open. Generation %d of the opening key.\n", k.X, k.Total, k.Custodian, ch.State.Name, k.Threshold, k.Generation)
			fmt.Fprintf(w, "Charter %d, SHA-256 %s, with %s.\n", ch.Number, charter.EncodeDigest(ch.Hash()), plural(len(k.Embassies), "embassy"))
			if checked {
				fmt.Fprintln(w, "The share opens with this key and is the one that the charter commits to.")
			}
		})
	}
	return c
}

// kitServes holds a kit against a newer charter: one of another generation of the opening key opens nothing under it.
func kitServes(k *custody.Kit, ch *charter.Charter, path string) error {
	c, err := signedCharter(path)
	if err != nil {
		return err
	}
	switch {
	case c.State.ID != ch.State.ID:
		return fmt.Errorf("%s: %w: it is of %s, the kit is of %s", path, custody.ErrForeign, c.State.Name, ch.State.Name)
	case c.Custody.Generation != k.Generation:
		return &failure{
			err: fmt.Errorf("share %d of custodian %s: %w: generation %d, and charter %d has generation %d",
				k.X, k.Custodian, custody.ErrForeign, k.Generation, c.Number, c.Custody.Generation), code: exitRefused,
			hint: "the kit of the newest generation is the one to keep; what to do with an old one: chancery custody attest --help",
		}
	}
	return nil
}

// readKit reads a kit and its charter, and checks that the charter's signers signed it.
func readKit(folder string) (*custody.Kit, *charter.Charter, error) {
	k, err := home.ReadKit(folder)
	if _, serr := os.Stat(filepath.Join(folder, custody.KitEmbassies)); serr == nil && errors.Is(err, custody.ErrKit) {
		err = &failure{err: err, code: exitDamaged, hint: "this kit is not as it was made: take a copy of it, or another custodian's"}
	}
	if err != nil {
		return nil, nil, err
	}
	c, err := charter.Parse(k.Charter)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", folder, err)
	}
	if err := c.Verify(k.Signature); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", folder, err)
	}
	if c.Custody.Generation != k.Generation {
		return nil, nil, fmt.Errorf("%s: share %d of custodian %s: %w: generation %d, and its charter has generation %d",
			folder, k.X, k.Custodian, custody.ErrForeign, k.Generation, c.Custody.Generation)
	}
	return k, c, nil
}

// openShare opens a kit's share and holds it against the charter.
func openShare(k *custody.Kit, c *charter.Charter, identityFile string) (custody.Share, error) {
	identity, err := os.ReadFile(identityFile)
	if err != nil {
		return custody.Share{}, err
	}
	defer clear(identity)
	share, err := custody.OpenShare(k.Share, string(identity))
	if err != nil {
		return share, fmt.Errorf("share of %s with %s: %w", k.Custodian, identityFile, err)
	}
	commitments, err := home.Commitments(c)
	if err != nil {
		return share, err
	}
	return share, custody.Check(share, commitments)
}

func custodianRelease(u *ui) *cobra.Command {
	var kit, identity, request, fingerprint string
	c := &cobra.Command{
		Use: "release", Short: "Release a share to the machine that asks for it", Args: cobra.NoArgs,
		Long: "Seals the own share anew, to the one machine that a request names, and bound to that request. Read the request\n" +
			"first, call the people who ask on a number you had before, and compare the fingerprint; --fingerprint is what\n" +
			"they read to you, eight groups of four, between quotes. Without it the request is shown and nothing is released.",
		Example: "  chancery custodian release --kit kits/mari --identity mari.key --request request.txt --fingerprint \"59fc 4466 …\" --out mari.share",
	}
	c.Flags().StringVar(&kit, "kit", "", "the kit's folder")
	c.Flags().StringVar(&identity, "identity", "", "the custodian's private key file")
	c.Flags().StringVar(&request, "request", "", "the request")
	out := outFlag(c, "file for the released share")
	c.Flags().StringVar(&fingerprint, "fingerprint", "", "the request's fingerprint as the people who ask read it to you")
	required(c, "kit", "identity", "request")
	c.RunE = func(*cobra.Command, []string) error {
		text, err := os.ReadFile(request)
		if err != nil {
			return err
		}
		req, err := custody.ParseRequest(text)
		if err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
		if !sameFingerprint(fingerprint, req.Fingerprint()) {
			u.note("%s\n", text)
			why := "which fingerprint were you told?"
			if fingerprint != "" {
				why = "this is another request than the one you were told of"
			}
			return &failure{
				err: fmt.Errorf("nothing released: %s", why), code: exitRefused,
				hint: "call the people who ask, and give what they read to you: --fingerprint 'FINGERPRINT'",
			}
		}
		k, ch, err := readKit(kit)
		if err != nil {
			return err
		}
		lockMemory()
		share, err := openShare(k, ch, identity)
		if err != nil {
			return err
		}
		sealed, err := custody.SealRelease(share, req, time.Now())
		if err != nil {
			return err
		}
		if err := writeNew(*out, sealed, 0o644); err != nil {
			return err
		}
		return u.answer(map[string]string{"released": *out, "to": req.Node, "custodian": k.Custodian}, func(w io.Writer) {
			fmt.Fprintf(w, "%s's share is released to %s in %s; send them that file.\n", k.Custodian, req.Node, *out)
		})
	}
	return c
}

// sameFingerprint compares what was heard with what is there; spaces and hyphens are how people write it down.
func sameFingerprint(told, real string) bool {
	bare := func(s string) string {
		return strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(s))
	}
	return bare(told) == bare(real)
}

// lockShares is lockMemory for a process that goes on to move a lot of data: only what is mapped now is kept out of
// swap, which holds the keys but not the buffers to come.
func lockShares() { _ = unix.Mlockall(unix.MCL_CURRENT) }
