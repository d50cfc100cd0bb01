package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

func agreementCommand(u *ui) *cobra.Command {
	return noun("agreement", "Draft, sign and check what a state and a host agree on",
		"  chancery agreement explain agreement.yaml",
		agreementDraft(u), agreementShow(u), agreementExplain(u), agreementSign(u), agreementCheck(u), agreementSubmit(u))
}

// chosenCharter gives a command the options by which it finds the state's charter. The function returned reads it, and
// returns nil where none was named and none is needed.
func chosenCharter(c *cobra.Command) func(needed bool) (*charter.Charter, error) {
	path := c.Flags().String("charter", "", "the state's charter")
	dir := homeFlag(c)
	return func(needed bool) (*charter.Charter, error) {
		switch {
		case *path != "":
			doc, err := os.ReadFile(*path)
			if err != nil {
				return nil, err
			}
			return charter.Parse(doc)
		case *dir != "":
			h, err := home.Open(*dir, false)
			if err != nil {
				return nil, err
			}
			defer h.Close()
			return h.Charter, nil
		case needed:
			return nil, &failure{err: errors.New("which state's?"), code: exitUsage, hint: "name its charter with --charter charter.yaml, or --home HOME"}
		}
		return nil, nil
	}
}

func agreementDraft(u *ui) *cobra.Command {
	p := agreement.Parties{}
	var signatories []string
	var from, out, amend, rest string
	var quota uint64
	c := &cobra.Command{
		Use: "draft", Short: "Write the draft of an agreement, or of its amendment", Args: cobra.NoArgs,
		Long: "Writes a commented YAML whose articles follow those that states have, with values to start from. Edit the values and\n" +
			"leave the lines where they are: what is still open says " + agreement.Open + ". Both sides then read, explain and\n" +
			"sign the same bytes. With --amend it writes the agreement that follows one, to be edited and signed in the same way.",
		Example: "  chancery agreement draft --with LU --name lu --embassy-key SHA256:… --charter charter.yaml \\\n" +
			"    --signatory anne=anne.pub --signatory paul=paul.pub --out agreement.yaml\n" +
			"  chancery agreement draft --amend agreement.yaml --out agreement-2.yaml",
	}
	state := chosenCharter(c)
	c.Flags().StringVar(&p.HostCode, "with", "", "the host's code, two capital letters")
	c.Flags().StringVar(&p.HostName, "host-name", "", "the host's name")
	c.Flags().StringVar(&p.Template, "template", "room", "how much of a building it is: "+strings.Join(agreement.Templates(), ", "))
	c.Flags().StringVar(&p.Embassy.Name, "name", "", "the embassy's name")
	c.Flags().StringVar(&p.Embassy.Country, "country", "", "the country it stands in (default: the host's code)")
	c.Flags().StringVar(&p.Embassy.Key, "embassy-key", "", "the fingerprint that embassy init printed")
	c.Flags().StringArrayVar(&signatories, "signatory", nil, "NAME=FILE of someone who signs for the host, with their SSH public key; once for each")
	c.Flags().IntVar(&p.Need, "need", 0, "how many signatories must sign (default: all)")
	c.Flags().StringVar(&from, "from", "", "the first day, such as 2026-01-31 (default: today)")
	c.Flags().StringVar(&amend, "amend", "", "the agreement to amend")
	c.Flags().Uint64Var(&quota, "quota", 0, "bytes that the state may store (default: what the template says)")
	c.Flags().StringVar(&rest, "open-as", "", "what to write where something is still to be agreed, such as \"as agreed on 3 March\"")
	c.Flags().StringVar(&out, "out", "", "file to write; it must not exist (default: standard output)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if amend != "" {
			before, err := readAgreement(amend, agreement.Parse)
			if err != nil {
				return err
			}
			next := before.Next()
			doc, err := next.Marshal()
			if err != nil {
				return err
			}
			return writeDraft(u, out, doc)
		}
		for _, o := range []string{"with", "name", "embassy-key"} {
			if !c.Flags().Changed(o) {
				return usageError(c, fmt.Errorf("--%s is missing", o))
			}
		}
		doc, err := draftOf(c, p, signatories, from, state)
		if err != nil {
			return err
		}
		if doc, err = withQuota(doc, quota); err != nil {
			return err
		}
		if rest != "" {
			doc = bytes.ReplaceAll(doc, []byte(agreement.Open), []byte(rest))
			if _, err := agreement.Parse(doc); err != nil {
				return usageError(c, fmt.Errorf("--open-as: %w", err))
			}
		}
		return writeDraft(u, out, doc)
	}
	return c
}

// withQuota sets the quota of a draft; 0 leaves it.
func withQuota(doc []byte, quota uint64) ([]byte, error) {
	a, err := agreement.ParseDraft(doc)
	if err != nil || quota == 0 {
		return doc, err
	}
	was := fmt.Sprintf("quota_bytes: %d\n", a.Limits.QuotaBytes)
	return bytes.Replace(doc, []byte(was), fmt.Appendf(nil, "quota_bytes: %d\n", quota), 1), nil
}

func draftOf(c *cobra.Command, p agreement.Parties, signatories []string, from string, state func(bool) (*charter.Charter, error)) ([]byte, error) {
	for _, s := range signatories {
		name, file, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usageError(c, fmt.Errorf("--signatory %q: want NAME=FILE", s))
		}
		line, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		key, err := charter.ParseSSHPublicKey(line)
		if err != nil {
			return nil, &failure{err: fmt.Errorf("%s: %w", file, err), code: exitUsage, hint: "name the public half that ssh-keygen -t ed25519 wrote"}
		}
		p.Signatories = append(p.Signatories, agreement.Signatory{Name: name, Key: key})
	}
	ch, err := state(true)
	if err != nil {
		return nil, err
	}
	p.State = agreement.State{ID: ch.State.ID, Name: ch.State.Name, Code: ch.State.Code}
	if p.Embassy.Country == "" {
		p.Embassy.Country = p.HostCode
	}
	if p.From = charter.Date(from); from == "" {
		p.From = charter.DateOf(time.Now())
	}
	return agreement.Draft(p)
}

// writeDraft writes a draft to a new file or to standard output, and says what is open in it.
func writeDraft(u *ui, out string, doc []byte) error {
	a, err := agreement.ParseDraft(doc)
	if err != nil {
		return err
	}
	if out == "" {
		if _, err := u.out.Write(doc); err != nil {
			return err
		}
	} else {
		if err := writeNew(out, doc, 0o644); err != nil {
			return err
		}
		if err := u.answer(agreementAnswer(a, time.Now()), func(w io.Writer) {
			fmt.Fprintf(w, "Agreement %d with %s about the embassy %s is drafted in %s.\n", a.Number, a.Host.Code, a.Embassy.Name, out)
		}); err != nil {
			return err
		}
	}
	if open := a.Missing(); len(open) > 0 {
		u.note("still to be agreed: %s", strings.Join(open, ", "))
	}
	return nil
}

// readAgreement reads an agreement, or a draft, and names the file in what is wrong with it.
func readAgreement(path string, parse func([]byte) (*agreement.Agreement, error)) (*agreement.Agreement, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	a, err := parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// agreementJSON is the answer of agreement show and draft.
type agreementJSON struct {
	Number      uint64   `json:"number"`
	Hash        string   `json:"hash"`
	State       string   `json:"state"`
	StateCode   string   `json:"state_code"`
	Host        string   `json:"host"`
	HostCode    string   `json:"host_code"`
	Embassy     string   `json:"embassy"`
	Country     string   `json:"country"`
	Key         string   `json:"key"` // fingerprint
	From        string   `json:"from"`
	Until       string   `json:"until"`
	Phase       string   `json:"phase"`
	Signatories []string `json:"signatories"`
	Need        int      `json:"need"`
	Quota       uint64   `json:"quota_bytes"`
	Rate        uint64   `json:"requests_per_second"`
	Minimum     float64  `json:"minimum_seconds"`
	Cooling     float64  `json:"cooling_off_seconds"`
	Return      float64  `json:"return_seconds"`
	Review      string   `json:"review"`
	Open        []string `json:"open"` // fields still to be agreed
}

func agreementAnswer(a *agreement.Agreement, now time.Time) agreementJSON {
	x := agreementJSON{
		Number: a.Number, Hash: charter.EncodeDigest(a.Hash()), State: a.State.ID.String(), StateCode: a.State.Code,
		Host: a.Host.Name, HostCode: a.Host.Code, Embassy: a.Embassy.Name, Country: a.Embassy.Country, Key: a.Embassy.Key,
		From: string(a.InForce.From), Until: string(a.InForce.Until), Phase: string(a.PhaseAt(now)), Signatories: []string{}, Need: a.Host.Need,
		Quota: a.Limits.QuotaBytes, Rate: a.Limits.RequestsPerSecond, Minimum: a.Retention.Minimum.Duration().Seconds(),
		Cooling: a.Retention.Cooling.Duration().Seconds(), Return: a.Termination.Return.Duration().Seconds(),
		Review: string(a.Review.Next), Open: append([]string{}, a.Missing()...),
	}
	for _, s := range a.Host.Signatories {
		x.Signatories = append(x.Signatories, s.Name)
	}
	return x
}

func agreementShow(u *ui) *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Show an agreement or a draft in short", Args: cobra.ExactArgs(1),
		Example: "  chancery agreement show agreement.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := readAgreement(args[0], agreement.ParseDraft)
			if err != nil {
				return err
			}
			x := agreementAnswer(a, time.Now())
			return u.answer(x, func(w io.Writer) { showAgreement(w, a, &x) })
		},
	}
}

func showAgreement(w io.Writer, a *agreement.Agreement, x *agreementJSON) {
	until := x.Until
	if until == "" {
		until = "amended"
	}
	fmt.Fprintf(w, "%s (%s) at %s (%s)\nagreement   %d, SHA-256 %s\nembassy     %s in %s, key %s\n",
		a.State.Name, x.StateCode, x.Host, x.HostCode, x.Number, x.Hash, x.Embassy, x.Country, x.Key)
	fmt.Fprintf(w, "in force    from %s until %s: %s now, by the file alone\n", x.From, until, x.Phase)
	fmt.Fprintf(w, "host signs  %d of %s\n", x.Need, strings.Join(x.Signatories, ", "))
	fmt.Fprintf(w, "limits      %s, %d requests a second\n", size(int64(x.Quota)), x.Rate)
	fmt.Fprintf(w, "retention   %s at the least, deletions wait %s; %s to take everything back at the end\n",
		a.Retention.Minimum, a.Retention.Cooling, a.Termination.Return)
	if len(x.Open) > 0 {
		fmt.Fprintf(w, "open        %s\n", strings.Join(x.Open, ", "))
	}
}

// articleJSON is one article of the answer of agreement explain.
type articleJSON struct {
	Number   int      `json:"number"`
	Title    string   `json:"title"`
	Terms    []string `json:"terms"` // lines of the document
	Enforced string   `json:"enforced"`
	Recorded string   `json:"recorded"`
	Beyond   string   `json:"beyond"` // what no software can do
	Tests    []string `json:"tests"`
}

func agreementExplain(u *ui) *cobra.Command {
	return &cobra.Command{
		Use: "explain FILE", Short: "Say of each article what the software enforces, records, and cannot do", Args: cobra.ExactArgs(1),
		Long:    "Prints an agreement or a draft article by article: its terms, what the software enforces of them, what it records,\nwhat no software can do, and which tests of the program show what is enforced.",
		Example: "  chancery agreement explain agreement.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := readAgreement(args[0], agreement.ParseDraft)
			if err != nil {
				return err
			}
			list := []articleJSON{}
			for _, x := range agreement.Articles() {
				list = append(list, articleJSON{x.Number, x.Title, a.Terms(x), x.Enforced, x.Recorded, x.Beyond, append([]string{}, x.Tests...)})
			}
			return u.answer(list, func(w io.Writer) {
				for i, x := range list {
					if i > 0 {
						fmt.Fprintln(w)
					}
					explainArticle(w, &x)
				}
			})
		},
	}
}

func explainArticle(w io.Writer, x *articleJSON) {
	fmt.Fprintf(w, "Article %d. %s\n", x.Number, x.Title)
	for _, line := range x.Terms {
		fmt.Fprintf(w, "    %s\n", line)
	}
	enforced := x.Enforced
	if enforced == "" {
		enforced = "nothing"
	}
	wrapped(w, "  enforced: ", enforced)
	wrapped(w, "  recorded: ", x.Recorded)
	wrapped(w, "  it cannot: ", x.Beyond)
	if len(x.Tests) > 0 {
		wrapped(w, "  shown by: ", strings.Join(x.Tests, ", "))
	}
}

// wrapped prints text behind a label in lines of at most 100 characters.
func wrapped(w io.Writer, label, text string) {
	line := bytes.NewBufferString(label)
	length := len(label)
	for i, word := range strings.Fields(text) {
		if i > 0 && length+1+len(word) > 100 {
			line.WriteString("\n    ")
			length = 4
		} else if i > 0 {
			line.WriteByte(' ')
			length++
		}
		line.WriteString(word)
		length += len(word)
	}
	fmt.Fprintln(w, line)
}
