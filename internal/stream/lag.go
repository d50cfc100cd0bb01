package stream

import (
	"context"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

// lagWindow is how many of the newest stretches are asked for.
const lagWindow = 1024

// Lag returns how many of the newest 1,024 stretches each embassy lacks that another shows, by its name; newest is
// the number of the newest record. Who does not answer is not in it.
func Lag(ctx context.Context, reg *register.Register, newest uint64) map[string]uint64 {
	v := newView(reg, nil, reg.Sites(), &register.Faults{})
	after := newest - min(newest, lagWindow)
	var mu sync.Mutex
	has, most := map[string]uint64{}, uint64(0)
	var all sync.WaitGroup
	for _, s := range v.sites {
		all.Go(func() {
			list, err := v.listSite(ctx, s, ledger.StretchRecord, after, newest)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			has[s.Name] = uint64(len(list))
			most = max(most, has[s.Name])
		})
	}
	all.Wait()
	for name, n := range has {
		has[name] = most - n
	}
	return has
}
