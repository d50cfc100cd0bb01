// Package postgres protects a PostgreSQL cluster as a register: base backups as snapshots, the log as a stream, and
// recovery to any moment that both reach.
//
// Old data: a snapshot of a cluster is a tree like any other (docs/spec/manifest.md), laid out as docs/spec/positions.md
// says; every version of the positions in heads and stretches stays readable.
package postgres
