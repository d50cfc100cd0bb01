package ledger

import (
	"math/big"
	"slices"
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
	Parts     []Part   // of the period, in their order: one, or more where it was cut
}

// Part is what was kept from one cut of a period to the next.
type Part struct {
	From, To  time.Time // UTC, whole seconds
	ByteHours *big.Int  // bytes kept times hours, rounded down
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
	parts    []part // never none; the first begins with the period, each ends where the next begins
	usage    Usage
}

// part is what is counted from a moment on.
type part struct {
	from    int64
	seconds *big.Int // bytes times seconds
}

// NewMeter meters from a moment to another, of which only whole seconds count.
func NewMeter(from, to time.Time) *Meter {
	return &Meter{from: from.Unix(), to: to.Unix(), held: make(map[any]uint64), parts: []part{{from.Unix(), new(big.Int)}}}
}

// At is the latest time of a leaf so far.
func (m *Meter) At() time.Time { return time.Unix(m.at, 0).UTC() }

// Cut has what is kept from a moment on counted as a part of its own. A moment
// that is not within the period, or is over already, cuts nothing.
func (m *Meter) Cut(at time.Time) {
	c := at.Unix()
	i, there := slices.BinarySearchFunc(m.parts, c, func(p part, c int64) int {
		switch {
		case p.from < c:
			return -1
		case p.from > c:
			return 1
		}
		return 0
	})
	if there || c < m.at || c <= m.from || c >= m.to {
		return
	}
	m.parts = slices.Insert(m.parts, i, part{c, new(big.Int)})
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
	for i, p := range m.parts {
		to := m.to
		if i+1 < len(m.parts) {
			to = m.parts[i+1].from
		}
		if begin, end := max(m.at, p.from), min(at, to); begin < end {
			held := new(big.Int).SetUint64(m.bytes)
			p.seconds.Add(p.seconds, held.Mul(held, big.NewInt(end-begin)))
		}
	}
	m.at = at
}

// Usage is what there is at the period's end, or until a moment before it. The
// meter is used up.
func (m *Meter) Usage(until time.Time) Usage {
	m.goOn(min(m.to, until.Unix()))
	u := m.usage
	sum, hour := new(big.Int), big.NewInt(3600)
	for i, p := range m.parts {
		sum.Add(sum, p.seconds)
		u.Parts = append(u.Parts, Part{From: time.Unix(p.from, 0).UTC(), To: time.Unix(m.to, 0).UTC(), ByteHours: new(big.Int).Quo(p.seconds, hour)})
		if i > 0 {
			u.Parts[i-1].To = u.Parts[i].From
		}
	}
	u.ByteHours = sum.Quo(sum, hour)
	u.Held, u.Objects = m.bytes, m.objects
	return u
}
