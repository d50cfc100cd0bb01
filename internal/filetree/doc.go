// Package filetree reads real file trees for backup, writes them at restore, and compares two of
// them. It keeps no data of its own and has no format: what it is given by the snapshot format it
// writes as it is, and what it cannot write it tells.
//
// Every step goes from an open folder to a name in it and follows no symlink, so that paths may be
// of any length and depth, and so that a tree which others change meanwhile can neither lead a
// reader astray nor a writer out of its target. Linux only, with /proc mounted where extended
// attributes are wanted. It starts no goroutine that outlives a call.
package filetree
