package embassy

import (
	"errors"
	"os"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/shard"
)

// audited asks embassy 0 as who and verifies the answer.
func audited(t *testing.T, w *world, who string, ch *audit.Challenge) (*audit.Result, error) {
	t.Helper()
	answer, err := w.client(0, who).Audit(t.Context(), ch)
	if err != nil {
		return nil, err
	}
	res, err := audit.Verify(answer, ch, w.log(0))
	return res, errors.Join(err, answer.Close())
}

func TestAnAuditorAuditsAndReadsNoObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, func(c *charter.Charter) {
		c.Auditors = []charter.Auditor{{Name: "court", Key: charterKey("court")}}
	})
	agent := w.client(0, "agent")
	var names []shard.Name
	for i := range 12 {
		name, data := object(150_000+i, "audited", i)
		names = append(names, name)
		if err := agent.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	size := w.store(0, 300, "more than one bundle")
	v := w.cosigned(0, size)
	id := [16]byte(charter.EmbassyIDOf(publicOf(w.keys[0])))
	state := [16]byte(w.ch.State.ID)
	sample := audit.NewSample(state, id, v.Checkpoint.Raw, [32]byte{1}, 40)
	res, err := audited(t, w, "court", sample)
	if err != nil || res.Objects != 40 || len(res.Wrong)+len(res.Missing) != 0 {
		t.Fatalf("sample: %+v, %v", res, err)
	}
	all := audit.NewRange(state, id, v.Checkpoint.Raw, [32]byte{2}, 0, v.Checkpoint.Size)
	if res, err = audited(t, w, "court", all); err != nil || res.Objects != 312 || len(res.Wrong)+len(res.Missing) != 0 {
		t.Fatalf("control: all of an honest embassy: %+v, %v", res, err)
	}
	// A lost object, a truncated one, one with other bytes throughout.
	path := func(i int) string { return w.state(0).store.path(names[i]) }
	err = errors.Join(os.Remove(path(0)), os.Truncate(path(1), 0), os.WriteFile(path(2), seeded(150_002, "other"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if res, err = audited(t, w, "court", all); err != nil || len(res.Wrong)+len(res.Missing) != 3 {
		t.Errorf("three objects damaged: %+v, %v", res, err)
	}
	if _, err := w.client(0, "court").Get(t.Context(), names[5], nil); !errors.Is(err, ErrRefused) {
		t.Errorf("an auditor fetches an object: %v", err)
	}
	if _, err := agent.Get(t.Context(), names[5], nil); err != nil {
		t.Errorf("control: the agent: %v", err)
	}
	if _, err := audited(t, w, "stranger", sample); !errors.Is(err, ErrRefused) {
		t.Errorf("a stranger audits: %v", err)
	}
	for what, ch := range map[string]*audit.Challenge{
		"another state":   audit.NewSample([16]byte{9}, id, v.Checkpoint.Raw, [32]byte{1}, 1),
		"another embassy": audit.NewSample(state, [16]byte{9}, v.Checkpoint.Raw, [32]byte{1}, 1),
		"another log":     audit.NewSample(state, id, w.cosigned(1, 1).Checkpoint.Raw, [32]byte{1}, 1),
	} {
		if _, err := audited(t, w, "court", ch); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Put back to before the checkpoint it cannot answer, and says that.
	w.sites[0].stop()
	fresh := w.dirs[0] + "-fresh"
	copyTree(t, w.dirs[0], fresh)
	for _, gone := range []string{"ledger", "catalog.db", "scrub", "cosigned"} {
		if err := os.RemoveAll(strings.Join([]string{fresh, "states", w.ch.State.ID.String(), gone}, "/")); err != nil {
			t.Fatal(err)
		}
	}
	w.dirs[0] = fresh
	w.start(0)
	if _, err := audited(t, w, "court", sample); !errors.Is(err, ErrConflict) {
		t.Errorf("an emptied ledger: %v", err)
	}
}
