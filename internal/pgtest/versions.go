package pgtest

import "testing"

// Majors are the versions that every property is tested on. In short tests, as those are that run under the race detector,
// it is the newest alone: races are ours and not the servers', and everything takes several times as long there.
func Majors() []int {
	if testing.Short() {
		return []int{18}
	}
	return []int{15, 16, 17, 18}
}
