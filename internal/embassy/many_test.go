package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/tessera"

	"chancery.dev/chancery/internal/ledger"
)

func stretchSlot(sequence uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.StretchRecord, Register: [16]byte{9}, Sequence: sequence}
}

// stretches are records as a stream might have: seeded bytes.
func stretches(from, to uint64) (out [][]byte) {
	for seq := from; seq <= to; seq++ {
		out = append(out, seeded(700+int(seq), "stretch", seq))
	}
	return out
}

// holds is the sequences of stretches that an embassy shows, each of which must be whole and have a receipt.
func (s *site) holds(t *testing.T, c *Client) (seqs []uint64) {
	t.Helper()
	list, err := c.ListRecords(t.Context(), ledger.StretchRecord, [16]byte{9}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var slots []ledger.Slot
	for _, r := range list {
		data, err := c.GetRecord(t.Context(), r.Slot)
		if err != nil || !bytes.Equal(data, stretches(r.Slot.Sequence, r.Slot.Sequence)[0]) {
			t.Errorf("stretch %d: %d bytes, %v", r.Slot.Sequence, len(data), err)
		}
		seqs, slots = append(seqs, r.Slot.Sequence), append(slots, r.Slot)
	}
	if len(slots) > 0 {
		if _, err := c.Receipts(t.Context(), nil, slots); err != nil {
			t.Fatal(err)
		}
	}
	return seqs
}

// Every record of a batch that is acknowledged is as one that came alone, they stand in the ledger in order, and all of it
// may be repeated.
func TestRecordsThatComeTogetherAreTakenInOrder(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	if err := c.PutRecord(t.Context(), stretchSlot(3), stretches(3, 3)[0]); err != nil {
		t.Fatal(err)
	}
	size := func() uint64 {
		n, err := s.state().journal.size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := size()
	if n, err := c.PutRecords(t.Context(), stretchSlot(4), stretches(4, 603)); n != 600 || err != nil {
		t.Fatal(n, err)
	}
	if got := size() - before; got != 600 {
		t.Errorf("%d leaves for 600 records", got)
	}
	next := uint64(4)
	_, err := s.state().journal.each(t.Context(), before, func(_ uint64, l *ledger.Leaf) error {
		if l.Slot.Sequence != next {
			t.Errorf("stretch %d stands in the place of %d", l.Slot.Sequence, next)
		}
		next++
		return nil
	}, 600)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(3), stretches(3, 20)); n != 18 || err != nil {
		t.Fatal(n, err)
	}
	if got := size() - before; got != 600 {
		t.Errorf("%d leaves after they came again", got)
	}
	// One that was lost on the disk is written again, between two that are there.
	lost := s.state().recordPath(stretchSlot(7))
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(6), stretches(6, 8)); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	check := func(s *site, c *Client) {
		seqs := s.holds(t, c)
		if len(seqs) != 601 || seqs[0] != 3 || seqs[600] != 603 {
			t.Errorf("%d stretches", len(seqs))
		}
		if left, err := filesIn(s.state().store.tmp()); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	check(s, c)
	s.stop()
	s = serve(t, dir, Options{})
	check(s, s.client(t, "agent"))
}

// A record that is refused ends its batch: those before it are taken, it and those behind it are not, and none is
// acknowledged that is not held.
func TestARefusedRecordEndsItsBatch(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{Quota: 50_000})
	c := s.client(t, "agent")
	if err := c.PutRecord(t.Context(), stretchSlot(5), stretches(5, 5)[0]); err != nil {
		t.Fatal(err)
	}
	other := stretches(1, 9)
	other[4] = []byte("another five")
	n, err := c.PutRecords(t.Context(), stretchSlot(1), other)
	if n != 4 || !errors.Is(err, ErrConflict) {
		t.Fatal(n, err)
	}
	if got := s.holds(t, c); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("held: %v", got)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(5), other[4:]); n != 0 || !errors.Is(err, ErrConflict) {
		t.Fatal(n, err)
	}
	// The quota ends it where it is used up.
	n, err = c.PutRecords(t.Context(), stretchSlot(1), stretches(1, 100))
	if n < 20 || n > 80 || !errors.Is(err, ErrFull) {
		t.Fatal(n, err)
	}
	if got := s.holds(t, c); len(got) != n || got[n-1] != uint64(n) {
		t.Errorf("%d are acknowledged, held: %v", n, got)
	}
	if held := s.state().store.reserved.Load(); held != 0 {
		t.Errorf("%d bytes are still set aside", held)
	}
	if n, err := s.client(t, "recovery").PutRecords(t.Context(), stretchSlot(1), stretches(1, 2)); n != 0 || !errors.Is(err, ErrRefused) {
		t.Errorf("the recovery key: %d, %v", n, err)
	}
}

// What the ledger or the disk does not take is not acknowledged, nor is anything behind it.
func TestABatchThatTheDiskRefusesIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	j := s.state().journal
	add, adds := j.add, 0
	j.add = func(ctx context.Context, e *tessera.Entry) tessera.IndexFuture {
		if adds++; adds <= 2 {
			return add(ctx, e)
		}
		return func() (tessera.Index, error) { return tessera.Index{}, errors.New("broken") }
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(1), stretches(1, 6)); n != 2 || !errors.Is(err, ErrFailed) {
		t.Fatal(n, err)
	}
	j.add = add
	if got := s.holds(t, c); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("held: %v", got)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(2), stretches(2, 6)); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	// A file that cannot be made: another has taken its name.
	if err := os.MkdirAll(filepath.Join(s.state().recordPath(stretchSlot(9)), "in the way"), folderPerm); err != nil {
		t.Fatal(err)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(7), stretches(7, 12)); n != 2 || !errors.Is(err, ErrFailed) {
		t.Fatal(n, err)
	}
	if got := s.holds(t, c); len(got) != 8 {
		t.Errorf("held: %v", got)
	}
	if err := os.RemoveAll(s.state().recordPath(stretchSlot(9))); err != nil {
		t.Fatal(err)
	}
	if n, err := c.PutRecords(t.Context(), stretchSlot(9), stretches(9, 12)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if got := s.holds(t, c); len(got) != 12 {
		t.Errorf("held: %v", got)
	}
}

// Several who send the same records at once are all told the same leaves.
func TestBatchesOfTheSameRecordsAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := s.client(t, "agent")
	var all sync.WaitGroup
	for i := range uint64(4) {
		all.Go(func() {
			if n, err := c.PutRecords(t.Context(), stretchSlot(1+i), stretches(1+i, 30)); n != int(30-i) || err != nil {
				t.Error(n, err)
			}
		})
	}
	all.Wait()
	if got := s.holds(t, c); len(got) != 30 {
		t.Errorf("held: %v", got)
	}
}

func TestMalformedBatchesOfRecordsAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := rawClient(t, nil, "agent")
	good := appendRecord(appendRecord(nil, 1, []byte("one")), 2, []byte("two"))
	long := []byte(nil)
	for seq := range uint64(maxBatchRecords + 1) {
		long = appendRecord(long, 1+seq, []byte("x"))
	}
	stretch := path.Dir(slotPath(stretchSlot(1)))
	for what, k := range map[string]struct {
		path   string
		body   []byte
		status int
	}{
		"nothing":          {stretch, nil, 400},
		"a cut head":       {stretch, good[:8], 400},
		"a cut record":     {stretch, good[:len(good)-1], 400},
		"a byte too many":  {stretch, append(slices.Clone(good), 0), 400},
		"an empty record":  {stretch, appendRecord(nil, 1, nil), 400},
		"a huge length":    {stretch, append([]byte{0xff, 0xff, 0xff, 0xff}, good[4:]...), 400},
		"no number":        {stretch, appendRecord(nil, 0, []byte("x")), 400},
		"twice one number": {stretch, appendRecord(appendRecord(nil, 1, []byte("x")), 1, []byte("x")), 400},
		"a falling number": {stretch, appendRecord(appendRecord(nil, 2, []byte("x")), 1, []byte("x")), 400},
		"many records":     {stretch, long, 413},
		"many bytes":       {stretch, make([]byte, maxBatch+1), 413},
		"another kind":     {strings.Replace(stretch, "stretch", "head", 1), good, 400},
		"registers":        {strings.Replace(stretch, "stretch", "register", 1), good, 400},
		"no kind":          {strings.Replace(stretch, "stretch", "tail", 1), good, 400},
		"no register":      {"records/stretch/xyz", good, 400},
	} {
		if got := putRaw(t, c, s, k.path, k.body); got != k.status {
			t.Errorf("%s: %d, want %d", what, got, k.status)
		}
	}
	if got := s.holds(t, s.client(t, "agent")); len(got) != 0 {
		t.Errorf("held: %v", got)
	}
	if got := putRaw(t, c, s, stretch, good); got != 200 {
		t.Errorf("control: %d", got)
	}
}

func putRaw(t *testing.T, c *http.Client, s *site, where string, body []byte) int {
	t.Helper()
	url := "https://" + s.addr + "/v1/states/" + s.state().id.String() + "/" + where
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestAnswersToABatchOfRecordsAreChecked(t *testing.T) {
	t.Parallel()
	for what, k := range map[string]struct {
		answer string
		taken  int
		want   error
	}{
		"none":        {`{"results":[]}`, 0, ErrForged},
		"fewer":       {`{"results":[{"leaf":1},{"leaf":1}]}`, 0, ErrForged},
		"more":        {`{"results":[{"leaf":1},{"leaf":1},{"leaf":1},{"leaf":1}]}`, 0, ErrForged},
		"neither":     {`{"results":[{"leaf":1},{},{"leaf":1}]}`, 1, ErrForged},
		"both":        {`{"results":[{"leaf":1},{"leaf":1,"error":{"code":"full"}},{"leaf":1}]}`, 1, ErrForged},
		"full":        {`{"results":[{"leaf":1},{"error":{"code":"full"}}]}`, 1, ErrFull},
		"one refused": {`{"results":[{"leaf":1},{"error":{"code":"conflict"}},{"leaf":1}]}`, 1, ErrConflict},
		"control":     {`{"results":[{"leaf":1},{"leaf":1},{"leaf":1}]}`, 3, nil},
		"an old host": {"", 3, nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := liar(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // the client may be gone
				switch one := !strings.HasSuffix(r.URL.Path, path.Dir(slotPath(stretchSlot(1)))); {
				case one && k.answer == "":
					_, _ = io.WriteString(w, `{"leaf":1}`)
				case one:
					w.WriteHeader(http.StatusInternalServerError)
				case k.answer == "":
					w.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(w, `{"code":"not-found","what":"path","why":"not held for this state"}`)
				default:
					_, _ = io.WriteString(w, k.answer)
				}
			})
			n, err := c.PutRecords(t.Context(), stretchSlot(1), stretches(1, 3))
			if n != k.taken || !errors.Is(err, k.want) || (k.want == nil) != (err == nil) {
				t.Errorf("%d, %v; want %d, %v", n, err, k.taken, k.want)
			}
		})
	}
}

func FuzzBatchOfRecords(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendRecord(appendRecord(nil, 1, []byte("a")), 7, []byte("bc")))
	f.Add(appendRecord(appendRecord(nil, 7, []byte("a")), 7, []byte("bc")))
	f.Fuzz(func(t *testing.T, body []byte) {
		records, err := parseMany(ledger.StretchRecord, [16]byte{1}, body)
		if err != nil {
			return
		}
		var again []byte
		last := uint64(0)
		for _, r := range records {
			if r.slot.Sequence <= last {
				t.Error(fmt.Sprint(r.slot.Sequence, " behind ", last))
			}
			again, last = appendRecord(again, r.slot.Sequence, r.data), r.slot.Sequence
		}
		if !bytes.Equal(again, body) || len(records) > maxBatchRecords {
			t.Error("two bodies of one meaning, or too many records")
		}
	})
}
