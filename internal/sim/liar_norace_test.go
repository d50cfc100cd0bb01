//go:build !race

package sim

// liarSeeds is how many seeds TestLiar plays.
const liarSeeds = 3000
