package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

func witnessCommand(u *ui) *cobra.Command {
	return noun("witness", "Run a witness, and name one in the charter",
		"  chancery witness serve --dir W --charter charter.yaml",
		witnessInit(u), witnessServe(u), witnessShow(u), witnessAdd(u), witnessThaw(u))
}

type witnessJSON struct {
	Name     string   `json:"name"`
	Country  string   `json:"country"`
	Cosigner string   `json:"cosigner"`
	VKeys    []string `json:"vkeys"`
	URL      string   `json:"url,omitempty"`
}

// witnessDir gives a command --dir.
func witnessDir(c *cobra.Command) *string {
	dir := c.Flags().String("dir", "", "the witness's folder")
	required(c, "dir")
	return dir
}

func vkeysOf(keys []ledger.WitnessKey) (texts []string) {
	for _, k := range keys {
		texts = append(texts, k.String())
	}
	return texts
}

func witnessInit(u *ui) *cobra.Command {
	var mldsa bool
	c := &cobra.Command{
		Use: "init", Short: "Make a witness's folder and key", Args: cobra.NoArgs,
		Long: "Makes a folder with a witness's key and prints the name and the public keys under which it cosigns (C2SP vkeys).\n" +
			"The state puts them into its charter: chancery witness add. A witness sees sizes and roots of ledgers, no more.",
		Example: "  chancery witness init --dir W",
	}
	dir := witnessDir(c)
	c.Flags().BoolVar(&mldsa, "mldsa", false, "cosign with ML-DSA-44 too, for signatures that must outlive the decade")
	c.RunE = func(*cobra.Command, []string) error {
		f, err := witness.Init(*dir, mldsa)
		if err != nil {
			return err
		}
		vkeys := vkeysOf(f.Keys())
		return u.answer(map[string]any{"cosigner": f.Name, "vkeys": vkeys}, func(w io.Writer) {
			fmt.Fprintln(w, f.Name)
			for _, k := range vkeys {
				fmt.Fprintln(w, k)
			}
		})
	}
	return c
}

type witnessSawJSON struct {
	Origin    string `json:"origin"`
	Size      uint64 `json:"size"`
	Root      string `json:"root"`
	Cosigned  string `json:"cosigned,omitempty"`
	Conflicts int    `json:"conflicts,omitempty"`
}

func witnessShow(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "show", Short: "Show how far a witness saw each ledger", Args: cobra.NoArgs,
		Long: "Shows the newest tree of each log that the witness holds. It may run meanwhile. Where a log signed two trees of\n" +
			"one size, both checkpoints lie in the folder's conflicts: they are evidence against whoever keeps that log.",
		Example: "  chancery witness show --dir W",
	}
	dir := witnessDir(c)
	c.RunE = func(*cobra.Command, []string) error {
		f, err := witness.Load(*dir)
		if err != nil {
			return err
		}
		saw, failed := witness.Saw(*dir, f.Keys())
		list := []witnessSawJSON{}
		for _, t := range saw {
			j := witnessSawJSON{Origin: t.Origin, Size: t.Size, Root: hex.EncodeToString(t.Root[:]), Conflicts: t.Conflicts}
			if !t.Time.IsZero() {
				j.Cosigned = t.Time.Format(time.RFC3339)
			}
			list = append(list, j)
		}
		return errors.Join(u.answer(list, func(w io.Writer) {
			var rows [][]string
			for _, t := range list {
				conflicts := "none"
				if t.Conflicts > 0 {
					conflicts = plural(t.Conflicts, "file")
				}
				rows = append(rows, []string{t.Origin, fmt.Sprint(t.Size), orNever(t.Cosigned), conflicts, t.Root})
			}
			table(w, "LOG SIZE COSIGNED CONFLICTS ROOT", rows)
		}), failed)
	}
	return c
}

func orNever(s string) string {
	if s == "" {
		return "never"
	}
	return s
}

func witnessThaw(u *ui) *cobra.Command {
	var origin string
	c := &cobra.Command{
		Use: "thaw", Short: "Let a stopped witness cosign a log at its next start", Args: cobra.NoArgs,
		Long: "A witness that starts does not know whether its folder is yesterday's, and cosigns nothing of a log until the\n" +
			"other witnesses told it how far they saw it. Where they cannot be asked, a person who is sure that the folder was\n" +
			"not put back from a copy decides instead, for one start. If it was put back, the witness may contradict itself.",
		Example: "  chancery witness thaw --dir W --origin chancery.dev/ledger/…",
	}
	dir := witnessDir(c)
	c.Flags().StringVar(&origin, "origin", "", "the log's origin, as witness show prints it")
	required(c, "origin")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if origin == "" || strings.ContainsAny(origin, "\n+ ") {
			return usageError(c, fmt.Errorf("%q is not an origin", origin))
		}
		f, err := witness.Load(*dir)
		if err != nil {
			return err
		}
		unlock, err := f.Lock()
		if errors.Is(err, durable.ErrLocked) {
			err = hinted(err, "end the witness's server first; then thaw, and start it again")
		}
		if err != nil {
			return err
		}
		defer unlock()
		if err := f.AllowThaw(origin); err != nil {
			return err
		}
		return u.answer(map[string]string{"origin": origin}, func(w io.Writer) {
			fmt.Fprintf(w, "At its next start, and only then, this witness cosigns %s without asking the others.\n", printable(origin))
		})
	}
	return c
}

func witnessAdd(u *ui) *cobra.Command {
	var name, country, vkey, mldsa, address string
	c := &cobra.Command{
		Use: "add", Short: "Take a witness into the charter", Args: cobra.NoArgs,
		Long: "Puts a witness into the next charter and tells every embassy. Its country is whose roof it is under: witnesses\n" +
			"and embassies of one country count as one. The keys are those that witness init prints, or those of any witness\n" +
			"that speaks C2SP tlog-witness; the address is where checkpoints are submitted to it.",
		Example: "  chancery witness add --home HOME --name fi --country FI --vkey VKEY --url http://127.0.0.1:7480",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "its name: small letters, digits, hyphens")
	c.Flags().StringVar(&country, "country", "", "the country it is in, two capital letters")
	c.Flags().StringVar(&vkey, "vkey", "", "its Ed25519 key, as C2SP vkey")
	c.Flags().StringVar(&mldsa, "mldsa-vkey", "", "its ML-DSA-44 key; then only both cosignatures together count")
	c.Flags().StringVar(&address, "url", "", "where checkpoints are submitted to it, http:// or https://")
	required(c, "name", "country", "vkey")
	c.RunE = func(c *cobra.Command, _ []string) error {
		x, err := witnessOf(name, country, vkey, mldsa, address)
		if err != nil {
			return usageError(c, err)
		}
		keys, err := x.Keys()
		if err != nil {
			return usageError(c, err)
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		if err := conn.adoptWitness(x); err != nil {
			return err
		}
		conn.tellAll(c.Context(), u)
		a := witnessJSON{Name: name, Country: country, Cosigner: x.Cosigner, VKeys: vkeysOf(keys), URL: address}
		return u.answer(a, func(w io.Writer) {
			ch := conn.home.Charter
			fmt.Fprintf(w, "%s (%s) is a witness in charter %d: %d of %s must cosign, %d may lie.\n",
				name, country, ch.Number, ch.Witnessing.Need, plural(len(ch.Witnessing.Groups), "country"), ch.Witnessing.Faulty)
		})
	}
	return c
}

// witnessOf puts together what the charter says of a witness.
func witnessOf(name, country, vkey, mldsa, address string) (charter.Witness, error) {
	x := charter.Witness{Name: name, Country: country, URL: address}
	if err := checkName(name); err != nil {
		return x, err
	}
	if len(country) != 2 || strings.Trim(country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return x, fmt.Errorf("%q is not a country: two capital letters", country)
	}
	if address != "" {
		a, err := url.Parse(address)
		if err != nil || a.Scheme != "https" && a.Scheme != "http" || a.Host == "" || strings.HasSuffix(a.Path, "/") || a.RawQuery != "" || a.User != nil {
			return x, fmt.Errorf("--url: %q is not an address: want http://HOST:PORT or https://HOST:PORT, with no slash at the end", address)
		}
	}
	first, key, err := openVKey(vkey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return x, errors.Join(errors.New("--vkey: not the vkey of an Ed25519 witness"), err)
	}
	x.Cosigner, x.Key = first.Name(), charter.EncodeKey(ed25519.PublicKey(key))
	if mldsa == "" {
		return x, nil
	}
	second, key, err := openVKey(mldsa)
	if err != nil || len(key) != charter.MLDSAKeySize {
		return x, errors.Join(errors.New("--mldsa-vkey: not the vkey of an ML-DSA-44 witness"), err)
	}
	if second.Name() != first.Name() {
		return x, fmt.Errorf("--mldsa-vkey: %s is another witness than %s", second.Name(), first.Name())
	}
	x.MLDSAKey = base64.StdEncoding.EncodeToString(key)
	return x, nil
}

// openVKey checks a witness's vkey and takes the bare public key out of it.
func openVKey(vkey string) (k ledger.WitnessKey, key []byte, err error) {
	if k, err = ledger.ParseWitnessKey(vkey); err != nil {
		return k, nil, err
	}
	data, err := base64.StdEncoding.DecodeString(vkey[strings.LastIndexByte(k.String()[:len(k.Name())+10], '+')+1:])
	if err != nil || len(data) < 2 {
		return k, nil, errors.Join(errors.New("not base64"), err)
	}
	return k, data[1:], nil
}

// openLogVKey reads the note verifier key of a log that is no embassy's: its name is the log's origin.
func openLogVKey(vkey string) (ledger.Log, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return ledger.Log{}, fmt.Errorf("%q is not the verifier key of a log: %w", vkey, err)
	}
	_, key, err := openVKey(vkey)
	if err != nil {
		return ledger.Log{}, fmt.Errorf("%q is not the verifier key of a log: %w", vkey, err)
	}
	return ledger.Log{Origin: v.Name(), Key: ed25519.PublicKey(key)}, nil
}

// adoptWitness puts a witness into the next charter, or its new address where it is there already.
func (c *connection) adoptWitness(x charter.Witness) error {
	next, err := c.home.Next()
	if err != nil {
		return err
	}
	old, there := c.home.Charter.WitnessByName(x.Name)
	switch {
	case there && old == x:
		return nil
	case there && (old.Key != x.Key || old.MLDSAKey != x.MLDSAKey || old.Cosigner != x.Cosigner || old.Country != x.Country):
		return &failure{
			err: fmt.Errorf("the charter has a witness %s with another key or country", x.Name), code: exitRefused,
			hint: "give the new witness a name of its own: --name …",
		}
	case there:
		for i := range next.Witnesses {
			if next.Witnesses[i].Name == x.Name {
				next.Witnesses[i] = x
			}
		}
	default:
		next.Witnesses = append(next.Witnesses, x)
		next.Witnessing = next.GrownWitnessing()
	}
	if _, err := c.home.Enlist(&next); err != nil { // a home made before there were witnesses
		return err
	}
	return c.home.Adopt(next)
}
