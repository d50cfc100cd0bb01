package embassy

import (
	"os"
	"testing"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// TestAnAuditOfWhatWasRemoved: a real embassy that an order had remove objects answers for them by its ledger, to a
// challenge from before and to one from after. The control: a file that is gone without a leaf is missing.
func TestAnAuditOfWhatWasRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	agent := w.client(0, "agent")
	var names []shard.Name
	for i := range 6 {
		name, data := object(150_000+i, "let go", i)
		names = append(names, name)
		if err := agent.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	before := w.cosigned(0, 8)
	id, state := [16]byte(charter.EmbassyIDOf(publicOf(w.keys[0]))), [16]byte(w.ch.State.ID)
	r := &removal{st: w.state(0), actor: publicOf(w.keys[0]), register: [16]byte{7}, order: 1}
	if _, err := r.objects(t.Context(), names[:3]); err != nil {
		t.Fatal(err)
	}
	look := func(v ledger.Verdict) *audit.Result {
		t.Helper()
		res, err := audited(t, w, "agent", audit.NewRange(state, id, v.Checkpoint.Raw, [32]byte{1}, 0, v.Checkpoint.Size))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	after := w.cosigned(0, before.Checkpoint.Size+3)
	for what, v := range map[string]ledger.Verdict{"before": before, "after": after} {
		if res := look(v); res.Removed != 3 || res.Objects != 3 || len(res.Missing)+len(res.Wrong) > 0 {
			t.Errorf("challenged from %s: %+v", what, res)
		}
	}
	if err := os.Remove(w.state(0).store.path(names[4])); err != nil {
		t.Fatal(err)
	}
	if res := look(before); res.Removed != 3 || len(res.Missing) != 1 || res.Missing[0].Name != names[4] {
		t.Errorf("gone without a leaf: %+v", res)
	}
}
