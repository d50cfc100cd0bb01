package main

import (
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
)

// As much as one order lists is as much as an embassy takes beside it; what is more is left for the next, and said.
func TestAnOrderListsNoMoreThanEmbassiesTake(t *testing.T) {
	l := bound{list: make(ledger.ObjectList, archive.MaxListed)}
	for i := range l.list {
		l.list[i] = [32]byte{byte(i >> 16), byte(i >> 8), byte(i)}
	}
	if l.atMost(archive.MaxListed); l.more || len(l.list) != archive.MaxListed {
		t.Errorf("%d objects of a full list, more: %v", len(l.list), l.more)
	}
	data, err := l.list.Bytes()
	if err != nil || len(data) > embassy.MaxAttachment {
		t.Errorf("a full list is of %d bytes, embassies take %d: %v", len(data), embassy.MaxAttachment, err)
	}
	if l.atMost(archive.MaxListed - 1); !l.more || len(l.list) != archive.MaxListed-1 {
		t.Errorf("%d objects of a list that is too long, more: %v", len(l.list), l.more)
	}
}
