package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// bootFlags say how verify proves that a cluster comes back.
type bootFlags struct {
	boot                          bool
	snapshot, scratch, bin, owner string
	limit                         time.Duration
}

func (f *bootFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&f.boot, "boot", false, "cluster: restore it, start a server on it with no network, and look at all of it")
	fl.StringVar(&f.snapshot, "snapshot", "latest", "with --boot: the snapshot to begin with")
	fl.StringVar(&f.scratch, "scratch", "", "with --boot: the folder in which the restored cluster lies meanwhile (default: the system's for temporary files)")
	fl.StringVar(&f.bin, "bin", "", "with --boot: the folder of the server's programs (default: where systems put them, and PATH)")
	fl.DurationVar(&f.limit, "limit", 0, "with --boot: how long it may take, after which it has failed (default: the register's proof_limit, or 24h)")
	fl.StringVar(&f.owner, "owner", "", "with --boot, as root: the user who runs the server (default: postgres)")
}

// check refuses what does not go together.
func (f *bootFlags) check(c *cobra.Command, args []string, data bool, identity string) error {
	for _, n := range []string{"snapshot", "scratch", "bin", "owner", "limit"} {
		if !f.boot && c.Flags().Changed(n) {
			return fmt.Errorf("--%s is for --boot", n)
		}
	}
	switch {
	case !f.boot:
		return nil
	case len(args) != 1 || identity == "" || data:
		return errors.New("--boot takes one register and --identity, and no --data")
	case f.owner != "" && os.Geteuid() != 0:
		return errors.New("--owner is for root; others run the server as themselves")
	case f.limit < 0 || c.Flags().Changed("limit") && f.limit == 0:
		return errors.New("--limit: want a duration such as 12h")
	}
	return nil
}

// bootJSON is what came of a proof.
type bootJSON struct {
	Register string          `json:"register"`
	Proof    uint64          `json:"proof"` // its number
	Proven   bool            `json:"proven"`
	Why      string          `json:"why,omitempty"`
	Snapshot uint64          `json:"snapshot,omitempty"`
	Began    time.Time       `json:"began"`
	Ended    time.Time       `json:"ended"`
	Through  string          `json:"through,omitempty"` // of a cluster: where what came back ends
	Moment   *time.Time      `json:"moment,omitempty"`  // the source's clock there
	Lost     *float64        `json:"rpo_seconds,omitempty"`
	Behind   *int64          `json:"behind_bytes,omitempty"` // that the source had and the embassies did not
	Took     *float64        `json:"rto_seconds,omitempty"`
	Missed   []string        `json:"missed,omitempty"` // of rpo and rto, as the register demands them
	Server   string          `json:"server,omitempty"`
	Checks   []bootCheckJSON `json:"checks"`
	Held     []string        `json:"embassies,omitempty"` // that hold the proof
	Down     []register.Down `json:"embassies_down,omitempty"`
	Log      string          `json:"server_log,omitempty"`
}

// bootCheckJSON is one thing that a proof looked at.
type bootCheckJSON struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

// bootAnswer says what a proof says.
func bootAnswer(register string, number uint64, r *snapshot.ProofResult, def *home.Definition) *bootJSON {
	a := &bootJSON{
		Register: register, Proof: number, Proven: r.Proven(), Why: r.Failed, Snapshot: r.Snapshot, Server: r.Server,
		Began: time.Unix(0, r.Began).UTC(), Ended: time.Unix(0, r.Ended).UTC(), Checks: []bootCheckJSON{},
	}
	if p, err := postgres.ParsePosition(r.Position); err == nil {
		a.Through = fmt.Sprintf("%s of timeline %d", p.End, p.Timeline)
	}
	if r.Moment != 0 {
		t := time.Unix(0, r.Moment).UTC()
		a.Moment = &t
	}
	seconds := func(n int64) *float64 {
		s := time.Duration(n).Seconds()
		return &s
	}
	if r.Lost >= 0 {
		a.Lost = seconds(r.Lost)
	}
	if r.Behind >= 0 {
		a.Behind = &r.Behind
	}
	if r.Took > 0 {
		a.Took = seconds(r.Took)
	}
	a.Missed = missed(r, def)
	for _, c := range r.Checks {
		a.Checks = append(a.Checks, bootCheckJSON{c.Name, c.Outcome.String(), c.Detail})
	}
	if r.More > 0 {
		a.Checks = append(a.Checks, bootCheckJSON{fmt.Sprintf("%d more", r.More), snapshot.CheckHeld.String(), ""})
	}
	return a
}

// missed names those of a register's demands that a proof measured worse.
func missed(r *snapshot.ProofResult, def *home.Definition) []string {
	var out []string
	if rpo, err := time.ParseDuration(def.RPO); err == nil && rpo > 0 && r.Lost > int64(rpo) {
		out = append(out, "rpo")
	}
	if rto, err := time.ParseDuration(def.RTO); err == nil && rto > 0 && r.Took > int64(rto) {
		out = append(out, "rto")
	}
	return out
}

func (a *bootJSON) print(w io.Writer) {
	if a.Proven {
		fmt.Fprintf(w, "%s came back whole: snapshot %d and its log up to %s.\n", a.Register, a.Snapshot, a.Through)
	} else {
		fmt.Fprintf(w, "%s did NOT come back as it was.\n", a.Register)
	}
	if a.Lost != nil {
		fmt.Fprintf(w, "Lost, had its server gone when this began: %s (RPO).\n", brieflySeconds(*a.Lost))
	}
	if a.Took != nil {
		fmt.Fprintf(w, "Until the server served: %s (RTO).\n", brieflySeconds(*a.Took))
	}
	for _, m := range a.Missed {
		fmt.Fprintf(w, "THAT IS OVER ITS %s.\n", strings.ToUpper(m))
	}
	var rows [][]string
	for _, c := range a.Checks {
		rows = append(rows, []string{c.Name, c.Outcome, c.Detail})
	}
	table(w, "CHECK OUTCOME WHAT", rows)
}

func brieflySeconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

// run proves that a cluster comes back, or that it does not, and has the embassies keep what came of it.
func (f *bootFlags) run(c *cobra.Command, u *ui, dir, register, identity string) error {
	began := time.Now()
	conn, err := connect(dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	r, reg, err := conn.clusterOf(register)
	if err != nil {
		return err
	}
	t := &trial{conn: conn, u: u, flags: f, r: r, reg: reg, identity: identity}
	t.result = snapshot.ProofResult{Began: began.UnixNano(), Lost: -1, Behind: -1}
	err = t.run(c.Context(), began)
	if c.Context().Err() != nil || err != nil && !t.counts(err) {
		return err
	}
	t.result.Ended = time.Now().UnixNano()
	if err != nil {
		t.result.Failed = err.Error()
	}
	a, kerr := t.keep(c.Context())
	if a == nil {
		return errors.Join(err, kerr)
	}
	if err := u.answer(a, a.print); err != nil {
		return err
	}
	a.explain(u)
	if err == nil {
		return kerr
	}
	return &failure{
		err: fmt.Errorf("%s: %w", register, errors.Join(err, kerr)), code: exitDamaged,
		hint: strings.TrimPrefix(fmt.Sprintf("%s; chancery verify %s --data --home HOME", prefixed("read ", a.Log), register), "; "),
	}
}

func prefixed(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

// counts tells whether an error means that the register does not come back, or only that nothing could be tried here.
func (t *trial) counts(err error) bool {
	if !t.tried {
		return errors.Is(err, register.ErrDamaged) || errors.Is(err, register.ErrForked)
	}
	for _, no := range []error{
		postgres.ErrPrograms, postgres.ErrSandbox, postgres.ErrProgram, postgres.ErrNotCluster, register.ErrTooFew, postgres.ErrUnproven,
		fs.ErrPermission, syscall.ENOSPC, syscall.EDQUOT,
	} {
		if errors.Is(err, no) {
			return false
		}
	}
	return true
}

// trial is a proof on its way.
type trial struct {
	conn     *connection
	u        *ui
	flags    *bootFlags
	r        *home.Register
	reg      *register.Register
	identity string
	result   snapshot.ProofResult
	tried    bool   // there was something to restore, and a place for it
	log      []byte // of the server
}

func (t *trial) run(ctx context.Context, began time.Time) error {
	o, err := t.options(began)
	if err != nil {
		return err
	}
	if o.Program, err = os.Executable(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if o.Owner, err = ownerNamed(cmp.Or(t.flags.owner, "postgres")); err != nil {
			return &failure{err: err, code: exitUsage, hint: "name the user who is to run the server: --owner USER"}
		}
	}
	source := askSource(ctx, t.r.Definition.Postgres.Conninfo)
	if _, err := os.Stat(t.identity); err != nil {
		return &failure{err: err, code: exitNotFound, hint: "name a reader's private key file: --identity READER.key"}
	}
	reader, err := openOwnReader(ctx, t.conn, t.r.Definition.Name, t.identity)
	if err != nil {
		return err
	}
	defer reader.Close()
	head, err := reader.Find(t.flags.snapshot)
	if err != nil {
		return err
	}
	t.result.Snapshot = head.Sequence
	scratch, err := newScratch(t.flags.scratch, o.Owner)
	if err != nil {
		return &failure{err: err, code: exitUsage, hint: "name a folder that exists, with room for the cluster: --scratch DIR"}
	}
	defer scratch.remove()
	o.Scratch = scratch.dir
	var p archive.Progress
	tell, done := t.teller(&p)
	o.Tell = tell
	t.tried = true
	booted, err := postgres.Boot(ctx, reader, head, o, &p)
	done()
	t.measure(booted, source)
	if err != nil {
		t.log = logOf(o.Scratch)
	}
	return err
}

// options are what the register says of its proof, and the flags.
func (t *trial) options(began time.Time) (o postgres.BootOptions, err error) {
	def := t.r.Definition.Postgres
	o = postgres.BootOptions{Programs: t.flags.bin, Began: began}
	for _, a := range def.Assertions {
		within, err := a.Within()
		if err != nil {
			return o, err
		}
		o.Assertions = append(o.Assertions, postgres.BootAssertion{Name: a.Name, Database: a.Database, SQL: a.SQL, Limit: within})
	}
	within, err := def.ProofWithin()
	o.Limit = cmp.Or(t.flags.limit, within)
	return o, err
}

// teller says what is being done, with the progress of what takes long.
func (t *trial) teller(p *archive.Progress) (tell func(string, ...any), done func()) {
	shown := func() {}
	tell = func(format string, args ...any) {
		shown()
		shown = func() {}
		if t.u.quiet {
			return
		}
		t.u.note(t.r.Definition.Name+": "+format, args...)
		if strings.HasPrefix(format, "restoring") {
			shown = t.u.progress("restore of "+t.r.Definition.Name, p, 0)
		}
	}
	return tell, func() { shown() }
}

// maxServerLog caps what is kept of a server's log.
const maxServerLog = 4 << 20

// logOf is the end of the server's log, or nothing where none ran.
func logOf(scratch string) []byte {
	b, err := os.ReadFile(filepath.Join(scratch, postgres.ServerLog))
	if err != nil {
		return nil
	}
	return b[max(0, len(b)-maxServerLog):]
}

// sourceStand is where a cluster's own server stood.
type sourceStand struct {
	cluster.Identity
	answers bool
}

// sourcePatience is how long a source is waited for: it may be gone for good.
const sourcePatience = 10 * time.Second

func askSource(ctx context.Context, conninfo string) (s sourceStand) {
	ctx, cancel := context.WithTimeout(ctx, sourcePatience)
	defer cancel()
	conn, err := cluster.Open(ctx, conninfo)
	if err != nil {
		return s
	}
	defer conn.Close()
	s.Identity, err = conn.Identify(ctx)
	s.answers = err == nil
	return s
}

// behind is how many bytes of log a source has behind a position; -1 where that cannot be told.
func (s *sourceStand) behind(p *postgres.Position) int64 {
	if !s.answers || s.System != p.System || s.Timeline != p.Timeline {
		return -1
	}
	return max(0, int64(s.WriteLSN)-int64(p.End))
}

// measure puts what a trial found into its result.
func (t *trial) measure(b *postgres.Booted, source sourceStand) {
	t.result.Server, t.result.Checks, t.result.Took, t.result.Position = b.Version, b.Checks, int64(b.Took), b.Position
	if b.Reach == nil {
		return
	}
	reached := postgres.Position{System: b.Base.System, Timeline: b.Reach.Timeline, End: b.Reach.Through}
	t.result.Moment = b.Reach.Clock.UnixNano()
	t.result.Behind = source.behind(&reached)
	t.result.Lost = max(0, t.result.Began-t.result.Moment)
	if t.result.Behind == 0 {
		t.result.Lost = 0
	}
}

// keep signs what came of the trial, keeps it at home, and gives it to the embassies. A crash between the two leaves it at
// home, and the next proof, or repair, brings it to them.
func (t *trial) keep(ctx context.Context) (*bootJSON, error) {
	unlock, err := t.r.LockProofs(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	known, err := t.conn.proofs(ctx, t.r, t.reg)
	if err != nil {
		return nil, err
	}
	number := known.last + 1
	p, err := archive.MakeProof(t.reg, t.conn.agent(), number, &t.result)
	if err != nil {
		return nil, err
	}
	if err := t.r.SaveProof(number, p.Bytes()); err != nil {
		return nil, err
	}
	a := bootAnswer(t.r.Definition.Name, number, &t.result, &t.r.Definition)
	if t.log != nil {
		if a.Log, err = t.r.SaveProofLog(number, t.log); err != nil {
			return nil, err
		}
	}
	known.records[number] = p.Bytes()
	a.Held, a.Down, err = archive.PublishProofs(ctx, t.reg, known.records)
	return a, err
}

// proofsKnown are a register's proofs, those at home and those that embassies showed.
type proofsKnown struct {
	records map[uint64][]byte
	last    uint64
	down    []register.Down
}

// proofs are those of a register; what home did not have it has then.
func (c *connection) proofs(ctx context.Context, r *home.Register, reg *register.Register) (*proofsKnown, error) {
	k := &proofsKnown{}
	var err error
	if k.records, err = r.Proofs(); err != nil {
		return nil, err
	}
	found, err := archive.FindProofs(ctx, reg, c.agent(), k.records)
	if err != nil {
		return nil, err
	}
	for n, raw := range found.Records {
		if err := r.SaveProof(n, raw); err != nil {
			return nil, err
		}
	}
	maps.Copy(k.records, found.Records)
	k.down, k.last = found.Down, found.Last
	if len(k.records) > 0 {
		k.last = max(k.last, slices.Max(slices.Collect(maps.Keys(k.records))))
	}
	return k, nil
}

func (a *bootJSON) explain(u *ui) {
	for _, d := range a.Down {
		u.note("%s: proof %d is not at %s yet: %s", a.Register, a.Proof, d.Embassy, printable(d.Why))
	}
	if a.Log != "" {
		u.note("%s: the server's log is kept in %s", a.Register, a.Log)
	}
}
