package shard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

var (
	registerKey = shard.MaskKey{1, 2, 3}
	packID      = [16]byte{7}
)

func TestMaskIsItsOwnInverseAndChangesTheBytes(t *testing.T) {
	for _, n := range borders(2) {
		data := pattern(n)
		shard.Mask(registerKey, packID, 3, data)
		if n > 16 && bytes.Equal(data, pattern(n)) {
			t.Errorf("%d bytes: the mask changes nothing", n)
		}
		shard.Mask(registerKey, packID, 3, data)
		if !bytes.Equal(data, pattern(n)) {
			t.Errorf("%d bytes: twice masked is not the data", n)
		}
	}
}

func TestFusedWalkIsMaskAndRoot(t *testing.T) {
	for _, n := range borders(3) {
		want := pattern(n)
		shard.Mask(registerKey, packID, 3, want)
		name := shard.Root(want)

		data := pattern(n)
		if got := shard.MaskAndHash(registerKey, packID, 3, data); got != name || !bytes.Equal(data, want) {
			t.Errorf("%d bytes: MaskAndHash differs from Mask, then Root", n)
		}
		if got := shard.HashAndUnmask(registerKey, packID, 3, data); got != name || !bytes.Equal(data, pattern(n)) {
			t.Errorf("%d bytes: HashAndUnmask differs from Root, then Mask", n)
		}
	}
}

func TestPartIsMaskedAsInTheWhole(t *testing.T) {
	whole := make([]byte, 3*leaf)
	shard.Mask(registerKey, packID, 3, whole)
	for _, off := range []int{0, 1, 15, 16, 17, 4096, leaf - 1, leaf, 2*leaf + 48} {
		for _, n := range []int{0, 1, 16, 100, len(whole) - off} {
			n = min(n, len(whole)-off)
			part := make([]byte, n)
			shard.MaskAt(registerKey, packID, 3, int64(off), part)
			if !bytes.Equal(part, whole[off:off+n]) {
				t.Errorf("%d bytes at %d differ", n, off)
			}
		}
	}
}

// No host can make another host's share: what it would need is the other's mask, and no 16 bytes of
// two masks are the same.
func TestMasksOfTwoEmbassiesPacksOrSharesHaveNoBlockInCommon(t *testing.T) {
	const blocks = 2048
	seen := map[[16]byte]string{}
	collisions := func(register shard.MaskKey, embassy, pack byte, share int) (n int) {
		who := fmt.Sprintf("register %d, embassy %d, pack %d, share %d", register[0], embassy, pack, share)
		mask := make([]byte, 16*blocks)
		shard.Mask(shard.EmbassyMaskKey(register, [16]byte{embassy}), [16]byte{pack}, share, mask)
		for i := range blocks {
			block := [16]byte(mask[16*i:])
			if _, again := seen[block]; again {
				n++
			}
			seen[block] = who
		}
		return n
	}
	for register := range byte(2) {
		for embassy := range byte(3) {
			for pack := range byte(3) {
				for _, share := range []int{0, 1, 31} {
					if n := collisions(shard.MaskKey{register}, embassy, pack, share); n != 0 {
						t.Errorf("register %d, embassy %d, pack %d, share %d: %d blocks seen before", register, embassy, pack, share, n)
					}
				}
			}
		}
	}
	if n := collisions(shard.MaskKey{1}, 2, 2, 31); n != blocks {
		t.Errorf("control: the same mask again shares %d of %d blocks", n, blocks)
	}
}

func TestMemoryDoesNotGrowWithTheShare(t *testing.T) {
	allocs := func(n int) float64 {
		data := pattern(n)
		return testing.AllocsPerRun(10, func() { shard.MaskAndHash(registerKey, packID, 1, data) })
	}
	if small, large := allocs(10), allocs(1<<20); small != large || large > 20 {
		t.Errorf("%v allocations for 10 bytes, %v for 1 MiB", small, large)
	}
}

func TestMaskKeysDoNotPrint(t *testing.T) {
	key := shard.MaskKey(bytes.Repeat([]byte{0xab}, 32))
	for _, v := range []any{key, &key, struct{ K shard.MaskKey }{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if out := strings.ToLower(fmt.Sprintf(verb, v)); strings.Contains(out, "ab") || strings.Contains(out, "171") {
				t.Errorf("%s of %T: %s", verb, v, out)
			}
		}
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("%T marshals to %s", v, out)
		}
	}
	if out := fmt.Sprintf("%x", [32]byte(key)); !strings.Contains(out, "abab") {
		t.Errorf("control: the bytes themselves print as %s", out)
	}
}
