package sim

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
)

// verify holds every embassy's log against what people really did. It reads the log alone and knows nothing of how the
// embassy decided.
func (w *thiefWorld) verify() error {
	for _, v := range w.vaults {
		for i := v.proven; i < len(v.log); i++ {
			if err := w.entry(v, i); err != nil {
				return fmt.Errorf("%s, entry %d: %w", v.name, i, err)
			}
		}
		v.proven = len(v.log)
		there := map[[32]byte]bool{}
		for i := range 24 {
			there[sha256.Sum256(fmt.Append(nil, "object", i))] = true
		}
		for _, h := range v.log {
			switch h.what {
			case "stored":
				there[h.name] = true
			case "removal":
				delete(there, h.name)
			}
		}
		for name := range there {
			if !v.held[name] {
				return fmt.Errorf("%s: %s", v.name, nothing)
			}
		}
	}
	return nil
}

func (w *thiefWorld) entry(v *vault, i int) error {
	h := v.log[i]
	x := w.intents[h.hash]
	switch {
	case h.what != "removal" && h.what != "suspend":
		return nil
	case x == nil || len(x.signed) < 2:
		return fmt.Errorf("%s", byQuorum)
	case h.what == "suspend":
		return nil
	case x.deceived:
		return fmt.Errorf("%s: an elder was to stop it", wasFree)
	case !slices.Contains(x.names, h.name) || !x.order.For(v.name):
		return fmt.Errorf("%s", asListed)
	}
	var logged, seen time.Time
	held := false
	for _, e := range v.log[:i] {
		switch {
		case e.what == "hold":
			held = true
		case e.what == "lift":
			held = false
		case e.hash != h.hash:
		case e.what == "order" && logged.IsZero():
			logged = e.at
		case e.what == "seen" && seen.IsZero():
			seen = e.at
		case e.what == "veto" && e.by == "olev":
			return fmt.Errorf("%s", wasFree)
		case e.what == "removal" && e.name == h.name:
			return fmt.Errorf("%s", onceOnly)
		}
	}
	switch {
	case held:
		return fmt.Errorf("%s: a hold stands", wasFree)
	case logged.IsZero() || x.withdrawn || logged.After(x.order.Expires):
		return fmt.Errorf("%s", inTime)
	case seen.IsZero() || h.at.Sub(seen) < cooling:
		return fmt.Errorf("%s: %s after it was seen", hasWaited, h.at.Sub(seen))
	}
	return nil
}

// liveness: eva and the thief keep nobody from an order that a quorum gave. A hold may, and witnesses who saw it only
// after it had expired.
func (w *thiefWorld) liveness(seed uint64) error {
	for _, v := range w.vaults {
		for _, h := range v.log {
			x := w.intents[h.hash]
			if h.what != "order" || x == nil || !x.given || x.order.Kind != charter.ActRelease || !x.order.For(v.name) {
				continue
			}
			done := slices.ContainsFunc(v.log, func(e happened) bool { return e.what == "removal" && e.hash == h.hash })
			wasHeld := slices.ContainsFunc(v.log, func(e happened) bool { return e.what == "hold" })
			late := slices.ContainsFunc(v.log, func(e happened) bool {
				return e.what == "seen" && e.hash == h.hash && e.at.After(x.order.Expires)
			})
			if !done && !wasHeld && !late {
				return fmt.Errorf("seed %d: %s: %s", seed, v.name, obeyed)
			}
		}
	}
	return nil
}
