package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	"chancery.dev/chancery/internal/cluster"
)

// ErrNotSent means that a base backup lacks files that the cluster has. A server passes over what is no file or folder, with
// a notice in whatever language it speaks: a database's folder that was moved to another disk and linked to, for one. What
// is restored from such a backup would lack the database.
var ErrNotSent = errors.New("the server does not send all of the cluster")

// awaited are the first files of relations that were there before a base backup began. Each must come, unless its
// relation is gone or has another file when the backup has ended. It holds 8 bytes of each, and no names.
type awaited struct {
	seed  maphash.Seed
	files map[uint64]struct{}
}

// neededFolders are those of a data directory that hold no relations, and without which these cannot be read.
var neededFolders = []string{"pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_twophase", "pg_commit_ts", "pg_logical"}

// await notes the files of the relations that there are now, and the folders that every cluster has.
func await(ctx context.Context, conninfo string) (*awaited, error) {
	a := &awaited{maphash.MakeSeed(), map[uint64]struct{}{}}
	for _, name := range neededFolders {
		a.files[maphash.String(a.seed, name)] = struct{}{}
	}
	err := cluster.RelationFiles(ctx, conninfo, func(f cluster.RelationFile) error {
		a.files[maphash.String(a.seed, f.Path)] = struct{}{}
		return nil
	})
	return a, err
}

// came notes a file or folder that the server sent.
func (a *awaited) came(path string) { delete(a.files, maphash.String(a.seed, path)) }

// maxNamed is how many databases an error names.
const maxNamed = 5

// check fails with ErrNotSent when a file did not come that is still a relation's.
func (a *awaited) check(ctx context.Context, conninfo string) error {
	if len(a.files) == 0 {
		return nil
	}
	for _, name := range neededFolders {
		if _, lacks := a.files[maphash.String(a.seed, name)]; lacks {
			return fmt.Errorf("%w: it lacks the folder %s", ErrNotSent, name)
		}
	}
	var order []string // of databases
	lacks, first := map[string]int{}, map[string]cluster.RelationFile{}
	err := cluster.RelationFiles(ctx, conninfo, func(f cluster.RelationFile) error {
		if _, is := a.files[maphash.String(a.seed, f.Path)]; is {
			if lacks[f.Database]++; lacks[f.Database] == 1 {
				order, first[f.Database] = append(order, f.Database), f
			}
		}
		return nil
	})
	if err != nil || len(order) == 0 {
		return err
	}
	var named []string
	for _, d := range order[:min(len(order), maxNamed)] {
		f := first[d]
		what := fmt.Sprintf("%s of database %s", f.Path, d)
		if f.Schema != "" {
			what += fmt.Sprintf(" (%s.%s)", f.Schema, f.Name)
		}
		if n := lacks[d] - 1; n > 0 {
			what += fmt.Sprintf(" and %d more files of it", n)
		}
		named = append(named, what)
	}
	if n := len(order) - len(named); n > 0 {
		named = append(named, fmt.Sprintf("%d more databases", n))
	}
	return fmt.Errorf("%w: it lacks %s", ErrNotSent, strings.Join(named, "; "))
}
