package home

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Postgres is how a PostgreSQL cluster is reached and protected.
type Postgres struct {
	Conninfo    string `yaml:"conninfo"`              // as libpq reads it, without a password: ~/.pgpass or passfile= has that
	Slot        string `yaml:"slot"`                  // the replication slot at the server
	Synchronous bool   `yaml:"synchronous,omitempty"` // a commit may wait for the embassies
	// Holders is how many embassies hold log on disk before the server is told so; 0 means as many as read the register.
	Holders int `yaml:"holders,omitempty"`
	// Interval is how long log waits at home for more, as a duration; empty is DefaultInterval. Not where synchronous.
	Interval string `yaml:"interval,omitempty"`
	// Databases that belong to the register; empty means all of the cluster. A base backup holds all the same the others,
	// which are reported.
	Databases []string `yaml:"databases,omitempty"`
	// Assertions must hold in a restored cluster.
	Assertions []Assertion `yaml:"assertions,omitempty"`
	// ProofLimit is how long a proof as a whole may take, as a duration; empty is DefaultProofLimit. Then it has failed.
	ProofLimit string `yaml:"proof_limit,omitempty"`
}

// Assertion is a statement about a restored cluster: an SQL query of one row and one column that must be true.
type Assertion struct {
	Name     string `yaml:"name"`
	Database string `yaml:"database"`
	SQL      string `yaml:"sql"`
	// Limit is how long the query may take, as a duration; empty is DefaultAssertionLimit. Then the assertion has failed.
	Limit string `yaml:"limit,omitempty"`
}

// DefaultAssertionLimit is how long an assertion may take that does not say, and DefaultProofLimit a proof as a whole.
const (
	DefaultAssertionLimit = time.Hour
	DefaultProofLimit     = 24 * time.Hour
)

// Within is how long an assertion may take.
func (a *Assertion) Within() (time.Duration, error) {
	return limit("limit", a.Limit, DefaultAssertionLimit)
}

// ProofWithin is how long a proof as a whole may take.
func (p *Postgres) ProofWithin() (time.Duration, error) {
	return limit("proof_limit", p.ProofLimit, DefaultProofLimit)
}

func limit(name, text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > 31*24*time.Hour {
		return 0, fmt.Errorf("%s %q: want a duration from 1s to 744h", name, text)
	}
	return d, nil
}

// DefaultInterval is how long log waits for more where the register does not say.
const DefaultInterval = time.Second

// Wait is how long log waits at home for more.
func (p *Postgres) Wait() (time.Duration, error) {
	if p.Interval == "" {
		return DefaultInterval, nil
	}
	d, err := time.ParseDuration(p.Interval)
	if err != nil || d < 10*time.Millisecond || d > time.Hour {
		return 0, fmt.Errorf("interval %q: want a duration from 10ms to 1h", p.Interval)
	}
	return d, nil
}

var (
	slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	// secretWord finds a password in a connection string of either form. It must not stand in a file that people edit.
	secretWord = regexp.MustCompile(`(?i)(^|[\s?&])(password|sslpassword)\s*=|://[^/@]*:[^/@]*@`)
)

// holdsSecret finds a password, also one whose name an address has in escapes.
func holdsSecret(conninfo string) bool {
	plain, err := url.PathUnescape(conninfo)
	return secretWord.MatchString(conninfo) || err == nil && secretWord.MatchString(plain)
}

// Check tells what a definition of a cluster cannot be.
func (p *Postgres) Check() error {
	switch {
	case p.Conninfo == "" || len(p.Conninfo) > 4095 || strings.ContainsAny(p.Conninfo, "\n\x00"):
		return errors.New("postgres: conninfo: want one line of at most 4095 bytes, such as host=db user=chancery")
	case holdsSecret(p.Conninfo):
		return errors.New("postgres: conninfo holds a password: put it into ~/.pgpass, or a file named by passfile=")
	case !slotName.MatchString(p.Slot):
		return fmt.Errorf("postgres: slot %q: small letters, digits and underscores, at most 63", p.Slot)
	}
	seen := map[string]bool{}
	for _, a := range p.Assertions {
		if a.Name == "" || a.SQL == "" || a.Database == "" || seen[a.Name] {
			return fmt.Errorf("postgres: assertion %q: want a name of its own, a database and sql", a.Name)
		}
		if _, err := a.Within(); err != nil {
			return fmt.Errorf("postgres: assertion %q: %w", a.Name, err)
		}
		seen[a.Name] = true
	}
	_, err := p.Wait()
	_, limit := p.ProofWithin()
	return errors.Join(err, limit)
}

// SlotOf is the replication slot of a register that does not name one.
func SlotOf(register string) string { return "chancery_" + strings.ReplaceAll(register, "-", "_") }
