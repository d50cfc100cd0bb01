//go:build !race

package pgtest

// Majors are the versions that every property is tested on.
var Majors = []int{15, 16, 17, 18}
