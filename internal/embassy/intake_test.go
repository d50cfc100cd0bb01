package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/tessera"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// filesIn lists the files below a folder.
func filesIn(folder string) (files []string, err error) {
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

func TestWhatACrashLeavesInTmpIsCleared(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	for _, folder := range []string{s.state().store.tmp(), s.state().store.tmpFolder(tmpFolders - 1)} {
		f, err := durable.CreateIn(folder, filepath.Join(folder, "x"), filePerm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("begun")); err != nil {
			t.Fatal(err)
		}
	}
	tmp := s.state().store.tmp()
	s.stop()
	if left, err := filesIn(tmp); err != nil || len(left) != 2 {
		t.Fatalf("control: %v, %v", left, err)
	}
	serve(t, dir, Options{})
	if left, err := filesIn(tmp); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// outcome is what one embassy has after a test, in a form that can be compared.
func outcome(t *testing.T, s *site, objects []Object, errs []error) string {
	t.Helper()
	var out strings.Builder
	c := s.client(t, "agent")
	for i, o := range objects {
		var e *Error
		errors.As(errs[i], &e)
		if e == nil {
			fmt.Fprintf(&out, "%d: stored;", i)
		} else {
			fmt.Fprintf(&out, "%d: %v, %v;", i, e.Kind, e.Err)
		}
		got, err := c.Get(t.Context(), o.Name, nil)
		fmt.Fprintf(&out, " its bytes are there: %v, %v;", bytes.Equal(got, o.Data), errors.Is(err, ErrNotFound))
		_, err = c.Receipts(t.Context(), []shard.Name{o.Name}, nil)
		fmt.Fprintf(&out, " a receipt: %v\n", err == nil)
	}
	size, err := s.state().journal.size(t.Context())
	if err != nil {
		t.Error(err)
	}
	left, err := filesIn(s.state().store.tmp())
	fmt.Fprintf(&out, "%+v, %d leaves, left %v, %v\n", s.state().catalog.totals(), size, left, err)
	return out.String()
}

func TestABatchMeansTheSameAsSinglePuts(t *testing.T) {
	t.Parallel()
	var objects []Object
	for i := range 40 {
		name, data := object(1+i*1009, "batch", i)
		objects = append(objects, Object{name, data})
	}
	name, data := object(maxBatch, "batch") // does not fit in a batch
	objects = append(objects, Object{name, data}, Object{shard.Name{1}, []byte("of another name")}, objects[3], Object{shard.Name{2}, nil})
	run := func(put func(*Client, []Object) []error) string {
		s := serve(t, initFolder(t), Options{})
		c := s.client(t, "agent")
		// One is there already, one was there and is lost, one is damaged.
		for _, o := range objects[5:8] {
			if err := c.Put(t.Context(), o.Name, o.Data); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(s.state().store.path(objects[6].Name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(s.state().store.path(objects[7].Name), 3); err != nil {
			t.Fatal(err)
		}
		return outcome(t, s, objects, put(c, objects))
	}
	one := run(func(c *Client, all []Object) (errs []error) {
		for _, o := range all {
			errs = append(errs, c.Put(t.Context(), o.Name, o.Data))
		}
		return errs
	})
	many := run(func(c *Client, all []Object) []error { return c.PutMany(t.Context(), all) })
	// The length is the client's to refuse, in other words.
	one, _, _ = strings.Cut(one, "43: ")
	rest := "43: "
	many, rest, _ = strings.Cut(many, rest)
	if one != many {
		t.Errorf("one by one:\n%s\ntogether:\n%s", one, many)
	}
	if !strings.HasPrefix(rest, ErrInvalid.Error()) || !strings.Contains(one, "41: "+ErrInvalid.Error()) {
		t.Errorf("control: what is wrong is not refused:\n%s%s", many, rest)
	}
	less := run(func(c *Client, all []Object) []error {
		return append(c.PutMany(t.Context(), all[1:]), nil)
	})
	if strings.HasPrefix(less, one) {
		t.Error("control: an object that was not sent is not missed")
	}
}

func TestABatchIsWithinTheQuota(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{Quota: 25_000})
	var objects []Object
	for i := range 5 {
		name, data := object(10_000, "quota", i)
		objects = append(objects, Object{name, data})
	}
	stored := 0
	for i, err := range s.client(t, "agent").PutMany(t.Context(), objects) {
		switch {
		case err == nil:
			stored++
		case !errors.Is(err, ErrFull):
			t.Errorf("object %d: %v", i, err)
		}
	}
	if got := s.state().catalog.totals(); stored > 2 || got != (counts{int64(stored), int64(stored) * 10_000}) {
		t.Errorf("%d acknowledged, %+v held", stored, got)
	}
}

func TestMalformedBatchesAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, initFolder(t), Options{})
	c := rawClient(t, nil, "agent")
	name, data := object(100, "x")
	good := appendFrame(nil, name, data)
	for what, k := range map[string]struct {
		body   []byte
		status int
	}{
		"control":         {good, 200},
		"nothing":         {nil, 400},
		"a cut head":      {good[:20], 400},
		"a cut object":    {good[:len(good)-1], 400},
		"a byte too many": {append(slices.Clone(good), 0), 400},
		"an empty object": {appendFrame(nil, name, nil), 400},
		"a huge length":   {append([]byte{0xff, 0xff, 0xff, 0xff}, good[4:]...), 400},
		"many objects":    {bytes.Repeat(good, maxBatchObjects+1), 413},
		"many bytes":      {make([]byte, maxBatch+1), 413},
	} {
		url := "https://" + s.addr + "/v1/states/" + s.state().id.String() + "/objects"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(k.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != k.status {
			t.Errorf("%s: %d, want %d", what, resp.StatusCode, k.status)
		}
	}
	if err := errors.Join(s.client(t, "recovery").PutMany(t.Context(), []Object{{name, data}, {name, data}})...); !errors.Is(err, ErrRefused) {
		t.Errorf("the recovery key: %v", err)
	}
}

func TestAnswersToABatchAreChecked(t *testing.T) {
	t.Parallel()
	name, data := object(100, "x")
	two := []Object{{name, data}, {name, data}}
	answers := map[string]struct {
		batch string
		want  error
	}{
		"fewer":       {`{"results":[{"leaf":1}]}`, ErrForged},
		"more":        {`{"results":[{"leaf":1},{"leaf":1},{"leaf":1}]}`, ErrForged},
		"neither":     {`{"results":[{"leaf":1},{}]}`, ErrForged},
		"both":        {`{"results":[{"leaf":1},{"leaf":1,"error":{"code":"full"}}]}`, ErrForged},
		"full":        {`{"results":[{"leaf":1},{"error":{"code":"full"}}]}`, ErrFull},
		"control":     {`{"results":[{"leaf":1},{"leaf":1}]}`, nil},
		"an old host": {"", nil},
	}
	for what, k := range answers {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := liar(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // the client may be gone
				switch {
				case !strings.HasSuffix(r.URL.Path, "/objects"):
					_, _ = io.WriteString(w, `{"leaf":1}`)
				case k.batch == "":
					w.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(w, `{"code":"not-found","what":"path","why":"not held for this state"}`)
				default:
					_, _ = io.WriteString(w, k.batch)
				}
			})
			err := errors.Join(c.PutMany(t.Context(), two)...)
			if !errors.Is(err, k.want) || (k.want == nil) != (err == nil) {
				t.Errorf("%v, want %v", err, k.want)
			}
		})
	}
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendFrame(appendFrame(nil, shard.Name{1}, []byte("a")), shard.Name{2}, []byte("bc")))
	f.Fuzz(func(t *testing.T, body []byte) {
		objects, err := parseBatch(body)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range objects {
			again = appendFrame(again, o.name, o.data)
		}
		if !bytes.Equal(again, body) {
			t.Error("two bodies of one meaning")
		}
	})
}

func TestLeavesThatComeTogetherEachGetTheirPlace(t *testing.T) {
	t.Parallel()
	id := [16]byte{7}
	j, err := openJournal(filepath.Join(t.TempDir(), "ledger"), ledger.Origin(id, publicOf(keyOf("journal"))), keyOf("journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.close(); err != nil {
			t.Error(err)
		}
	})
	const many = 2*batchLeaves + 10
	leaf := func(n int) *ledger.Leaf {
		l := ledger.NewLeaf(ledger.ObjectStored, id)
		l.Name, l.Size, l.Actor = shard.Root(seeded(10, "together", n)), 10, [32]byte{1}
		return &l
	}
	places := make([]uint64, many)
	var appended sync.WaitGroup
	for n := range many {
		appended.Go(func() {
			var err error
			if places[n], err = j.append(leaf(n)); err != nil {
				t.Error(err)
			}
		})
	}
	appended.Wait()
	held := map[uint64]shard.Name{}
	_, err = j.each(t.Context(), 0, func(i uint64, l *ledger.Leaf) error { held[i] = l.Name; return nil }, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for n, at := range places {
		if held[at] != leaf(n).Name {
			t.Errorf("leaf %d is not at %d", n, at)
		}
	}
	// A batch that fails fails all of it, and the next may succeed.
	add := j.add
	broken := errors.New("broken")
	j.add = func(context.Context, *tessera.Entry) tessera.IndexFuture {
		return func() (tessera.Index, error) { return tessera.Index{}, broken }
	}
	if _, err := j.append(leaf(many)); !errors.Is(err, broken) {
		t.Errorf("a failed batch: %v", err)
	}
	j.add = add
	if at, err := j.append(leaf(many)); err != nil || at < many {
		t.Errorf("control: the next: %d, %v", at, err)
	}
}
