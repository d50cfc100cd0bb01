// Command chancery runs a state's data embassies: servers in other states that hold the state's registers under its
// own keys. See the README for a first walk, and chancery COMMAND --help for each command.
//
//go:debug fips140=on
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is the program's version; news of each is in NEWS.md.
const version = "0.1.0"

// memoryLimit is what the garbage collector keeps its memory below where it can; buffers are sized to fit in it. Beside it
// the process has its program and 32 MiB of the FIPS module: together they stay below 300 MiB.
const memoryLimit = 232 << 20

func main() {
	noCores()
	hugePages()
	if len(os.Args) > 2 && os.Args[1] == "pg" && os.Args[2] == "wal-fetch" {
		debug.SetTraceback("crash") // a panic exits with 2, which a server takes for the end of its log; a signal it does not
	}
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(memoryLimit)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// noCores keeps secrets out of core files. One byte rather than none: a core that is piped to a program obeys no
// other limit (core(5)).
func noCores() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: 1, Max: 1})
}

// run is the program but for the process around it.
func run(args []string, in *os.File, out, errs *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the process at once
	u := newUI(out, errs)
	root := rootCommand(u)
	root.SetArgs(args)
	root.SetIn(in)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	code := u.fail(err)
	if len(args) > 1 && args[0] == "pg" && args[1] == "wal-fetch" {
		return fetchExit(code, err)
	}
	return code
}

// rootCommand puts the nouns together.
func rootCommand(u *ui) *cobra.Command {
	root := &cobra.Command{
		Use:   "chancery",
		Short: "Runs a state's data embassies",
		Long: "Chancery keeps a state's registers in embassies: servers in other states that hold them under the state's own\n" +
			"keys. No host can read, alter, hold back unnoticed or destroy them.\n\n" +
			"To see it all on a folder of your own, run quickstart. What works at home takes --home HOME or CHANCERY_HOME.\n\n" +
			"Exit codes: 0 done, 1 failed, 2 usage, 3 done in part, 4 not found, 5 refused, 6 damaged or forged, 7 stale or\n" +
			"forked history, 8 too few embassies or custodians, 130 interrupted.",
		Example:       "  chancery quickstart /srv/land",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(u.out)
	root.SetErr(u.err)
	root.SetVersionTemplate("chancery {{.Version}}\n")
	root.PersistentFlags().BoolVar(&u.json, "json", false, "print the answer as JSON; its fields are only ever added to")
	root.PersistentFlags().BoolVarP(&u.quiet, "quiet", "q", false, "no progress")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError(c, err) })
	root.AddCommand(
		quickstartCommand(u),
		stateCommand(u),
		charterCommand(u),
		orderCommand(u),
		custodianCommand(u),
		custodyCommand(u),
		embassyCommand(u),
		agreementCommand(u),
		registerCommand(u),
		backupCommand(u),
		pgCommand(u),
		snapshotCommand(u),
		retentionCommand(u),
		restoreCommand(u),
		recoverCommand(u),
		verifyCommand(u),
		repairCommand(u),
		statusCommand(u),
		auditCommand(u),
		auditorCommand(u),
		agentCommand(u),
		witnessCommand(u),
		ledgerCommand(u),
		meteringCommand(u),
		receiptCommand(u),
		evidenceCommand(u),
		manualCommand(u),
	)
	strictArgs(root)
	return root
}

// strictArgs makes wrong arguments, missing flags and words that are no command usage errors.
func strictArgs(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, given []string) error {
			err := args(c, given)
			if err == nil {
				err = errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups())
			}
			if err != nil {
				return usageError(c, err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strictArgs(sub)
	}
}

func usageError(c *cobra.Command, err error) error {
	if verb, ok := strings.CutPrefix(c.CommandPath(), c.Root().Name()+" "); ok {
		err = fmt.Errorf("%s: %w", verb, err)
	}
	return &failure{err: err, code: exitUsage, hint: c.CommandPath() + " --help"}
}

// noun is a command that only holds verbs.
func noun(use, short, example string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(verbs...)
	return c
}
