package evidence

// provenLeaf is what a signed tree has at an index, by an inclusion proof.
type provenLeaf struct {
	index uint64
	hash  [32]byte
	tree  tree
}

// clash finds a leaf of which two trees of those signed, however large, have another each: what the leaves make and an
// inclusion proof, or two inclusion proofs. A ledger that was put back and has not outgrown what it signed before is
// convicted so.
func (h *history) clash(signed map[uint64]tree, top tree) (a, b tree, found bool) {
	first := map[uint64]provenLeaf{}
	for _, p := range h.proven {
		if t, ok := signed[p.tree.size]; !ok || t != p.tree {
			continue
		}
		if p.index >= h.From && p.index < top.size && h.Leaves[p.index-h.From].Hash != p.hash {
			return p.tree, top, true
		}
		if other, ok := first[p.index]; ok && other.hash != p.hash {
			return other.tree, p.tree, true
		}
		first[p.index] = p
	}
	return tree{}, tree{}, false
}

// contradiction finds two trees of those that one party signed which no history can join. It says so only where the
// proof is complete: two roots of one size; a tree that the leaves make, and a smaller one that the same leaves do not
// make; a leaf of which two trees have another each; or a consistency proof that gives a signed tree another beginning
// than one that was signed.
func (h *history) contradiction(signed []tree) (a, b tree, found bool) {
	bySize := map[uint64]tree{}
	top, anchored := tree{}, false
	for _, t := range signed {
		if other, ok := bySize[t.size]; ok && other != t {
			return other, t, true
		}
		bySize[t.size] = t
		if h.follows(t) && (!anchored || t.size > top.size) {
			top, anchored = t, true
		}
	}
	for _, t := range signed {
		if _, ok := h.roots[t.size]; anchored && ok && t.size < top.size && !h.follows(t) {
			return t, top, true
		}
	}
	if a, b, found := h.clash(bySize, top); found {
		return a, b, true
	}
	for _, j := range h.joins {
		now, ok := bySize[j.new.size]
		old, also := bySize[j.old.size]
		if ok && also && now == j.new && old != j.old {
			return old, now, true
		}
	}
	return tree{}, tree{}, false
}
