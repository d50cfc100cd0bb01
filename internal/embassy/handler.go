package embassy

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"chancery.dev/chancery/internal/durable"
)

// access is what a request needs.
type access uint8

const (
	mayRead  access = iota + 1 // agents and the recovery key
	mayWrite                   // agents
)

// session is one request that has been let in.
type session struct {
	state *state
	key   ed25519.PublicKey
	w     *reply
	r     *http.Request
}

// Handler is the whole interface. Over anything but TLS it answers only with
// refusals.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/identity", s.logged(s.identity))
	route := func(pattern string, need access, h func(*session) error) {
		mux.HandleFunc(pattern, s.logged(s.admit(need, h)))
	}
	const base = " /v1/states/{state}/"
	route("PUT"+base+"objects/{name}", mayWrite, s.putObject)
	route("GET"+base+"objects/{name}", mayRead, s.getObject)
	route("GET"+base+"objects/{name}/leaves", mayRead, s.getLeaves)
	route("GET"+base+"objects", mayRead, s.listObjects)
	route("POST"+base+"objects/has", mayRead, s.hasObjects)
	route("POST"+base+"objects/scrub", mayRead, s.scrubObjects)
	route("PUT"+base+"records/{kind}/{register}/{sequence}", mayWrite, s.putRecord)
	route("GET"+base+"records/{kind}/{register}/{sequence}", mayRead, s.getRecord)
	route("GET"+base+"records/{kind}", mayRead, s.listRecords)
	route("POST"+base+"receipts", mayRead, s.receipts)
	route("GET"+base+"checkpoint", mayRead, s.checkpoint)
	route("GET"+base+"tile/{path...}", mayRead, s.tile)
	route("GET"+base+"charter", mayRead, s.getCharter)
	route("PUT"+base+"charter", mayWrite, s.putCharter)
	route("GET"+base+"status", mayRead, s.status)
	mux.HandleFunc("/", s.logged(func(w *reply, r *http.Request) error {
		if s.caller(r) == nil {
			return refused("this key is not known here")
		}
		return notFound("path")
	}))
	return mux
}

// admit lets agents and the recovery key of a state in. A stranger gets the same
// answer whether or not the state is here.
func (s *Server) admit(need access, h func(*session) error) func(*reply, *http.Request) error {
	return func(w *reply, r *http.Request) error {
		key := peerKey(r.TLS)
		st := s.states[r.PathValue("state")]
		if key == nil || st == nil {
			return refused("this key is not known here")
		}
		roster := st.inForce().roster
		agent, recovery := roster.IsAgent(key), roster.IsRecovery(key)
		switch {
		case !agent && !recovery:
			return refused("this key is not known here")
		case need == mayWrite && !agent:
			return refused("the recovery key may read only")
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-r.Context().Done():
			return r.Context().Err()
		}
		return h(&session{state: st, key: key, w: w, r: r})
	}
}

// caller is the state that knows the peer's key, or nil.
func (s *Server) caller(r *http.Request) *state {
	key := peerKey(r.TLS)
	if key == nil {
		return nil
	}
	for _, st := range s.states {
		if roster := st.inForce().roster; roster.IsAgent(key) || roster.IsRecovery(key) {
			return st
		}
	}
	return nil
}

// logged runs a handler, turns its error into a refusal, and writes one line:
// which route, for which state, how it ended, how long it took. Never names,
// addresses of people or contents.
func (s *Server) logged(h func(*reply, *http.Request) error) http.HandlerFunc {
	return func(hw http.ResponseWriter, r *http.Request) {
		s.active.Add(1)
		defer s.active.Done()
		began := time.Now()
		w := &reply{ResponseWriter: hw}
		err := s.deadlines(w, r)
		if err == nil {
			err = h(w, r)
		}
		var cause error
		if err != nil {
			cause = s.refuse(w, r, err)
		}
		attrs := []any{
			"method", r.Method, "route", r.Pattern, "state", r.PathValue("state"),
			"status", w.status, "took", time.Since(began).Round(time.Microsecond),
		}
		if cause != nil {
			s.log.Error("request failed", append(attrs, "err", cause)...)
			return
		}
		s.log.Info("request", attrs...)
	}
}

// deadlines gives a body the time that its bytes may take at the slowest rate
// that is put up with, and the answer the time of the largest answer. While the
// embassy works there is no deadline for reading: its end would cancel the work.
func (s *Server) deadlines(w *reply, r *http.Request) error {
	rc := http.NewResponseController(w)
	now := time.Now()
	var read time.Time
	body := time.Duration(min(max(r.ContentLength, 0), maxObject)) * time.Second / minRate
	if r.ContentLength != 0 {
		read = now.Add(s.opts.patience + body)
	}
	if err := rc.SetReadDeadline(read); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return failed("request", err)
	}
	answer := time.Duration(maxObject) * time.Second / minRate
	err := rc.SetWriteDeadline(now.Add(s.opts.patience + body + scrubTime + answer))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return failed("request", err)
	}
	return nil
}

// read fills p from the body, or blames the client for what is missing.
func (q *session) read(p []byte) error {
	_, err := io.ReadFull(q.r.Body, p)
	return q.blame(err)
}

// blame turns the errors of reading a body into refusals, and lifts the deadline
// when it is read.
func (q *session) blame(err error) error {
	switch {
	case err == nil:
		err := http.NewResponseController(q.w).SetReadDeadline(time.Time{})
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			return failed("request", err)
		}
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusRequestTimeout, Code: codeInvalid, What: "request", Why: "the body came too slowly"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return invalid("request", "the body ended early")
	}
	return err
}

// refuse answers with an error and returns what the embassy's log should know.
func (s *Server) refuse(w *reply, r *http.Request, err error) (cause error) {
	var why *refusal
	switch {
	case errors.As(err, &why):
	case errors.Is(err, errMismatch):
		why = &refusal{status: http.StatusUnprocessableEntity, Code: codeMismatch, What: "object", Why: "the bytes do not make the name"}
	case durable.Full(err):
		why = full("the disk is full")
		cause = err
	case errors.Is(err, errCatalogFull):
		why = &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "store", Why: "catching up"}
	case r.Context().Err() != nil || errors.Is(err, context.DeadlineExceeded):
		why = &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "request", Why: "not done in time"}
	default:
		why = failed("request", err)
	}
	cause = errors.Join(cause, why.cause)
	if w.status != 0 {
		return errors.Join(cause, err) // the answer had begun: it is cut short
	}
	return errors.Join(cause, w.json(why.status, why))
}

// reply remembers the status for the log.
type reply struct {
	http.ResponseWriter
	status int
}

// WriteHeader keeps the status.
func (w *reply) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write begins with 200 like any ResponseWriter.
func (w *reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *reply) json(status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.raw(status, "application/json", append(data, '\n'))
}

func (w *reply) raw(status int, kind string, data []byte) error {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err := w.Write(data)
	if err != nil {
		return nil // the peer went away: its loss, and in the line's status
	}
	return nil
}

// question reads a JSON request: one document, known fields, at most limit bytes.
func (q *session) question(v any, limit int64) error {
	if q.r.ContentLength > limit {
		return &refusal{status: http.StatusRequestEntityTooLarge, Code: codeTooLarge, What: "request", Why: "more than " + strconv.FormatInt(limit, 10) + " bytes"}
	}
	dec := json.NewDecoder(http.MaxBytesReader(q.w, q.r.Body, limit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return q.blame(err)
		}
		return invalid("request", "not the JSON that is due")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("request", "more than one JSON document")
	}
	return q.blame(nil)
}

// length is the length of a raw body, 1 to limit bytes, known beforehand.
func (q *session) length(limit int64) (int64, error) {
	n := q.r.ContentLength
	switch {
	case n < 0:
		return 0, &refusal{status: http.StatusLengthRequired, Code: codeInvalid, What: "request", Why: "Content-Length is missing"}
	case n == 0:
		return 0, invalid("request", "an empty body")
	case n > limit:
		return 0, &refusal{status: http.StatusRequestEntityTooLarge, Code: codeTooLarge, What: "request", Why: "more than " + strconv.FormatInt(limit, 10) + " bytes"}
	}
	return n, nil
}

func (s *Server) identity(w *reply, _ *http.Request) error {
	return w.json(http.StatusOK, identityJSON{
		Name: s.settings.Name, Country: s.settings.Country,
		Key: base64.StdEncoding.EncodeToString(publicOf(s.key)),
	})
}

func (s *Server) status(q *session) error {
	size, err := q.state.journal.size(q.r.Context())
	if err != nil {
		return err
	}
	free, err := q.state.store.free()
	if err != nil {
		return err
	}
	totals := q.state.catalog.totals()
	return q.w.json(http.StatusOK, Status{
		Name: s.settings.Name, Country: s.settings.Country,
		Objects: totals.objects, Bytes: totals.bytes, FreeBytes: uint64(max(free, 0)),
		LedgerSize: size, CharterNumber: q.state.inForce().charter.Number, Version: s.opts.Version,
	})
}
