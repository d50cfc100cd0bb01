//go:build race

package sim

// liarSeeds is how many seeds TestLiar plays: fewer, for each takes ten times as long.
const liarSeeds = 100
