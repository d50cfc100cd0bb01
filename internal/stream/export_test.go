package stream

import "time"

// Logged is how many stretches on their way have their records on disk at home.
func (s *Stream) Logged() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flights {
		if f.isLogged() {
			n++
		}
	}
	return n
}

// Hurry takes the waits for what is on its way away: nothing is, where the writer is dead.
func Hurry() { clear(onItsWay[:]) }

// Eager has an embassy that is back get what it missed as soon as that is noticed.
func Eager(t interface{ Cleanup(func()) }) {
	tend, mend := tendPause, mendPause
	tendPause, mendPause = 20*time.Millisecond, 0
	t.Cleanup(func() { tendPause, mendPause = tend, mend })
}
