package embassy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// scrubRecords reads all scrub records of an embassy as an auditor would: from
// its ledger and its records, each verified.
func scrubRecords(t *testing.T, s *site, c *Client) []*audit.ScrubRecord {
	t.Helper()
	infos, err := c.ListRecords(t.Context(), ledger.Scrub, [16]byte{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []*audit.ScrubRecord
	for _, i := range infos {
		data, err := c.GetRecord(t.Context(), i.Slot)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.ParseScrubRecord(data)
		if err != nil || sha256.Sum256(data) != i.Hash {
			t.Fatal(err)
		}
		if err := r.Verify(publicOf(s.server.key)); err != nil {
			t.Fatal(err)
		}
		if r.Sequence != i.Slot.Sequence || r.State != [16]byte(s.state().id) {
			t.Errorf("record %d says that it is %d", i.Slot.Sequence, r.Sequence)
		}
		all = append(all, r)
	}
	return all
}

func TestScrubFindsDamageAndSaysSoInTheLedger(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{ScrubEvery: 600 * time.Millisecond})
	c := s.client(t, "agent")
	ctx := t.Context()
	var names []shard.Name
	var bodies [][]byte
	for i := range 20 {
		name, data := object(70_000+i, "s", i)
		names, bodies = append(names, name), append(bodies, data)
		if err := c.Put(ctx, name, data); err != nil {
			t.Fatal(err)
		}
	}
	reports := func(done func(damaged map[shard.Name]audit.DamageKind, mended map[shard.Name]bool, whole int) bool) func() bool {
		return func() bool {
			damaged, mended, whole := map[shard.Name]audit.DamageKind{}, map[shard.Name]bool{}, 0
			for _, r := range scrubRecords(t, s, c) {
				for _, d := range r.Damaged {
					damaged[d.Name] = d.What
				}
				for _, n := range r.Mended {
					mended[n] = true
				}
				if r.To == lastName && r.Total == 20 {
					whole++
				}
			}
			return done(damaged, mended, whole)
		}
	}
	until(t, "a whole sweep", reports(func(d map[shard.Name]audit.DamageKind, _ map[shard.Name]bool, whole int) bool {
		if len(d) > 0 {
			t.Fatalf("control: damage before there is any: %v", d)
		}
		return whole >= 2
	}))
	path := func(i int) string { return s.state().store.path(names[i]) }
	bad := bytes.Clone(bodies[0])
	bad[69_999] ^= 1
	if err := errors.Join(os.WriteFile(path(0), bad, 0o600), os.Remove(path(1)), os.Truncate(path(2), 65_536)); err != nil {
		t.Fatal(err)
	}
	until(t, "all three are told", reports(func(d map[shard.Name]audit.DamageKind, _ map[shard.Name]bool, _ int) bool {
		return len(d) == 3 && d[names[0]] == audit.Altered && d[names[1]] == audit.Lost && d[names[2]] == audit.Length
	}))
	until(t, "the status tells", func() bool {
		st, err := c.Status(ctx)
		return err == nil && st.Scrub.Damaged == 3 && st.Scrub.Sequence > 0 && st.Scrub.Checked == 20 && st.Scrub.Coverage == 1 && !st.Scrub.Ended.IsZero()
	})
	// The finding outlives the process, and repairs are told too.
	s.stop()
	s = serve(t, dir, Options{ScrubEvery: 600 * time.Millisecond})
	c = s.client(t, "agent")
	if got := s.state().scrub.status().Damaged; got != 3 {
		t.Errorf("after a restart: %d damaged", got)
	}
	for i := range 3 {
		if err := c.Repair(ctx, names[i], bodies[i]); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the repairs are told", reports(func(_ map[shard.Name]audit.DamageKind, m map[shard.Name]bool, _ int) bool { return len(m) == 3 }))
	until(t, "nothing is damaged", func() bool { return s.state().scrub.status().Damaged == 0 })
	if _, err := c.Receipts(ctx, nil, []ledger.Slot{{Kind: ledger.Scrub, Sequence: 1}}); err != nil {
		t.Errorf("a receipt of the first record: %v", err)
	}
}

// memoryScrub is a scrubber over a store and a clock of the test's own.
type memoryScrub struct {
	*scrubber
	at      time.Time
	records []*audit.ScrubRecord
	names   []shard.Name
	store   *store
}

func newMemoryScrub(t *testing.T, n int, every time.Duration) *memoryScrub {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	st, err := openStore(dir, &blocks{})
	if err != nil {
		t.Fatal(err)
	}
	m := &memoryScrub{at: time.Unix(1_000_000, 0), store: st}
	for i := range n {
		name, data := object(10, "m", i)
		if err := os.MkdirAll(filepath.Dir(st.path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(st.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m.names = append(m.names, name)
	}
	slices.SortFunc(m.names, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	m.scrubber = &scrubber{
		state: charter.StateID{1}, key: keyOf("lux"), every: every, look: st.check,
		list: func(after shard.Name, limit int) ([]shard.Name, error) {
			i, found := slices.BinarySearchFunc(m.names, after, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
			if found {
				i++
			}
			return m.names[i:min(len(m.names), i+limit)], nil
		},
		find:  func(shard.Name) (place, bool, error) { return place{size: 10}, true, nil },
		total: func() uint64 { return uint64(len(m.names)) },
		busy:  func() bool { return false },
		record: func(_ context.Context, data []byte, sequence uint64) error {
			if sequence <= 2 {
				return errTaken // numbers that a lost place has used
			}
			r, err := audit.ParseScrubRecord(data)
			m.records = append(m.records, r)
			return err
		},
		now:  func() time.Time { return m.at },
		wait: func(_ context.Context, d time.Duration) { m.at = m.at.Add(max(0, d)) },
		log:  testLog(t, &bytes.Buffer{}), file: filepath.Join(dir, "scrub"),
	}
	m.scrubber.at = m.load()
	return m
}

// pass runs the scrub through so much time, and tells how often it had to wake.
func (m *memoryScrub) pass(t *testing.T, d time.Duration) (steps int) {
	t.Helper()
	for end := m.at.Add(d); m.at.Before(end); steps++ {
		wait, err := m.step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m.at = m.at.Add(max(wait, time.Millisecond))
	}
	return steps
}

func TestScrubReadsEverythingInTimeAtAnEvenPace(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	m := newMemoryScrub(t, 100, 30*day)
	m.pass(t, 5*day)
	if got := m.scrubber.at.Done; got < 30 || got > 37 {
		t.Errorf("after a third of the sweep %d of 100 were read", got)
	}
	if c := m.status().Coverage; c < 0.3 || c > 0.4 {
		t.Errorf("coverage %v", c)
	}
	steps := m.pass(t, 40*day)
	if steps > 1000 {
		t.Errorf("awake %d times in 40 days", steps)
	}
	whole := 0
	for _, r := range m.records {
		if r.To == lastName && r.From == (shard.Name{}) && r.Checked == 100 && r.Total == 100 && time.Duration(r.Ended-r.Began) <= 15*day+time.Hour {
			whole++
		}
	}
	if whole < 2 || len(m.records) != whole || m.records[0].Sequence != 3 {
		t.Errorf("%d records of a whole sweep among %d", whole, len(m.records))
	}
	// Damage is told at once, and not once for each object.
	before := len(m.records)
	for _, n := range m.names[:50] {
		if err := os.Remove(m.store.path(n)); err != nil {
			t.Fatal(err)
		}
	}
	m.scrubber.change(func(p *scrubPlace) { p.begin(m.at) })
	m.pass(t, 5*time.Hour)
	if n := len(m.records) - before; n != 2 || len(m.records[before].Damaged) != 1 {
		t.Errorf("%d records after two finds", n)
	}
	// The whole disk is gone, and the scrub is far behind.
	m.at = m.at.Add(60 * day)
	m.names = append(m.names, manyNames(2500)...)
	slices.SortFunc(m.names, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	before = len(m.records)
	m.pass(t, time.Second)
	if n := len(m.records) - before; n < 3 || n > 5 {
		t.Errorf("%d records of 2,500 finds", n)
	}
}

func manyNames(n int) []shard.Name {
	names := make([]shard.Name, n)
	for i := range names {
		binary.BigEndian.PutUint32(names[i][:], uint32(i)*1_000_003)
		names[i][31] = 1
	}
	return names
}

func TestScrubWaitsForRequestsUnlessItIsLate(t *testing.T) {
	t.Parallel()
	m := newMemoryScrub(t, 10, 20*time.Hour)
	asked := 0
	m.busy = func() bool { asked++; return asked < 30 }
	m.pass(t, time.Nanosecond)
	if asked < 30 || m.scrubber.at.Done == 0 {
		t.Errorf("asked %d times, read %d", asked, m.scrubber.at.Done)
	}
	late := newMemoryScrub(t, 10, 20*time.Hour)
	late.busy = func() bool { late.at = late.at.Add(5 * time.Minute); return true }
	for range 20 {
		if _, err := late.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		late.at = late.at.Add(time.Hour)
	}
	if len(late.records) == 0 {
		t.Error("a busy embassy never read its disk")
	}
}

func TestTheScrubOutlivesAWrongClock(t *testing.T) {
	t.Parallel()
	m := newMemoryScrub(t, 10, time.Hour)
	right := m.at
	m.at = right.Add(50 * 365 * 24 * time.Hour)
	m.pass(t, 40*time.Minute)
	told := len(m.records)
	m.at = right
	m.pass(t, 2*time.Hour)
	if n := len(m.records) - told; n < 2 {
		t.Errorf("%d sweeps in two hours after the clock was set right", n)
	}
}

func TestTheScrubsPlaceSurvives(t *testing.T) {
	t.Parallel()
	m := newMemoryScrub(t, 10, time.Hour)
	m.pass(t, 20*time.Minute)
	m.mu.Lock()
	err := m.save()
	m.mu.Unlock()
	want := m.scrubber.at.Done
	if err != nil || want == 0 || want == 10 {
		t.Fatalf("%d read, %v", want, err)
	}
	if got := m.load(); got.Done != want || got.After != m.scrubber.at.After || got.Resting {
		t.Errorf("loaded %+v", got)
	}
	for _, spoilt := range []string{"", "{", `{"version":2}`, `{"version":1,"after":"x"}`, `{"version":1,"known":{"x":1}}`} {
		if err := os.WriteFile(m.file, []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := m.load(); got.Done != 0 || !got.Resting || got.Known == nil {
			t.Errorf("%q: %+v", spoilt, got)
		}
	}
}

func FuzzScrubPlace(f *testing.F) {
	f.Add([]byte(`{"version":1,"after":"","found":[{"Name":[1],"What":1}],"known":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseScrubPlace(data)
		if err != nil {
			return
		}
		if p.Version != 1 || p.Known == nil || len(p.Found) > audit.MaxFound {
			t.Errorf("reads %q as %+v", data, p)
		}
		// Whatever was read makes records or none, and no panic.
		r := p.document(charter.StateID{1}, lastName, time.Unix(1, 0), 1)
		if r.Sign(keyOf("lux")) == nil {
			p.told(r)
		}
	})
}
