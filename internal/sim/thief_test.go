package sim

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestThief plays seeds in which home is captured and a representative is disloyal. One seed again:
// go test ./internal/sim -run 'TestThief/seed=N$'
func TestThief(t *testing.T) {
	var all ThiefTally
	for seed := range uint64(liarSeeds() / 20) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			if err := RunThief(seed, &all); err != nil {
				t.Error(err)
			}
		})
	}
	t.Logf("%+v", all)
	if all.Seeds < 100 {
		return
	}
	v := reflect.ValueOf(all)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("no seed has any %s: the simulation does not reach it", v.Type().Field(i).Name)
		}
	}
}

// TestThiefControls has each defence switched off: a seed that was found by trying must then go red, for the reason that
// the defence is there for, and be green with it.
func TestThiefControls(t *testing.T) {
	for name, c := range map[string]struct {
		off  thiefOff
		rule string
		seed uint64
	}{
		"no quorum":                 {thiefOff{noQuorum: true}, byQuorum, 0},
		"signatures, not people":    {thiefOff{countSignatures: true}, byQuorum, 0},
		"orders never expire":       {thiefOff{noExpiry: true}, inTime, 0},
		"no book of orders":         {thiefOff{noBook: true}, onceOnly, 14},
		"anybody's order is its":    {thiefOff{noAim: true}, asListed, 0},
		"any list will do":          {thiefOff{noList: true}, asListed, 0},
		"vetoes are not heeded":     {thiefOff{noVeto: true}, wasFree, 0},
		"anybody may veto":          {thiefOff{anyVeto: true}, obeyed, 1},
		"no cooling-off":            {thiefOff{noCooling: true}, hasWaited, 0},
		"the embassy's own clock":   {thiefOff{ownClock: true}, hasWaited, 2},
		"holds are not looked into": {thiefOff{noHold: true}, wasFree, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := runThief(c.seed, c.off, &ThiefTally{}); err == nil || !strings.Contains(err.Error(), c.rule) {
				t.Errorf("seed %d: %v, want %q broken", c.seed, err, c.rule)
			}
			if err := RunThief(c.seed, &ThiefTally{}); err != nil {
				t.Errorf("with the defence: %v", err)
			}
		})
	}
}
