package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

func embassyCommand(u *ui) *cobra.Command {
	return noun("embassy", "Run an embassy, and accredit one",
		"  chancery embassy serve --dir E --listen 127.0.0.1:7401",
		embassyInit(u), embassyAdmit(u), embassyServe(u), embassyAccredit(u), embassyRenewed(u), embassyList(u))
}

func embassyInit(u *ui) *cobra.Command {
	var dir, name, country string
	c := &cobra.Command{
		Use: "init", Short: "Make an embassy's folder and keys, at the host", Args: cobra.NoArgs,
		Long: "Makes an embassy's folder and key and prints the key's fingerprint, by which states will know it; and a second key,\n" +
			"ML-DSA-44, by which it also cosigns ledgers for states whose charter names it. Nothing in the folder opens\n" +
			"anything, and it serves nobody until a state is let in under an agreement: chancery embassy admit.",
		Example: "  chancery embassy init --dir E --name lu --country LU",
	}
	c.Flags().StringVar(&dir, "dir", "", "the embassy's folder; it must not exist or be empty")
	c.Flags().StringVar(&name, "name", "", "its name: small letters, digits, hyphens")
	c.Flags().StringVar(&country, "country", "", "the host state's code, two capital letters")
	required(c, "dir", "name", "country")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkSite(dir, name, country); err != nil {
			return usageError(c, err)
		}
		fingerprint, err := embassy.Establish(dir, name, country)
		if err != nil {
			return err
		}
		keys, err := embassy.Keys(dir)
		if err != nil {
			return err
		}
		a := map[string]any{"name": name, "country": country, "fingerprint": fingerprint, "vkeys": vkeysOf(keys)}
		return u.answer(a, func(w io.Writer) { fmt.Fprintln(w, fingerprint) })
	}
	return c
}

// checkSite checks what a person wrote, before anything is touched.
func checkSite(dir, name, country string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(country) != 2 || strings.Trim(country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return fmt.Errorf("%q is not a country: two capital letters", country)
	}
	if _, err := os.Stat(filepath.Join(dir, "embassy.yaml")); err == nil {
		return fmt.Errorf("%s is an embassy already", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "lock")); err == nil {
		return nil // what an interrupted init left
	}
	return checkTarget(dir)
}

func embassyServe(u *ui) *cobra.Command {
	var dir, listen string
	var quota, reserve int64
	var scrub time.Duration
	c := &cobra.Command{
		Use: "serve", Short: "Serve an embassy until interrupted", Args: cobra.NoArgs,
		Long: "Answers home, and custodians who recover, over TLS 1.3. Both ends are known by their keys, so no certificate is\n" +
			"needed. Says where it serves and the key's fingerprint, and logs to standard error. It may be ended at any moment:\n" +
			"what it acknowledged is on its disk.",
		Example: "  chancery embassy serve --dir E --listen 127.0.0.1:7401",
	}
	c.Flags().StringVar(&dir, "dir", "", "the embassy's folder")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:7401", "address to listen at; port 0 takes a free one")
	c.Flags().Int64Var(&quota, "quota", 0, "bytes that each state may store; 0 is without limit")
	c.Flags().Int64Var(&reserve, "reserve", 0, "bytes of the disk to leave free (default 64 MiB)")
	c.Flags().DurationVar(&scrub, "scrub-every", 30*24*time.Hour, "how often it reads every object of its own disk")
	required(c, "dir")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if scrub < time.Second {
			return usageError(c, fmt.Errorf("--scrub-every %s: at least a second", scrub))
		}
		log := slog.New(slog.NewTextHandler(u.err, nil))
		s, err := embassy.Open(dir, embassy.Options{Log: log, Quota: quota, Reserve: reserve, ScrubEvery: scrub, Version: version})
		if err != nil {
			return err
		}
		defer s.Close()
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			return hinted(err, "another address: --listen 127.0.0.1:0")
		}
		line := map[string]any{"url": "https://" + ln.Addr().String(), "fingerprint": s.Fingerprint(), "vkeys": vkeysOf(s.Keys())}
		if u.json {
			b, err := json.Marshal(line)
			if err != nil {
				return err
			}
			fmt.Fprintf(u.out, "%s\n", b)
		} else {
			fmt.Fprintf(u.out, "serving at %s with key %s\n", line["url"], line["fingerprint"])
		}
		return s.Serve(c.Context(), ln)
	}
	return c
}

func embassyAccredit(u *ui) *cobra.Command {
	var name, address, fingerprint string
	var mldsa bool
	c := &cobra.Command{
		Use: "accredit", Short: "Take an embassy into the charter", Args: cobra.NoArgs,
		Long: "Asks whoever answers at the address for the embassy's key, compares it with the fingerprint that the embassy's\n" +
			"people gave you, and puts the embassy into the next charter, into the kits, and tells every embassy. With it goes\n" +
			"the ML-DSA-44 key that the embassy tells: then only its cosignatures by both keys count. An embassy that has moved\n" +
			"is accredited again, at its new address, and one whose ML-DSA-44 key the charter lacks, where it is.",
		Example: "  chancery embassy accredit --home HOME --name lu --url https://127.0.0.1:7401 --key SHA256:…",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "the embassy's name")
	c.Flags().StringVar(&address, "url", "", "its address, https://HOST:PORT")
	c.Flags().StringVar(&fingerprint, "key", "", "the fingerprint that embassy init printed")
	c.Flags().BoolVar(&mldsa, "mldsa", true, "take its ML-DSA-44 key into the charter too")
	required(c, "name", "url", "key")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkAddress(address); err != nil {
			return usageError(c, fmt.Errorf("--url: %w", err))
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		e, err := meet(c.Context(), conn.home.Charter.State.ID, name, address, fingerprint)
		if err != nil {
			return err
		}
		if !mldsa {
			e.MLDSAKey = ""
		}
		if err := conn.adopt(u, e); err != nil {
			return err
		}
		if err := conn.tellCharter(c.Context(), e); err != nil {
			return err
		}
		conn.tellAll(c.Context(), u)
		if err := u.answer(embassyAnswer(&e), func(w io.Writer) {
			fmt.Fprintf(w, "%s (%s) is accredited in charter %d. The kits under %s/kits are renewed: hand them out again.\n",
				e.Name, e.Country, conn.home.Charter.Number, *dir)
		}); err != nil {
			return err
		}
		return conn.vouch(c.Context())
	}
	return c
}

// checkAddress checks the form of an embassy's address.
func checkAddress(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q is not an address: want https://HOST:PORT", text)
	}
	return nil
}

// meet asks an address who it is, and holds the answer against the fingerprint.
func meet(ctx context.Context, state charter.StateID, name, address, fingerprint string) (charter.Embassy, error) {
	who, err := embassy.Identify(ctx, address)
	if errors.Is(err, embassy.ErrUnreachable) {
		err = hinted(err, "ask the embassy's people whether it serves there: chancery embassy serve --dir E --listen HOST:PORT")
	}
	if err != nil {
		return charter.Embassy{}, err
	}
	if got := charter.Fingerprint(who.Key); got != fingerprint {
		return charter.Embassy{}, fmt.Errorf("%s: %w: it is %s, not %s", address, embassy.ErrWrongKey, got, fingerprint)
	}
	if who.Name != name {
		return charter.Embassy{}, &failure{
			err: fmt.Errorf("%s calls itself %s, not %s", address, who.Name, name), code: exitRefused, hint: "--name " + who.Name,
		}
	}
	return charter.Embassy{
		Name: name, Country: who.Country, ID: charter.EmbassyIDOf(who.Key), Key: charter.EncodeKey(who.Key),
		MLDSAKey: charter.EncodeKey(who.MLDSAKey), URLs: []string{address}, Origin: ledger.Origin(state, who.Key),
	}, nil
}

// adopt puts an embassy into the next charter, or its new address and ML-DSA-44 key where it is there already.
func (c *connection) adopt(u *ui, e charter.Embassy) error {
	next, err := c.home.Next()
	if err != nil {
		return err
	}
	if next.Version < charter.Version && e.MLDSAKey != "" {
		u.note("The charter is of version %d, which has no place for the ML-DSA-44 key of %s: it cosigns with Ed25519. "+
			"chancery charter propose makes a newer one; then accredit %s again.", next.Version, e.Name, e.Name)
		e.MLDSAKey = ""
	}
	_, force := c.home.Charter.EmbassyByName(e.Name)
	old, there := next.EmbassyByName(e.Name) // in force, or proposed
	switch {
	case there && old.ID != e.ID:
		return &failure{
			err: fmt.Errorf("the charter has an embassy %s with another key", e.Name), code: exitRefused,
			hint: "give the new embassy a name of its own: chancery embassy init --name …",
		}
	case there && force && slices.Equal(old.URLs, e.URLs) && (e.MLDSAKey == "" || e.MLDSAKey == old.MLDSAKey):
		return nil
	case there:
		i := slices.IndexFunc(next.Embassies, func(x charter.Embassy) bool { return x.ID == e.ID })
		next.Embassies = slices.Clone(next.Embassies)
		next.Embassies[i].URLs = e.URLs
		if e.MLDSAKey != "" {
			next.Embassies[i].MLDSAKey = e.MLDSAKey
		}
	default:
		next.Embassies = append(next.Embassies, e)
		next.Witnessing = next.GrownWitnessing()
	}
	if _, err := c.home.Enlist(&next); err != nil { // a home made before there were witnesses
		return err
	}
	if _, err := next.Policy(); e.MLDSAKey != "" && errors.Is(err, ledger.ErrPolicy) {
		return &failure{err: err, code: exitRefused, hint: "where there are too many ML-DSA-44 keys for one checkpoint, leave this one out: --mldsa=false"}
	}
	return c.home.Adopt(next)
}

type embassyJSON struct {
	Name        string `json:"name"`
	Country     string `json:"country"`
	ID          string `json:"id"`
	URL         string `json:"url"`
	Fingerprint string `json:"fingerprint"`
	MLDSA       bool   `json:"mldsa"`
	Up          *bool  `json:"up,omitempty"`
	Why         string `json:"why,omitempty"`
	Objects     uint64 `json:"objects,omitempty"`
	Bytes       uint64 `json:"bytes,omitempty"`
	FreeBytes   uint64 `json:"free_bytes,omitempty"`
	LedgerSize  uint64 `json:"ledger_size,omitempty"`
	Charter     uint64 `json:"charter,omitempty"`
	Agreement   string `json:"agreement,omitempty"` // where it stands; "none" for an embassy that serves without one

	expiring []expiryJSON // of its agreement
}

func embassyAnswer(e *charter.Embassy) embassyJSON {
	return embassyJSON{
		Name: e.Name, Country: e.Country, ID: e.ID.String(), URL: e.URLs[0],
		Fingerprint: charter.Fingerprint(ed25519.PublicKey(e.PublicKey())), MLDSA: e.MLDSAKey != "",
	}
}

// asked adds what the embassy says of itself now.
func (e *embassyJSON) asked(ctx context.Context, x *embassy.Client) {
	st, err := x.Status(ctx)
	up := err == nil
	e.Up = &up
	if err != nil {
		e.Why = err.Error()
		var x *embassy.Error
		if errors.As(err, &x) {
			e.Why = x.Kind.Error()
		}
		return
	}
	e.Objects, e.Bytes, e.FreeBytes, e.LedgerSize, e.Charter = st.Objects, st.Bytes, st.FreeBytes, st.LedgerSize, st.CharterNumber
	e.expiring = agreementExpiries(e.Name, st.Agreement)
	if st.Agreement != nil {
		e.Agreement = st.Agreement.Phase
	}
}

func embassyList(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the accredited embassies", Args: cobra.NoArgs,
		Example: "  chancery embassy list --home HOME",
	}
	return listing(u, c, "NAME COUNTRY ADDRESS KEY COSIGNS", func(h *home.Home) (list []embassyJSON, err error) {
		for i := range h.Charter.Embassies {
			list = append(list, embassyAnswer(&h.Charter.Embassies[i]))
		}
		return list, nil
	}, func(e embassyJSON) []string {
		keys := "Ed25519"
		if e.MLDSA {
			keys += ", ML-DSA-44"
		}
		return []string{e.Name, e.Country, e.URL, e.Fingerprint, keys}
	})
}
