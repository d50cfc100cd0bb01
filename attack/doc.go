// Package attack holds tests only: it runs the real program with real servers on loopback and does to them what
// hosts, thieves and broken machines would. docs/threat-model.md names its tests beside the claims that they show.
//
// Old data: testdata/compat holds one frozen state for each released version; TestCompat reads all of them for ever,
// and adds the next one with -update.
package attack
