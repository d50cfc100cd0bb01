package witness

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

const (
	// maxBody caps a request's body in bytes: the old size, 63 proof lines and a checkpoint.
	maxBody = 32 + 64*45 + maxNote
	// bodyTime is how long a request may take to come, and its answer to leave.
	bodyTime = 30 * time.Second

	sizeType = "text/x.tlog.size" // of a 409 that tells the size cosigned last
	textType = "text/plain; charset=utf-8"
	// seenHeader tells a witness that has seen nothing of a log from a server that has no such path.
	seenHeader  = "Chancery-Seen"
	seenNothing = "nothing"
)

// Handler serves the witness over HTTP: POST /add-checkpoint as in C2SP tlog-witness, and GET /seen/ID, which answers
// the newest checkpoint held of the log with that ID, or 404 with the header "Chancery-Seen: nothing". Who may ask is
// the owner's to decide.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", w.serveAdd)
	mux.HandleFunc("GET /seen/{id}", w.serveSeen)
	return mux
}

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(rw)
	deadline := time.Now().Add(w.patience)
	// What serves a test in memory has no deadlines, and needs none.
	_, _ = c.SetReadDeadline(deadline), c.SetWriteDeadline(deadline.Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(rw, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(rw, "the body did not come", http.StatusRequestTimeout)
		return
	}
	req, err := ledger.ParseAddCheckpoint(body)
	if err != nil {
		http.Error(rw, ErrInvalid.Error(), http.StatusBadRequest)
		return
	}
	lines, err := w.Add(&req)
	var old *OldSize
	if errors.As(err, &old) {
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(rw, "%d\n", old.Size) // whoever hung up asks again
		return
	}
	if err != nil {
		status, why := statusOf(err)
		if status == http.StatusServiceUnavailable {
			rw.Header().Set("Retry-After", "10")
		}
		http.Error(rw, why, status)
		return
	}
	rw.Header().Set("Content-Type", textType)
	_, _ = rw.Write(lines) // whoever hung up asks again
}

// statuses says how each refusal travels.
func statuses() []struct {
	err    error
	status int
} {
	return []struct {
		err    error
		status int
	}{
		{ErrUnknownLog, http.StatusNotFound},
		{ErrSignature, http.StatusForbidden},
		{ErrForked, http.StatusConflict},
		{ErrProof, http.StatusUnprocessableEntity},
		{ErrInvalid, http.StatusBadRequest},
		{ErrFrozen, http.StatusServiceUnavailable},
	}
}

// statusOf maps an error to what travels. The words are fixed: nothing of this machine is told.
func statusOf(err error) (int, string) {
	for _, s := range statuses() {
		if errors.Is(err, s.err) {
			return s.status, s.err.Error()
		}
	}
	return http.StatusInternalServerError, "the witness's disk or program failed"
}

func (w *Witness) serveSeen(rw http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !isID(id) {
		http.Error(rw, "not the id of a log", http.StatusBadRequest)
		return
	}
	raw, err := w.seen(id)
	switch {
	case err != nil:
		http.Error(rw, "the witness's disk or program failed", http.StatusInternalServerError)
	case raw == nil:
		rw.Header().Set(seenHeader, seenNothing)
		http.Error(rw, "nothing seen of this log", http.StatusNotFound)
	default:
		rw.Header().Set("Content-Type", textType)
		_, _ = rw.Write(raw) // whoever hung up asks again
	}
}
