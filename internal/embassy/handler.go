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
	"chancery.dev/chancery/internal/peer"
)

// access is what a request needs.
type access uint8

const (
	mayRead    access = iota + 1 // agents and the recovery key
	mayWrite                     // agents
	mayInspect                   // all whom the charter names: the ledger, audits, nothing stored
	mayCosign                    // agents, embassies and witnesses
)

// allows tells whether the charter in force gives a key this access, and, where
// it gives another, why not. known is false for a stranger.
func (need access) allows(st *state, key ed25519.PublicKey) (ok, known bool, why string) {
	if known = st.knows(key); !known {
		return false, false, ""
	}
	roster := st.inForce().roster
	_, embassy := roster.EmbassyByKey(key)
	agent, recovery := roster.IsAgent(key), roster.IsRecovery(key)
	switch need {
	case mayRead:
		return agent || recovery, known, "this key may inspect the ledger only"
	case mayWrite:
		return agent, known, "this key may not write"
	case mayInspect:
		return known, known, ""
	case mayCosign:
		return agent || embassy || roster.IsWitness(key), known, "this key may not hand in checkpoints"
	}
	return false, known, "no such access"
}

// session is one request that has been let in.
type session struct {
	state *state
	key   ed25519.PublicKey
	w     *reply
	r     *http.Request
	slots chan struct{} // of which it holds a token
	waits chan struct{} // see aside
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
	route("PUT"+base+"objects", mayWrite, s.putBatch)
	route("GET"+base+"objects/{name}", mayRead, s.getObject)
	route("GET"+base+"objects/{name}/leaves", mayRead, s.getLeaves)
	route("GET"+base+"objects", mayRead, s.listObjects)
	route("POST"+base+"objects/has", mayRead, s.hasObjects)
	route("POST"+base+"objects/scrub", mayRead, s.scrubObjects)
	route("PUT"+base+"records/{kind}/{register}/{sequence}", mayWrite, s.putRecord)
	route("PUT"+base+"records/{kind}/{register}", mayWrite, s.putRecords)
	route("GET"+base+"records/{kind}/{register}/{sequence}", mayInspect, s.getRecord)
	route("GET"+base+"records/{kind}", mayInspect, s.listRecords)
	route("POST"+base+"receipts", mayRead, s.receipts)
	route("GET"+base+"checkpoint", mayInspect, s.checkpoint)
	route("GET"+base+"tile/{path...}", mayInspect, s.tile)
	route("GET"+base+"cosigned", mayInspect, s.cosigned)
	route("POST"+base+"cosignatures", mayCosign, s.putCosignatures)
	route("POST"+base+"witness/add-checkpoint", mayCosign, s.askWitness)
	route("GET"+base+"witness/seen/{id}", mayInspect, s.seen)
	route("POST"+base+"audit", mayInspect, s.audit)
	route("GET"+base+"charter", mayInspect, s.getCharter)
	route("PUT"+base+"charter", mayWrite, s.putCharter)
	route("GET"+base+"status", mayInspect, s.status)
	mux.HandleFunc("POST"+base+"orders", s.logged(s.postOrder))
	mux.HandleFunc("POST"+base+"orders/{order}/vetoes", s.logged(s.postVeto))
	route("GET"+base+"agreement", mayInspect, s.getAgreement)
	route("PUT"+base+"agreement", mayInspect, s.putAgreement)
	route("GET"+base+"orders", mayInspect, s.listOrders)
	route("GET"+base+"orders/{order}", mayInspect, s.getOrder)
	route("GET"+base+"orders/{order}/attachments/{hash}", mayInspect, s.getAttachment)
	route("GET"+base+"orders/{order}/cosigned/{moment}", mayInspect, s.getSeen)
	mux.HandleFunc("/", s.logged(func(w *reply, r *http.Request) error {
		if s.caller(r) == nil {
			return refused("this key is not known here")
		}
		return notFound("path")
	}))
	return mux
}

// admit lets those in whom the state's charter names, each to what is theirs. A
// stranger gets the same answer whether or not the state is here.
func (s *Server) admit(need access, h func(*session) error) func(*reply, *http.Request) error {
	return func(w *reply, r *http.Request) error {
		key := peer.Key(r.TLS)
		st := s.states[r.PathValue("state")]
		if key == nil || st == nil {
			return refused("this key is not known here")
		}
		ok, known, why := need.allows(st, key)
		switch {
		case !known:
			return refused("this key is not known here")
		case !ok:
			return refused(why)
		}
		if err := st.within(need); err != nil {
			return err
		}
		// Those who wait for cosignatures must never keep those out who bring them.
		slots := s.slots
		if need == mayCosign {
			slots = s.vigils
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-r.Context().Done():
			return r.Context().Err()
		}
		return h(&session{state: st, key: key, w: w, r: r, slots: slots, waits: s.waits})
	}
}

// aside gives the request's place to others while it waits for something that is
// not its own work: those who wait must never keep out those who write. Too many
// that wait are told to come again.
func (q *session) aside(wait func() error) error {
	select {
	case q.waits <- struct{}{}:
		defer func() { <-q.waits }()
	default:
		return &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "request", Why: "too many wait already"}
	}
	<-q.slots
	defer func() { q.slots <- struct{}{} }()
	return wait()
}

// caller is the state that knows the peer's key, or nil.
func (s *Server) caller(r *http.Request) *state {
	key := peer.Key(r.TLS)
	if key == nil {
		return nil
	}
	for _, st := range s.states {
		if st.knows(key) {
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

// reason is what a client is told of an error, and what the embassy's log
// should know besides.
func reason(ctx context.Context, err error) (why *refusal, cause error) {
	switch {
	case errors.As(err, &why):
	case errors.Is(err, errMismatch):
		why = &refusal{status: http.StatusUnprocessableEntity, Code: codeMismatch, What: "object", Why: "the bytes do not make the name"}
	case durable.Full(err):
		why = full("the disk is full")
		cause = err
	case errors.Is(err, errCatalogFull):
		why = &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "store", Why: "catching up"}
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		why = &refusal{status: http.StatusServiceUnavailable, Code: codeBusy, What: "request", Why: "not done in time"}
	default:
		why = failed("request", err)
	}
	return why, cause
}

// refuse answers with an error and returns what the embassy's log should know.
func (s *Server) refuse(w *reply, r *http.Request, err error) (cause error) {
	why, cause := reason(r.Context(), err)
	cause = errors.Join(cause, why.cause)
	if w.status != 0 {
		return errors.Join(cause, err) // the answer had begun: it is cut short
	}
	if why.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(why.after))
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
		Key:      base64.StdEncoding.EncodeToString(publicOf(s.key)),
		MLDSAKey: base64.StdEncoding.EncodeToString(s.pair.second.Key().PublicKey()),
	})
}

func (s *Server) status(q *session) error {
	size, err := q.state.journal.size(q.r.Context())
	if err != nil {
		return err
	}
	totals, cosigned := q.state.catalog.totals(), q.state.notary.cosigned()
	free := q.state.quota() - totals.bytes
	if q.state.quota() == 0 && len(s.states) == 1 { // else it would tell of the others
		if free, err = q.state.store.free(); err != nil {
			return err
		}
	}
	return q.w.json(http.StatusOK, Status{
		Name: s.settings.Name, Country: s.settings.Country,
		Objects: uint64(totals.objects), Bytes: uint64(totals.bytes), FreeBytes: uint64(max(free, 0)),
		LedgerSize: size, CharterNumber: q.state.inForce().charter.Number, Version: s.opts.Version,
		CosignedSize: cosigned.size, CosignedTime: cosigned.time,
		Agreement: q.state.agreementStatus(),
		Scrub:     q.state.scrub.status(),
		Witness:   q.state.witnessStatus(),
	})
}
