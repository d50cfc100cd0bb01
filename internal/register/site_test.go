package register

import "testing"

func TestOnlyReadsThatFailInARowPutASiteDown(t *testing.T) {
	t.Parallel()
	s := &Site{}
	for range 10 * maxStrikes {
		s.Strike(errSize)
		s.Answered()
	}
	if !s.Up() {
		t.Error("it answered in between")
	}
	for range maxStrikes {
		s.Strike(errSize)
	}
	if s.Up() {
		t.Error("it did not answer any more")
	}
}
