package postgres

import (
	"slices"
	"time"

	"chancery.dev/chancery/internal/wal"
)

// marks say until when, by the server's clock, everything that was committed is in the log up to a position. The server
// tells with each piece of its log how far it has written it, and what time it is: whoever holds the log up to there holds
// what was committed until then. When it sent a piece says nothing of that: it may send the log of hours ago.
type marks struct {
	list []mark // each behind the one before, and later
}

// mark is a place of the log and when the server had written no more.
type mark struct {
	end wal.LSN
	at  time.Time
}

// maxMarks bounds what is remembered while far more log is to come than has come.
const maxMarks = 1024

// add takes what the server said.
func (m *marks) add(end wal.LSN, at time.Time) {
	if n := len(m.list); n > 0 {
		switch last := &m.list[n-1]; {
		case end < last.end || at.Before(last.at): // its clock went back
			return
		case end == last.end:
			last.at = at
			return
		case n >= maxMarks: // half of them are enough
			for i := range n / 2 {
				m.list[i] = m.list[2*i+1]
			}
			m.list = m.list[:n/2]
		}
	}
	m.list = append(m.list, mark{end, at})
}

// reached returns the moment until which the log up to a position holds everything, and forgets it; the zero time where
// that is not known.
func (m *marks) reached(end wal.LSN) (at time.Time) {
	n := 0
	for n < len(m.list) && m.list[n].end <= end {
		at = m.list[n].at
		n++
	}
	m.list = slices.Delete(m.list, 0, n)
	return at
}
