package auditor

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// What Tail hands over is what the checkpoint signs, from the entry asked for on; what a source forges, cuts or puts
// back is refused before it is handed over.
func TestTail(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 5000)
	forged := append([][]byte{}, list...)
	forged[4500] = act(t, 4500, "forged")
	v, err := ledger.NewVerifier(k.log().Origin, k.log().Key)
	if err != nil {
		t.Fatal(err)
	}
	at := func(list [][]byte) ledger.Checkpoint {
		cp, err := ledger.ParseCheckpoint(checkpointOf(t, k, list), v)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	none := ledger.Checkpoint{}
	for name, c := range map[string]struct {
		src    Source
		cp     ledger.Checkpoint
		before ledger.Checkpoint
		since  uint64
		want   string
		err    error
	}{
		"all":               {logOf(t, k, list), at(list), none, 0, numbers(0, 5000), nil},
		"the end":           {logOf(t, k, list), at(list), at(list[:4000]), 4990, numbers(4990, 5000), nil},
		"nothing":           {logOf(t, k, list), at(list), none, 5000, "", nil},
		"an empty log":      {logOf(t, k, nil), at(nil), none, 0, "", nil},
		"behind the end":    {logOf(t, k, list), at(list), none, 5001, "", ledger.ErrShorter},
		"another history":   {logOf(t, k, forged), at(list), none, 4400, "", ErrDamaged},
		"a forged entry":    {logOf(t, k, list).with("tile/entries/017", flip(20000)), at(list), none, 4400, "", ErrDamaged},
		"forked":            {logOf(t, k, list), at(list), at(forged), 4990, "", ledger.ErrForked},
		"forked before":     {logOf(t, k, list), at(list), at(forged[:4600]), 4990, "", ledger.ErrForked},
		"shorter than seen": {logOf(t, k, list[:4000]), at(list[:4000]), at(list), 3990, "", ledger.ErrShorter},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			err := Tail(t.Context(), c.src, c.cp, c.before, c.since, func(i uint64, l *ledger.Leaf, raw []byte) error {
				if l == nil || string(raw) != string(list[i]) {
					t.Errorf("entry %d is another", i)
				}
				told = append(told, fmt.Sprint(i))
				return nil
			})
			if got := strings.Join(told, " "); !errors.Is(err, c.err) || c.err == nil && got != c.want {
				t.Errorf("%v, %d entries", err, len(told))
			}
		})
	}
	enough := errors.New("enough")
	err = Tail(t.Context(), logOf(t, k, list), at(list), none, 0, func(i uint64, _ *ledger.Leaf, _ []byte) error {
		if i == 700 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}
