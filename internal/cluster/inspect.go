package cluster

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxConfigFile is the most that is read of a configuration file.
const maxConfigFile = 1 << 20

// Inspect reads the facts of a cluster over ordinary connections, one to each of its databases. What the user may not
// read is named in [Facts.Unread] and does not fail it; a lost connection does.
func Inspect(ctx context.Context, conninfo string) (Facts, error) {
	config, err := parse(conninfo)
	if err != nil {
		return Facts{}, err
	}
	c, err := dial(ctx, config, false)
	if err != nil {
		return Facts{}, fmt.Errorf("inspect: %w", err)
	}
	defer c.Close()
	i := &inspection{Conn: c}
	if err := i.run(ctx); err != nil {
		return Facts{}, fmt.Errorf("inspect: %w", err)
	}
	return i.facts, nil
}

type inspection struct {
	*Conn
	major int
	facts Facts
}

func (i *inspection) run(ctx context.Context) error {
	steps := []func(context.Context) error{i.server, i.databases, i.tablespaces, i.versions, i.config, i.each}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	f := &i.facts
	slices.SortFunc(f.Unread, func(a, b Unread) int { return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Why, b.Why)) })
	if f.Unread == nil {
		f.Unread = []Unread{}
	}
	return nil
}

// read runs a query that makes one JSON text. What the server refuses is noted; what breaks is returned.
func (i *inspection) read(ctx context.Context, what, query string, into any) error {
	return i.note(what, i.json(ctx, query, into))
}

// note turns a refusal into a thing unread.
func (i *inspection) note(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrProtocol) || errors.Is(err, ErrConnection) || stateOf(err) == "" {
		return err
	}
	i.facts.Unread = append(i.facts.Unread, Unread{what, err.Error()})
	return nil
}

func (c *Conn) json(ctx context.Context, query string, into any) error {
	r, err := c.queryOne(ctx, "SELECT coalesce(json_agg(t), '[]') AS json FROM ("+query+") t", "json")
	if err != nil {
		return err
	}
	if err := decode(r["json"], into); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

func (i *inspection) server(ctx context.Context) error {
	f := &i.facts
	r, err := i.queryOne(ctx, "SELECT system_identifier AS system, current_setting('server_version_num') AS version, "+
		"current_setting('server_version') AS text, current_setting('data_directory', true) AS folder, "+
		"current_setting('synchronous_standby_names') AS names, current_setting('synchronous_commit') AS sync "+
		"FROM pg_control_system()", "system", "version")
	if stateOf(err) == statePrivilege { // the folder is not for everyone to know
		i.facts.Unread = append(i.facts.Unread, Unread{"data_directory", err.Error()})
		r, err = i.queryOne(ctx, "SELECT system_identifier AS system, current_setting('server_version_num') AS version, "+
			"current_setting('server_version') AS text, current_setting('synchronous_standby_names') AS names, "+
			"current_setting('synchronous_commit') AS sync FROM pg_control_system()", "system", "version")
	}
	if err != nil {
		return err
	}
	if f.System, err = strconv.ParseUint(r["system"], 10, 64); err != nil {
		return fmt.Errorf("%w: system %q", ErrProtocol, r["system"])
	}
	if f.Version, err = strconv.Atoi(r["version"]); err != nil {
		return fmt.Errorf("%w: version %q", ErrProtocol, r["version"])
	}
	if i.major = f.Version / 10000; i.major < MinVersion || i.major > MaxVersion {
		return fmt.Errorf("%w: %d, not %d to %d", ErrVersion, i.major, MinVersion, MaxVersion)
	}
	f.VersionText, f.DataDirectory = r["text"], r["folder"]
	f.SynchronousStandbyNames, f.SynchronousCommit = r["names"], r["sync"]
	f.Slots, err = i.slots(ctx)
	return err
}

// slots reads the view of all slots.
func (c *Conn) slots(ctx context.Context) (slots []Slot, err error) {
	r, err := c.queryOne(ctx, "SHOW server_version_num", "server_version_num")
	if err != nil {
		return nil, err
	}
	invalidated := "NULL"
	if v, _ := strconv.Atoi(r["server_version_num"]); v >= 170000 {
		invalidated = "invalidation_reason"
	}
	err = c.json(ctx, "SELECT slot_name AS name, slot_type AS kind, database, plugin, temporary, active, restart_lsn, wal_status, "+
		"safe_wal_size, "+invalidated+" AS invalidated FROM pg_replication_slots ORDER BY slot_name", &slots)
	return slots, err
}

func (i *inspection) databases(ctx context.Context) error {
	locale, rules := "daticulocale", "NULL"
	if i.major >= 16 {
		rules = "daticurules"
	}
	if i.major >= 17 {
		locale = "datlocale"
	}
	return i.json(ctx, "SELECT d.oid::bigint AS oid, datname AS name, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding, "+
		"datistemplate AS template, datallowconn AS connectable, s.spcname AS tablespace, "+provider("datlocprovider")+" AS locale_provider, "+
		"datcollate AS collate, datctype AS ctype, "+locale+" AS locale, "+rules+" AS icu_rules, "+
		"datcollversion AS collation_version, pg_database_collation_actual_version(d.oid) AS collation_actual "+
		"FROM pg_database d JOIN pg_tablespace s ON s.oid = dattablespace ORDER BY datname", &i.facts.Databases)
}

func provider(column string) string {
	return "CASE " + column + " WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' WHEN 'd' THEN 'default' ELSE " + column + "::text END"
}

func (i *inspection) tablespaces(ctx context.Context) error {
	return i.json(ctx, "SELECT oid::bigint AS oid, spcname AS name, pg_tablespace_location(oid) AS path FROM pg_tablespace "+
		"WHERE oid >= 16384 ORDER BY oid", &i.facts.Tablespaces)
}

func (i *inspection) versions(ctx context.Context) error {
	return i.json(ctx, "SELECT DISTINCT "+provider("collprovider")+" AS provider, collversion AS version, "+
		"pg_collation_actual_version(oid) AS actual FROM pg_collation WHERE collversion IS NOT NULL ORDER BY 1, 2, 3", &i.facts.LocaleVersions)
}

// config finds the files outside the data directory that the server reads, and what is in them.
func (i *inspection) config(ctx context.Context) error {
	i.facts.ConfigFiles = []ConfigFile{}
	queries := []string{
		"SELECT setting AS path FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> ''",
		"SELECT DISTINCT sourcefile AS path FROM pg_file_settings WHERE sourcefile IS NOT NULL",
	}
	if i.major >= 16 {
		queries = append(queries, "SELECT DISTINCT file_name AS path FROM pg_hba_file_rules WHERE file_name IS NOT NULL",
			"SELECT DISTINCT file_name AS path FROM pg_ident_file_mappings WHERE file_name IS NOT NULL")
	}
	var paths []string
	for _, q := range queries {
		var found []struct{ Path string }
		_, from, _ := strings.Cut(q, " FROM ")
		view, _, _ := strings.Cut(from, " ")
		if err := i.read(ctx, view, q, &found); err != nil {
			return err
		}
		if view == "pg_settings" && len(found) == 0 {
			i.facts.Unread = append(i.facts.Unread, Unread{"config_file, hba_file, ident_file", "the user may not know where they lie (pg_read_all_settings)"})
		}
		for _, f := range found {
			paths = append(paths, f.Path)
		}
	}
	slices.Sort(paths)
	for _, p := range slices.Compact(paths) {
		if !i.outside(p) {
			continue
		}
		f, err := i.configFile(ctx, p)
		if err != nil {
			return err
		}
		i.facts.ConfigFiles = append(i.facts.ConfigFiles, f)
	}
	return nil
}

// outside says whether a file lies outside the data directory. A folder that is not known counts as outside: one file
// more than needed does no harm.
func (i *inspection) outside(path string) bool {
	rel, err := filepath.Rel(i.facts.DataDirectory, path)
	return i.facts.DataDirectory == "" || err != nil || rel == ".." || strings.HasPrefix(rel, "../")
}

func (i *inspection) configFile(ctx context.Context, path string) (ConfigFile, error) {
	f := ConfigFile{Path: path}
	r, err := i.queryOne(ctx, fmt.Sprintf("SELECT encode(pg_read_binary_file(%s, 0, %d), 'base64') AS content", quoteText(path), maxConfigFile+1))
	if err != nil {
		if stateOf(err) == "" {
			return f, err
		}
		f.Unread = err.Error()
		return f, nil
	}
	content, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(r["content"], "\n", ""))
	if err != nil {
		return f, fmt.Errorf("%w: %s: %w", ErrProtocol, path, err)
	}
	if len(content) > maxConfigFile {
		f.Unread = "larger than 1 MiB"
		return f, nil
	}
	f.Content = content
	return f, nil
}

// quoteText quotes a text for SQL whatever standard_conforming_strings says.
func quoteText(s string) string { return "E" + quoteLiteral(strings.ReplaceAll(s, `\`, `\\`)) }

// each reads what can only be read within a database.
func (i *inspection) each(ctx context.Context) error {
	for n := range i.facts.Databases {
		d := &i.facts.Databases[n]
		d.Collations, d.Extensions, d.Unlogged = []Collation{}, []Extension{}, []UnloggedOf{}
		if !d.Connectable {
			continue
		}
		if err := i.note("database "+d.Name, i.within(ctx, d)); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) within(ctx context.Context, d *Database) error {
	config := i.Conn.config.Copy()
	config.Database = d.Name
	c, err := dial(ctx, config, false)
	if err != nil {
		return err
	}
	defer c.Close()
	locale := "colliculocale"
	if i.major >= 17 {
		locale = "colllocale"
	}
	err = c.json(ctx, "SELECT nspname AS schema, collname AS name, "+provider("collprovider")+" AS provider, coalesce("+locale+", collcollate) AS locale, "+
		"collversion AS version, pg_collation_actual_version(c.oid) AS actual "+
		"FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace WHERE c.oid >= 16384 "+
		"OR c.oid IN (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384) "+
		"OR c.oid IN (SELECT unnest(indcollation) FROM pg_index WHERE indexrelid >= 16384) "+
		`ORDER BY nspname COLLATE "C", collname COLLATE "C", collencoding`, &d.Collations)
	if err != nil {
		return err
	}
	err = c.json(ctx, "SELECT extname AS name, extversion AS version, nspname AS schema FROM pg_extension "+
		`JOIN pg_namespace n ON n.oid = extnamespace ORDER BY extname COLLATE "C"`, &d.Extensions)
	if err != nil {
		return err
	}
	return c.json(ctx, "SELECT nspname AS schema, relname AS name, CASE relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' "+
		"WHEN 'S' THEN 'sequence' ELSE 'other' END AS kind FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "+
		`WHERE relpersistence = 'u' ORDER BY nspname COLLATE "C", relname COLLATE "C", relkind`, &d.Unlogged)
}
