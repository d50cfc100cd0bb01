// Package cluster speaks with a running PostgreSQL server, 15 to 18: who it is, what is in it, a base backup, and its
// write-ahead log as it is written.
//
// It uses the replication protocol and, for what that cannot ask, an ordinary connection. It keeps nothing, spools
// nothing and knows nothing of archives: what it receives goes to the caller as it comes, and is acknowledged when the
// caller says so. Every wait has an end: a server that falls silent is an error. Passwords come from where libpq takes
// them (conninfo, environment, password file) and are in no error.
package cluster
