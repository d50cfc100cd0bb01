// Package wal names and checks what a PostgreSQL server's write-ahead log is made of: positions, timelines and their
// histories, segment files, the headers of pages, and the label of a base backup.
//
// It knows the log of PostgreSQL 15 to 18 on little-endian machines with pages of the usual size, and reads only what
// these servers write. Text is taken in the one form in which they write it: another spelling of a position or a name
// would be a second name of the same thing. Nothing here touches files, a network or a clock.
package wal
