package cluster

import (
	"context"
	"errors"
	"fmt"
)

// A RelationFile is the first file of a table, an index or whatever else outlasts a session, is logged and is of one of the
// server's own access methods.
type RelationFile struct {
	Database string `json:"-"`
	Schema   string `json:"schema"` // empty for a database that lets nobody in, of which Path is a file that each has
	Name     string `json:"name"`
	Path     string `json:"path"` // below the data directory; through pg_tblspc where it lies in a tablespace
}

const (
	// relationsAtOnce is how many relations one answer names.
	relationsAtOnce = 5000
	// firstMade is the least number of what is not the server's own. An access method that an extension brings may keep what
	// is in its relations elsewhere, and have no such file.
	firstMade = 16384
)

// RelationFiles tells of the files of all relations of a cluster, over ordinary connections, one to each of its databases.
// Of a database that this user may not enter, which [Inspect] names in its Unread, it tells of one file, unless that lies in a
// tablespace. It fails with what tell fails with.
func RelationFiles(ctx context.Context, conninfo string, tell func(RelationFile) error) error {
	if err := relationFiles(ctx, conninfo, tell); err != nil {
		return fmt.Errorf("the cluster's relations: %w", err)
	}
	return nil
}

func relationFiles(ctx context.Context, conninfo string, tell func(RelationFile) error) error {
	config, err := parse(conninfo)
	if err != nil {
		return err
	}
	c, err := dial(ctx, config, false)
	if err != nil {
		return err
	}
	defer c.Close()
	var databases []struct {
		OID         uint32 `json:"oid"`
		Name        string `json:"name"`
		Connectable bool   `json:"connectable"`
		Plain       bool   `json:"plain"` // in the tablespace pg_default, whose number is 1663 in every version
	}
	err = c.json(ctx, "SELECT oid::bigint AS oid, datname AS name, datallowconn AS connectable, dattablespace = 1663 AS plain FROM pg_database ORDER BY oid", &databases)
	if err != nil {
		return err
	}
	for _, d := range databases {
		entered := false
		if d.Connectable {
			entered, err = relationsOf(ctx, c, d.Name, tell)
		}
		if err == nil && !entered && d.Plain {
			err = tell(RelationFile{Database: d.Name, Path: fmt.Sprintf("base/%d/PG_VERSION", d.OID)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// relationsOf tells of the relations of one database, if the user may enter it.
func relationsOf(ctx context.Context, main *Conn, database string, tell func(RelationFile) error) (entered bool, err error) {
	config := main.config.Copy()
	config.Database = database
	c, err := dial(ctx, config, false)
	if err != nil {
		if stateOf(err) != "" && !errors.Is(err, ErrConnection) {
			return false, nil // it does not let this user in, or is gone
		}
		return false, err
	}
	defer c.Close()
	for after := uint32(0); ; {
		var found []struct {
			OID uint32 `json:"oid"`
			RelationFile
		}
		err := c.json(ctx, fmt.Sprintf("SELECT c.oid::bigint AS oid, nspname AS schema, relname AS name, coalesce(pg_relation_filepath(c.oid), '') AS path "+
			"FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relpersistence = 'p' AND relkind IN ('r', 'i', 'S', 't', 'm') "+
			"AND relam < %d AND c.oid > %d ORDER BY c.oid LIMIT %d", firstMade, after, relationsAtOnce), &found)
		if err != nil {
			return true, err
		}
		for _, r := range found {
			r.Database, after = database, r.OID
			if r.Path == "" { // dropped meanwhile
				continue
			}
			if err := tell(r.RelationFile); err != nil {
				return true, err
			}
		}
		if len(found) < relationsAtOnce {
			return true, nil
		}
	}
}
