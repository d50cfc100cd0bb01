package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// cutJSON is a moment of several registers together.
type cutJSON struct {
	Name     string        `json:"name"`
	Time     time.Time     `json:"time"`
	Width    float64       `json:"width_seconds"` // the positions are at most so far apart
	Parts    []cutPartJSON `json:"registers"`
	Complete bool          `json:"complete"`
}

// cutPartJSON is what a cut says of one register.
type cutPartJSON struct {
	Register string       `json:"register"`
	Snapshot uint64       `json:"snapshot"`
	Timeline wal.Timeline `json:"timeline,omitempty"`
	LSN      wal.LSN      `json:"lsn,omitempty"`
	Down     []string     `json:"embassies_without,omitempty"`
}

func snapshotCut(u *ui) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "cut REGISTER,REGISTER...", Short: "Note a moment of several registers, to bring them back together", Args: cobra.MinimumNArgs(1),
		Long: "Takes the positions of all clusters named at once, waits until the embassies hold their logs up to there, and notes\n" +
			"both under one name at the embassies. Of registers that are files it makes snapshots right after. The answer says how\n" +
			"far apart the positions can be. Each cluster needs a snapshot from before. restore --cut and recover --cut bring all\n" +
			"of it back to that moment.",
		Example: "  chancery snapshot cut land,population --name before-merger --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "what the moment is called (default: cut- and the time)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if name == "" {
			name = time.Now().UTC().Format("cut-20060102-150405")
		}
		if !snapshot.ValidCutName(name) {
			return usageError(c, fmt.Errorf("--name %q: small letters, digits and hyphens, at most 64", name))
		}
		var registers []string
		for _, a := range args {
			registers = append(registers, strings.Split(a, ",")...)
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		a, err := conn.cut(c.Context(), u, name, registers)
		if err != nil {
			return err
		}
		if err := u.answer(a, a.print); err != nil || a.Complete {
			return err
		}
		return &failure{err: errPartial, code: exitPartial}
	}
	return c
}

// cutting is one register while a cut is made.
type cutting struct {
	def      *home.Register
	reg      *register.Register
	stream   *streaming    // of a cluster
	conn     *cluster.Conn // of a cluster
	base     postgres.Base
	snapshot uint64
	at       cluster.Identity
	position []byte
}

func (c *connection) cut(ctx context.Context, u *ui, name string, registers []string) (*cutJSON, error) {
	slices.Sort(registers)
	if len(slices.Compact(slices.Clone(registers))) < len(registers) || len(registers) > snapshot.MaxCutRegisters {
		return nil, &failure{err: errors.New("a register is named twice, or there are too many"), code: exitUsage, hint: "chancery register list --home HOME"}
	}
	var parts []*cutting
	defer func() {
		for _, p := range parts {
			p.end()
		}
	}()
	for _, r := range registers {
		p, err := c.beginCut(ctx, u, r, name)
		if err != nil {
			return nil, fmt.Errorf("cut of %s: %w", r, err)
		}
		parts = append(parts, p)
	}
	taken, width, err := takePositions(ctx, parts)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := p.settle(ctx, c, u); err != nil {
			return nil, fmt.Errorf("cut of %s: %w", p.def.Definition.Name, err)
		}
	}
	return c.noteCut(ctx, name, parts, taken, width)
}

// beginCut opens a register, and of a cluster a connection and a stream. A name that the register knows is refused: the
// registers of one name would not be of one moment.
func (c *connection) beginCut(ctx context.Context, u *ui, register, name string) (*cutting, error) {
	r, reg, err := c.register(register)
	if err != nil {
		return nil, err
	}
	old, err := cutNamed(ctx, reg, c.agent(), name)
	if err == nil && old != nil {
		err = fmt.Errorf("%w: a cut named %s", home.ErrExists, name)
	}
	if err != nil {
		return nil, err
	}
	p := &cutting{def: r, reg: reg}
	if r.Definition.Postgres == nil {
		return p, nil
	}
	head, err := archive.FindHead(ctx, reg, c.agent(), "latest")
	if err != nil {
		return nil, err
	}
	raw, err := archive.Position(reg, head)
	if err == nil {
		p.base, err = postgres.ParseBase(raw)
	}
	if err != nil {
		return nil, err
	}
	p.snapshot = head.Sequence
	s := &streaming{conn: c, u: u, r: r, reg: reg}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	p.stream = s
	if p.conn, err = cluster.Open(ctx, r.Definition.Postgres.Conninfo); err == nil {
		_, err = p.conn.Require(ctx, p.base.System)
	}
	if err != nil {
		p.end()
	}
	return p, err
}

func (p *cutting) end() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
	if p.stream != nil {
		p.stream.end()
		p.stream = nil
	}
}

// takePositions asks all servers at once where they are. Everything is connected before.
func takePositions(ctx context.Context, parts []*cutting) (taken time.Time, width time.Duration, err error) {
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	start := make(chan struct{})
	for i, p := range parts {
		if p.conn == nil {
			continue
		}
		all.Go(func() {
			<-start
			p.at, errs[i] = p.conn.Identify(ctx)
		})
	}
	taken = time.Now()
	close(start)
	all.Wait()
	return taken, time.Since(taken), errors.Join(errs...)
}

// settle waits until the embassies hold what the cut needs, without a hole: a cut that cannot be restored is none.
func (p *cutting) settle(ctx context.Context, c *connection, u *ui) error {
	if p.conn == nil {
		a, err := c.backup(ctx, u, p.def.Definition.Name, nil)
		if err == nil {
			p.snapshot = a.Sequence
		}
		return err
	}
	clock, err := p.stream.covered(ctx, p.at.Timeline, p.at.WriteLSN)
	if err == nil {
		err = postgres.Holds(ctx, p.reg, c.agent(), &p.base, p.at.Timeline, p.at.WriteLSN)
	}
	if err != nil {
		return err
	}
	pos := postgres.Position{
		Kind: postgres.KindLog, System: p.at.System, Timeline: p.at.Timeline, Segment: p.at.SegmentSize,
		Start: p.base.Start, End: p.at.WriteLSN, Clock: clock.UnixNano(),
	}
	p.position, err = pos.Bytes()
	return err
}

// noteCut signs each register's part and stores it at the register's embassies. A cut that a crash leaves in part is
// told by its list of registers.
func (c *connection) noteCut(ctx context.Context, name string, parts []*cutting, taken time.Time, width time.Duration) (*cutJSON, error) {
	a := &cutJSON{Name: name, Time: taken.UTC(), Width: width.Seconds(), Parts: []cutPartJSON{}, Complete: true}
	cut := snapshot.Cut{Version: 1, Name: name, Taken: taken.UnixNano(), Width: width.Nanoseconds()}
	if _, err := rand.Read(cut.ID[:]); err != nil {
		return nil, err
	}
	for _, p := range parts {
		cut.Registers = append(cut.Registers, [16]byte(p.reg.ID))
	}
	slices.SortFunc(cut.Registers, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	for _, p := range parts {
		cut.Snapshot, cut.Position = p.snapshot, p.position
		found, err := archive.FindNotes(ctx, p.reg, c.agent(), snapshot.CutNote, nil)
		if err != nil {
			return nil, err
		}
		note, err := archive.MakeCut(p.reg, c.agent(), found.Last+1, &cut)
		if err != nil {
			return nil, err
		}
		_, down, err := archive.PublishNotes(ctx, p.reg, snapshot.CutNote, map[uint64][]byte{found.Last + 1: note.Bytes()})
		if err != nil {
			return nil, err
		}
		x := cutPartJSON{Register: p.def.Definition.Name, Snapshot: p.snapshot, Timeline: p.at.Timeline, LSN: p.at.WriteLSN}
		for _, d := range down {
			x.Down, a.Complete = append(x.Down, d.Embassy), false
		}
		a.Parts = append(a.Parts, x)
	}
	return a, nil
}

func (a *cutJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s, all positions within %s.\n", a.Name, a.Time.Format(time.RFC3339), time.Duration(a.Width*float64(time.Second)).Round(10*time.Microsecond))
	var rows [][]string
	for _, p := range a.Parts {
		at := "-"
		if p.LSN != 0 {
			at = fmt.Sprintf("%s of timeline %d", p.LSN, p.Timeline)
		}
		rows = append(rows, []string{p.Register, fmt.Sprint(p.Snapshot), at, strings.Join(p.Down, ",")})
	}
	table(w, "REGISTER SNAPSHOT POSITION WITHOUT", rows)
}

// errNoCut means that no cut of that name is known.
var errNoCut = errors.New("no cut of that name")

// cutNamed finds a register's part of the newest cut of a name; nil where there is none. Embassies that do not answer are
// passed over as long as k do.
func cutNamed(ctx context.Context, reg *register.Register, agent *register.Agent, name string) (*snapshot.Cut, error) {
	found, err := archive.FindNotes(ctx, reg, agent, snapshot.CutNote, nil)
	if err != nil {
		return nil, err
	}
	if len(reg.Members)-len(found.Down) < reg.K {
		return nil, fmt.Errorf("%w: which cuts there are", register.ErrTooFew)
	}
	for seq := found.Last; seq > 0; seq-- {
		raw := found.Records[seq]
		if raw == nil {
			continue
		}
		if cut, err := archive.OpenCut(reg, agent, seq, raw); err == nil && cut.Name == name {
			return cut, nil
		}
	}
	return nil, nil
}

// applyCut turns a register's part of a cut into what is to be restored: the snapshot, and of a cluster the moment.
func (f *restoreFlags) applyCut(cut *snapshot.Cut) (string, error) {
	if len(cut.Position) > 0 {
		p, err := postgres.ParsePosition(cut.Position)
		if err != nil {
			return "", err
		}
		f.target.lsn, f.target.timeline = p.End.String(), uint32(p.Timeline)
	}
	return archive.SnapshotName(cut.Snapshot), nil
}

// wholeCut tells which registers of a cut were not brought back.
func wholeCut(cut *snapshot.Cut, done map[[16]byte]bool) error {
	missing := 0
	for _, id := range cut.Registers {
		if !done[id] {
			missing++
		}
	}
	if missing > 0 {
		return &failure{err: fmt.Errorf("cut %s: %d of its %s could not be brought back", cut.Name, missing, plural(len(cut.Registers), "register")), code: exitPartial, hint: "chancery status --home HOME"}
	}
	return nil
}
