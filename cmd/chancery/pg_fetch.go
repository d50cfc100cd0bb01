package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/postgres"
)

func pgFetch(*ui) *cobra.Command {
	var from string
	var end bool
	c := &cobra.Command{
		Use: "wal-fetch FILE PATH", Short: "Bring a recovering server a file of its log: its restore_command", Args: cobra.MaximumNArgs(2),
		Long: "Called by the server, in its data directory. It asks the chancery that restored the cluster, or chancery pg serve,\n" +
			"through a socket there; keys are in that process alone. Its exit codes are those that servers understand:\n\n" +
			"  0    the file is at PATH\n" +
			"  1    the signed index proves that there is no such file: recovery ends\n" +
			"  126  nobody answers\n" +
			"  150  a hole in the log\n" +
			"  151  damaged or forged\n" +
			"  152  whether there is such a file cannot be proven now\n" +
			"  153  too few embassies answer\n" +
			"  154  refused, or anything else\n\n" +
			"From 126 on the server stops instead of opening with data missing; started again, it goes on.",
		Example: "  restore_command = 'chancery pg wal-fetch --from chancery_recovery %f %p'",
	}
	c.Flags().StringVar(&from, "from", postgres.RecoveryFolder, "the folder with the socket")
	c.Flags().BoolVar(&end, "end", false, "say that recovery has ended: the server's recovery_end_command")
	c.RunE = func(c *cobra.Command, args []string) error {
		if end {
			if err := postgres.End(from); err != nil {
				return &failure{err: err, code: postgres.FetchUnserved, hint: unservedHint}
			}
			return nil
		}
		if len(args) != 2 { // a server that calls it wrongly must not take that for the end
			return &failure{err: fmt.Errorf("%w: want FILE and PATH, as the server gives %%f and %%p", errUsage), code: postgres.FetchRefused, hint: "chancery pg wal-fetch --help"}
		}
		code, err := postgres.Fetch(from, args[0], args[1])
		if code == postgres.FetchDone {
			return nil
		}
		hint := "look at what the chancery that hands out the log says: chancery restore, or chancery pg serve"
		switch code {
		case postgres.FetchEnd: // nothing is wrong
			hint = ""
		case postgres.FetchUnserved:
			hint = unservedHint
		}
		return &failure{err: err, code: code, hint: hint}
	}
	return c
}

const unservedHint = "chancery pg serve REGISTER --to DIR --home HOME --identity READER.key (home lost: --kit KIT --identity KEY for each custodian), and start the server again"

// fetchExit keeps every exit code but that of a proven end out of the range that servers take for the end: wrong
// arguments, a broken program, whatever else.
func fetchExit(code int, err error) int {
	var f *failure
	ended := errors.As(err, &f) && f.code == postgres.FetchEnd && errors.Is(f.err, postgres.ErrEnd)
	if code > exitDone && code <= 125 && !ended {
		return postgres.FetchRefused
	}
	return code
}
