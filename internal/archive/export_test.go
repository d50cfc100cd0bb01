package archive

// Settled returns the source with every change time taken for old enough.
func Settled(s Source) Source {
	s.fresh = -1
	return s
}
