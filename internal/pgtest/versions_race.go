//go:build race

package pgtest

// Majors is the newest version alone: races are ours and not the servers', and everything takes several times as long.
var Majors = []int{18}
