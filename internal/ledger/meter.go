package ledger

import (
	"math/big"
	"time"
)

// Usage is what an embassy did for a state in one period, as its ledger has it:
// home, host and an auditor who read the same leaves come to the same numbers.
type Usage struct {
	ByteHours *big.Int // bytes kept times hours, rounded down
	Held      uint64   // bytes kept at the period's end
	Objects   uint64   // objects kept at its end
	Stored    uint64   // objects and records taken in during it
	Taken     uint64   // bytes of these
	Removed   uint64   // objects and records removed during it
	Freed     uint64   // bytes of these
	Leaves    uint64   // that the numbers are from
}

// Meter computes the usage of a period out of a ledger's leaves, in their order.
// A leaf's time is what the embassy claims; it counts from the latest time before
// it on, so a clock that is set back makes nothing cheaper or dearer twice. Of
// several leaves that store the same, the first counts.
type Meter struct {
	from, to int64 // seconds since 1970 UTC
	at       int64 // the latest time of a leaf so far
	held     map[any]uint64
	bytes    uint64
	objects  uint64
	seconds  *big.Int // bytes times seconds
	usage    Usage
}

// NewMeter meters from a moment to another, of which only whole seconds count.
func NewMeter(from, to time.Time) *Meter {
	return &Meter{from: from.Unix(), to: to.Unix(), held: make(map[any]uint64), seconds: new(big.Int)}
}

// Leaf takes the next leaf.
func (m *Meter) Leaf(l *Leaf) {
	m.usage.Leaves++
	m.goOn(l.Time / int64(time.Second))
	within := m.at >= m.from && m.at < m.to
	var key any = l.Name
	if l.Kind == RecordStored || l.Kind == RecordRemoved {
		key = l.Slot
	}
	switch size, held := m.held[key]; l.Kind {
	case ObjectStored, RecordStored:
		if held || m.at >= m.to {
			return
		}
		m.held[key] = l.Size
		m.bytes += l.Size
		if l.Kind == ObjectStored {
			m.objects++
		}
		if within {
			m.usage.Stored++
			m.usage.Taken += l.Size
		}
	case ObjectRemoved, RecordRemoved:
		if !held || m.at >= m.to {
			return
		}
		delete(m.held, key)
		m.bytes -= size
		if l.Kind == ObjectRemoved {
			m.objects--
		}
		if within {
			m.usage.Removed++
			m.usage.Freed += size
		}
	}
}

// goOn counts what is held until a time.
func (m *Meter) goOn(at int64) {
	if at <= m.at {
		return
	}
	if begin, end := max(m.at, m.from), min(at, m.to); begin < end {
		held := new(big.Int).SetUint64(m.bytes)
		m.seconds.Add(m.seconds, held.Mul(held, big.NewInt(end-begin)))
	}
	m.at = at
}

// Usage is what there is at the period's end, or until a moment before it. The
// meter is used up.
func (m *Meter) Usage(until time.Time) Usage {
	m.goOn(min(m.to, until.Unix()))
	u := m.usage
	u.ByteHours = new(big.Int).Quo(m.seconds, big.NewInt(3600))
	u.Held, u.Objects = m.bytes, m.objects
	return u
}
