package embassy

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

func (q *session) name() (shard.Name, error) {
	n, err := shard.ParseName(q.r.PathValue("name"))
	if err != nil {
		return shard.Name{}, invalid("name", "not 64 lowercase hex digits")
	}
	return n, nil
}

// putObject acknowledges when bytes, name and leaf are durable.
func (s *Server) putObject(q *session) error {
	name, err := q.name()
	if err != nil {
		return err
	}
	size, err := q.length(maxObject)
	if err != nil {
		return err
	}
	index, created, err := s.take(q.r.Context(), &arrival{
		state: q.state, key: q.key, name: name, size: size,
		body: &bodyReader{q, size}, repair: q.r.Header.Get(repairHeader) != "",
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return q.w.json(status, leafJSON{index})
}

// arrival is an object that somebody sends.
type arrival struct {
	state  *state
	key    ed25519.PublicKey // of the sender
	name   shard.Name
	size   int64
	body   io.Reader
	repair bool // look at the copy on disk before it is believed
}

// take stores an object: when it returns nil, bytes, name and leaf are durable.
// It returns the object's leaf, and whether anything was written.
func (s *Server) take(ctx context.Context, a *arrival) (index uint64, created bool, err error) {
	st := a.state
	release, err := st.store.locks.take(ctx, a.name)
	if err != nil {
		return 0, false, err
	}
	defer release()
	at, leafed, err := st.catalog.object(a.name)
	if err != nil {
		return 0, false, err
	}
	if leafed {
		whole, err := a.whole(ctx, at)
		if err != nil || whole {
			return at.index, false, err
		}
		// Lost or damaged: write it again. Its leaf stays the first one.
		release, err := s.receive(a, false)
		if err == nil {
			release()
		}
		return at.index, true, err
	}
	if err := st.catalog.room(); err != nil {
		return 0, false, err
	}
	// Its room stays claimed until the catalogue counts it: in between others
	// would find it free.
	vacate, err := s.receive(a, true)
	if err != nil {
		return 0, false, err
	}
	defer vacate()
	l := ledger.NewLeaf(ledger.ObjectStored, st.id)
	l.Name, l.Size, l.Actor = a.name, uint64(a.size), [32]byte(a.key)
	index, err = st.act(&l)
	if err != nil {
		return 0, false, s.roomOr(st, err)
	}
	return index, true, nil
}

// whole tells whether the copy on disk will do: of the right length, or, when
// the client asks for repair, of the right bytes.
func (a *arrival) whole(ctx context.Context, at place) (bool, error) {
	if a.repair {
		what, err := a.state.store.check(ctx, a.name, int64(at.size))
		return what == "", err
	}
	n, err := a.state.store.stat(a.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return n == int64(at.size), err
}

// receive writes the body to disk, within quota (for what is new) and room.
// Unless it fails, release gives back the claim to them.
func (s *Server) receive(a *arrival, fresh bool) (release func(), err error) {
	release, err = s.reserve(a.state, a.size, fresh)
	if err != nil {
		return nil, err
	}
	if err := a.state.store.write(a.name, a.body, a.size); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// bodyReader is a request's body of known length. Its errors are blamed on the
// client, and its end lifts the deadline.
type bodyReader struct {
	q    *session
	left int64
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.q.r.Body.Read(p)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	if err != nil || b.left == 0 {
		err = b.q.blame(err)
	}
	return n, err
}

// reserve claims size bytes of the state's quota and of the disk.
func (s *Server) reserve(st *state, size int64, fresh bool) (release func(), err error) {
	pending := st.store.reserved.Add(size)
	release = func() { st.store.reserved.Add(-size) }
	if quota := st.quota(); fresh && quota > 0 && st.catalog.totals().bytes+pending > quota {
		release()
		return nil, full("the state's quota of " + strconv.FormatInt(quota, 10) + " bytes is used up")
	}
	free, err := st.store.free()
	if err == nil && free < pending+s.opts.Reserve {
		err = full("the disk is full")
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// roomOr blames a full disk for a failure of the ledger, whose driver does not
// pass the cause on.
func (s *Server) roomOr(st *state, err error) error {
	if free, ferr := st.store.free(); ferr == nil && free < 1<<20 {
		r := full("the disk is full")
		r.cause = err
		return r
	}
	return err
}

// getObject sends an object, or a range that begins at a leaf.
func (s *Server) getObject(q *session) error {
	name, err := q.name()
	if err != nil {
		return err
	}
	at, ok, err := q.state.catalog.objectEver(name)
	if err != nil {
		return err
	}
	if !ok || at.removed {
		return notHeld("object", ok, at.by)
	}
	f, err := q.state.store.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("object")
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("embassy: object: %w", err)
	}
	if info.Size() != int64(at.size) {
		return &refusal{status: http.StatusInternalServerError, Code: codeDamaged, What: "object", Why: "damaged on the embassy's disk"}
	}
	off, n, status := int64(0), info.Size(), http.StatusOK
	h := q.w.Header()
	if text := q.r.Header.Get("Range"); text != "" {
		if off, n, err = parseRange(text, info.Size()); err != nil {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(info.Size(), 10))
			return &refusal{status: http.StatusRequestedRangeNotSatisfiable, Code: codeInvalid, What: "range", Why: err.Error()}
		}
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, info.Size()))
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	h.Set("Cache-Control", "no-store")
	h.Set("Accept-Ranges", "bytes")
	q.w.WriteHeader(status)
	if status == http.StatusOK {
		defer durable.DropCache(f) // a restore reads an object once
	}
	return q.send(io.NewSectionReader(f, off, n))
}

// send copies a file to the peer in blocks, each in few system calls.
func (q *session) send(src io.Reader) error {
	blocks := q.state.store.blocks
	buf, spare := blocks.get(), blocks.get()
	defer blocks.put(buf)
	defer blocks.put(spare)
	under, corkable := q.r.Context().Value(corkKey{}).(*corked)
	corkable = corkable && q.r.ProtoMajor == 1
	for {
		n, err := io.ReadFull(src, *buf)
		if n > 0 {
			if corkable {
				under.cork(spare)
			}
			_, werr := q.w.Write((*buf)[:n])
			if corkable {
				werr = errors.Join(werr, under.uncork())
			}
			if werr != nil {
				return nil // the peer went away
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("embassy: object: %w", err)
		}
	}
}

// parseRange reads "bytes=FIRST-LAST" with FIRST at a leaf; LAST may lie beyond
// the end.
func parseRange(text string, size int64) (off, n int64, err error) {
	spec, ok := strings.CutPrefix(text, "bytes=")
	first, last, ok2 := strings.Cut(spec, "-")
	if !ok || !ok2 {
		return 0, 0, errors.New("not of the form bytes=FIRST-LAST")
	}
	a, err1 := strconv.ParseUint(first, 10, 62)
	b, err2 := strconv.ParseUint(last, 10, 62)
	if err1 != nil || err2 != nil || b < a {
		return 0, 0, errors.New("not of the form bytes=FIRST-LAST")
	}
	off = int64(a)
	if off%shard.LeafSize != 0 {
		return 0, 0, errors.New("does not begin at a leaf of 64 KiB")
	}
	if off >= size {
		return 0, 0, errors.New("begins beyond the end")
	}
	return off, min(int64(b)+1, size) - off, nil
}

func (s *Server) getLeaves(q *session) error {
	name, err := q.name()
	if err != nil {
		return err
	}
	at, ok, err := q.state.catalog.objectEver(name)
	if err != nil {
		return err
	}
	if !ok || at.removed {
		return notHeld("object", ok, at.by)
	}
	leaves, err := q.state.store.leaves(name)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("object")
	}
	if err != nil {
		return err
	}
	return q.w.raw(http.StatusOK, "application/octet-stream", leaves)
}

// hasObjects names what lacks a leaf or a file of the right length.
func (s *Server) hasObjects(q *session) error {
	names, err := q.names(maxNames)
	if err != nil {
		return err
	}
	reply := missingJSON{Missing: []string{}}
	for _, name := range names {
		at, ok, err := q.state.catalog.object(name)
		if err != nil {
			return err
		}
		if ok {
			n, err := q.state.store.stat(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			ok = err == nil && n == int64(at.size)
		}
		if !ok {
			reply.Missing = append(reply.Missing, name.String())
		}
	}
	return q.w.json(http.StatusOK, reply)
}

func (q *session) names(most int) ([]shard.Name, error) {
	var body namesJSON
	if err := q.question(&body, maxJSON); err != nil {
		return nil, err
	}
	if len(body.Names) > most {
		return nil, &refusal{status: http.StatusRequestEntityTooLarge, Code: codeTooLarge, What: "request", Why: "more than " + strconv.Itoa(most) + " names"}
	}
	names, err := parseNames(body.Names)
	if err != nil {
		return nil, invalid("name", "not 64 lowercase hex digits")
	}
	return names, nil
}

func (s *Server) listObjects(q *session) error {
	var after shard.Name
	limit, err := q.limit(maxList)
	if err != nil {
		return err
	}
	if text := q.r.URL.Query().Get("after"); text != "" {
		if after, err = shard.ParseName(text); err != nil {
			return invalid("after", "not 64 lowercase hex digits")
		}
	}
	if err := q.state.catchUp(q.r.Context()); err != nil {
		return err
	}
	names, err := q.state.catalog.listObjects(after, limit)
	if err != nil {
		return err
	}
	return q.w.json(http.StatusOK, namesJSON{hexNames(names)})
}

// limit is the page size asked for, 1 to most; absent is most.
func (q *session) limit(most int) (int, error) {
	text := q.r.URL.Query().Get("limit")
	if text == "" {
		return most, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, invalid("limit", "1 to "+strconv.Itoa(most)+" are possible")
	}
	return n, nil
}

// scrubObjects reads objects from disk and tells which are not what they should
// be. Two of these run at once, so that the disk has time for others.
func (s *Server) scrubObjects(q *session) error {
	names, err := q.names(maxScrub)
	if err != nil {
		return err
	}
	select {
	case s.scrubs <- struct{}{}:
		defer func() { <-s.scrubs }()
	case <-q.r.Context().Done():
		return q.r.Context().Err()
	}
	reply := scrubJSON{Checked: len(names), Damaged: []damageJSON{}}
	for _, name := range names {
		what := "unknown"
		at, ok, err := q.state.catalog.object(name)
		if err != nil {
			return err
		}
		if ok {
			if what, err = q.state.checkHeld(q.r.Context(), name, int64(at.size)); err != nil {
				return err
			}
		}
		if what != "" {
			reply.Damaged = append(reply.Damaged, damageJSON{Name: name.String(), What: what})
		}
	}
	return q.w.json(http.StatusOK, reply)
}
