package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// refusals remember what was said of files of the log while they were handed out.
type refusals struct {
	mu            sync.Mutex
	last, refused string
}

func (r *refusals) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = text
	if !strings.HasSuffix(text, "handed over") && !strings.Contains(text, ErrEnd.Error()) {
		r.refused = text
	}
}

// where is the last that was said.
func (r *refusals) where() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// why is the last refusal, for the end of a message.
func (r *refusals) why() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == "" {
		return ""
	}
	return "; of its log " + r.refused
}

// verifyFiles holds the files against the server's own manifest, before the server changes them. What a restore writes
// anew is left out, and so is the log, which comes when the server asks for it.
func (b *booting) verifyFiles(ctx context.Context) error {
	const name = "files"
	if b.programs.VerifyBackup == "" {
		b.check(name, snapshot.CheckNotDone, "no pg_verifybackup on this machine")
		return nil
	}
	b.tell("holding the files against the server's manifest")
	args := []string{"--no-parse-wal", "--quiet"}
	anew := append([]string{RecoveryFolder, "postgresql.conf"}, b.restored.Config...)
	if _, err := b.r.ReadFile(ctx, b.head, dataFolder+"/postgresql.conf", maxText); err == nil {
		anew = anew[:1] // it lay in the data directory, and stands in the manifest
	}
	if len(b.restored.Tablespaces) > 0 {
		anew = append(anew, "tablespace_map")
	}
	for _, f := range anew {
		args = append(args, "--ignore="+f)
	}
	code, said, err := b.box.run(ctx, b.programs.VerifyBackup, append(args, b.data())...)
	switch {
	case err != nil:
		return err
	case code != 0:
		b.check(name, snapshot.CheckFailed, "pg_verifybackup: %s", brief(said))
	default:
		b.check(name, snapshot.CheckHeld, "%d files are as the server's manifest has them", b.restored.Files)
	}
	return nil
}

// brief is the beginning of what a program said, in one line.
func brief(said string) string {
	var lines []string
	more := 0
	for line := range strings.Lines(said) {
		if line = strings.Join(strings.Fields(line), " "); line == "" {
			continue
		}
		if len(lines) == 4 {
			more++
			continue
		}
		lines = append(lines, line)
	}
	text := strings.Join(lines, "; ")
	if more > 0 {
		text += fmt.Sprintf("; and %d lines more", more)
	}
	return text
}

// reached asks how far the server replayed, and holds that against how far the log reaches: a server takes a record that
// is no record for the end, and opens with what it has.
func (b *booting) reached(ctx context.Context) error {
	a, err := b.local.Ask(ctx, b.database, "SELECT pg_last_wal_replay_lsn()::text", true)
	if err != nil {
		return fmt.Errorf("how far it replayed: %w", err)
	}
	at, err := wal.ParseLSN(a.Text)
	if err != nil {
		return fmt.Errorf("how far it replayed: %w", err)
	}
	reach, base := b.out.Reach, &b.log.Base
	if at < reach.Through {
		if err := b.whole(ctx, at); err != nil {
			b.check("replay", snapshot.CheckFailed, "%s", err)
			return nil
		}
	}
	if at < base.End {
		b.check("replay", snapshot.CheckFailed, "it ended at %s, before the base backup's own end, %s", at, base.End)
		return nil
	}
	p := Position{
		Kind: KindLog, System: base.System, Timeline: reach.Timeline, Segment: base.Segment,
		Start: base.Start, End: reach.Through, Clock: reach.Clock.UnixNano(),
	}
	if b.out.Position, err = p.Bytes(); err != nil {
		return err
	}
	b.check("replay", snapshot.CheckHeld, "every whole record of the log, the last of which ends at %s", at)
	return nil
}

// whole fails where a whole record begins at a position and ends before the log does: it was not replayed.
func (b *booting) whole(ctx context.Context, at wal.LSN) error {
	size := b.log.Trail.Segment
	segment, err := b.log.View().assemble(ctx, wal.Segment{Timeline: b.out.Reach.Timeline, Number: size.Number(at)})
	if errors.Is(err, ErrEnd) {
		return nil
	}
	if err != nil {
		return err
	}
	if end, ok := size.RecordEnd(segment, at); ok && end <= b.out.Reach.Through {
		return fmt.Errorf("it ended at %s, and the log goes on to %s: the record there is damaged", at, b.out.Reach.Through)
	}
	return nil
}

// look makes the checks of a server that serves. One that fails keeps none of the others from being made.
func (b *booting) look(ctx context.Context) error {
	for _, step := range []func(context.Context) error{b.sorting, b.amcheck, b.assertions} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sorting compares by which versions of libraries text was sorted in the cluster, and is here.
func (b *booting) sorting(ctx context.Context) error {
	const name = "sorting"
	now, err := cluster.Inspect(ctx, b.local.Conninfo(b.database))
	if err != nil {
		return fmt.Errorf("looking at what came back: %w", err)
	}
	b.now = &now
	differ := sortsOtherwise(b.facts, &now)
	if len(differ) == 0 {
		b.check(name, snapshot.CheckHeld, "text is sorted here as it was there")
		return nil
	}
	b.check(name, snapshot.CheckWarned, "indexes over text may be out of order here: REINDEX DATABASE, then ALTER DATABASE or COLLATION … REFRESH "+
		"VERSION, after a restore onto such a machine: %s", strings.Join(differ, "; "))
	return nil
}

// sortsOtherwise names what sorts by another version than when the indexes were made, or than where the backup was taken.
func sortsOtherwise(then, now *cluster.Facts) []string {
	type version struct{ recorded, actual string }
	collect := func(f *cluster.Facts) map[string]version {
		all := map[string]version{}
		for i := range f.Databases {
			d := &f.Databases[i]
			all["database "+d.Name] = version{d.CollationVersion, d.CollationActual}
			for _, c := range d.Collations {
				all[fmt.Sprintf("collation %s.%s of database %s", c.Schema, c.Name, d.Name)] = version{c.Version, c.Actual}
			}
		}
		return all
	}
	before, after := collect(then), collect(now)
	var out []string
	for _, what := range slices.Sorted(maps.Keys(after)) {
		a, old := after[what], before[what]
		switch {
		case a.recorded != "" && a.actual != a.recorded:
			out = append(out, fmt.Sprintf("%s: made with %s, here is %s", what, a.recorded, orNone(a.actual)))
		case old.actual != "" && a.actual != old.actual:
			out = append(out, fmt.Sprintf("%s: %s there, here is %s", what, old.actual, orNone(a.actual)))
		}
	}
	return out
}

func orNone(version string) string {
	if version == "" {
		return "none"
	}
	return version
}

// amcheck has the server read every table and every index, and hold each index against its table.
func (b *booting) amcheck(ctx context.Context) error {
	const name = "amcheck"
	if b.programs.Amcheck == "" {
		return b.amcheckFunctions(ctx)
	}
	b.tell("reading every table and index (pg_amcheck)")
	for _, d := range b.now.Databases { // an old one lacks what pg_amcheck calls
		for _, x := range d.Extensions {
			if x.Name != "amcheck" || !d.Connectable {
				continue
			}
			if err := b.local.Do(ctx, d.Name, "ALTER EXTENSION amcheck UPDATE"); err != nil {
				b.check(name, snapshot.CheckFailed, "database %s: %s", d.Name, err)
				return ctx.Err()
			}
		}
	}
	code, said, err := b.box.run(ctx, b.programs.Amcheck, "--host="+b.local.Folder, fmt.Sprintf("--port=%d", b.local.Port),
		"--username="+b.local.User, "--no-password", "--maintenance-db="+b.database, "--all", "--install-missing", "--heapallindexed", "--jobs=2")
	switch {
	case err != nil:
		return err
	case code == 2:
		b.check(name, snapshot.CheckFailed, "damaged: %s", brief(said))
	case code != 0:
		b.check(name, snapshot.CheckFailed, "pg_amcheck ended with %d: %s", code, brief(said))
	default:
		b.check(name, snapshot.CheckHeld, "every table and index of every database that lets anybody in")
	}
	return nil
}

// What pg_amcheck asks for, where it is not installed. The first gives what is damaged, or nothing; the second fails at the
// first index that is. %s is the extension's schema.
const (
	checkTables = `SELECT string_agg(what, '; ') FROM (
		SELECT format('table %%s, block %%s, offset %%s: %%s', c.oid::regclass, v.blkno, v.offnum, v.msg) AS what
		FROM pg_class c JOIN pg_am a ON a.oid = c.relam, LATERAL %s.verify_heapam(c.oid, on_error_stop => true) v
		WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' LIMIT 4) x`
	checkIndexes = `SELECT left(string_agg(%s.bt_index_check(c.oid, true)::text, ''), 0)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
		WHERE a.amname = 'btree' AND i.indisready AND i.indisvalid AND c.relpersistence <> 't'`
)

// amcheckFunctions calls the functions of the extension, as pg_amcheck does.
func (b *booting) amcheckFunctions(ctx context.Context) error {
	const name = "amcheck"
	b.tell("reading every table and index (amcheck)")
	for _, d := range b.now.Databases {
		if !d.Connectable {
			continue
		}
		damaged, err := b.amcheckIn(ctx, d.Name)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			damaged = err.Error()
		}
		if damaged != "" {
			b.check(name, snapshot.CheckFailed, "database %s: %s", d.Name, damaged)
			return nil
		}
	}
	b.check(name, snapshot.CheckHeld, "every table and index of every database that lets anybody in")
	return nil
}

func (b *booting) amcheckIn(ctx context.Context, database string) (damaged string, err error) {
	if err := b.local.Do(ctx, database, "CREATE EXTENSION IF NOT EXISTS amcheck; ALTER EXTENSION amcheck UPDATE"); err != nil {
		return "", err
	}
	schema, err := b.local.Ask(ctx, database, "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'amcheck'", true)
	if err != nil {
		return "", err
	}
	for _, sql := range []string{checkTables, checkIndexes} {
		a, err := b.local.Ask(ctx, database, fmt.Sprintf(sql, schema.Text), true)
		if err != nil || a.Text != "" {
			return a.Text, err
		}
	}
	return "", nil
}

// assertions asks what the register's owner asserts.
func (b *booting) assertions(ctx context.Context) error {
	for _, x := range b.opts.Assertions {
		name := "assertion " + x.Name
		b.tell("%s", name)
		l := b.local
		l.Limit = x.Limit
		a, err := l.Ask(ctx, x.Database, x.SQL, true)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			b.check(name, snapshot.CheckFailed, "%s", err)
		case !a.Boolean:
			b.check(name, snapshot.CheckFailed, "gave no boolean: write it as a comparison")
		case !a.True():
			b.check(name, snapshot.CheckFailed, "is not true")
		default:
			b.check(name, snapshot.CheckHeld, "")
		}
	}
	return nil
}

// verifyChecksums has every page's checksum looked at, after the server has stopped.
func (b *booting) verifyChecksums(ctx context.Context) error {
	const name = "checksums"
	if b.programs.Checksums == "" {
		b.check(name, snapshot.CheckNotDone, "no pg_checksums on this machine")
		return nil
	}
	b.tell("looking at the checksums of all pages")
	code, said, err := b.box.run(ctx, b.programs.Checksums, "--check", "--pgdata="+b.data())
	switch {
	case err != nil:
		return err
	case strings.Contains(said, "data checksums are not enabled"):
		b.check(name, snapshot.CheckNotDone, "the cluster has none: damage at home goes unseen into each backup; pg_checksums --enable")
	case code != 0:
		b.check(name, snapshot.CheckFailed, "pg_checksums: %s", brief(said))
	default:
		b.check(name, snapshot.CheckHeld, "those of all pages")
	}
	return nil
}
