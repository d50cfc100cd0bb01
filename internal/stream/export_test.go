package stream

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
