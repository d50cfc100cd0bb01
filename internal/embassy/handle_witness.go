package embassy

import (
	"net/http"
	"strings"
	"time"

	"chancery.dev/chancery/internal/witness"
)

// askWitness hands a request over to the state's witness. It speaks as C2SP
// tlog-witness says, in plain text.
func (s *Server) askWitness(q *session) error {
	_, path, _ := strings.Cut(q.r.URL.Path, "/witness/")
	r := q.r.Clone(q.r.Context())
	r.URL.Path, r.URL.RawPath = "/"+path, ""
	q.w.Header().Set("Cache-Control", "no-store")
	q.w.Header().Set("X-Content-Type-Options", "nosniff")
	q.state.vigil.handler.ServeHTTP(q.w, r)
	return nil
}

// seen answers what this witness saw of a ledger; of its own one it knows best.
func (s *Server) seen(q *session) error {
	if q.r.PathValue("id") == witness.ID(q.state.journal.origin) {
		return s.checkpoint(q)
	}
	return s.askWitness(q)
}

// cosigned answers the newest checkpoint that satisfies the charter's policy.
func (s *Server) cosigned(q *session) error {
	k := q.state.notary.cosigned()
	if k.size == 0 {
		return notFound("cosigned checkpoint")
	}
	return q.w.raw(http.StatusOK, "text/plain; charset=utf-8", k.raw)
}

// putCosignatures takes the cosignatures of those who come by themselves.
func (s *Server) putCosignatures(q *session) error {
	raw, err := q.body(maxNote)
	if err != nil {
		return err
	}
	lines, err := q.state.notary.bring(q.r.Context(), raw)
	if err != nil {
		return err
	}
	if lines == 0 {
		return invalid("cosignature", "none of a member of the witness policy")
	}
	return q.w.json(http.StatusOK, broughtJSON{Lines: lines, CosignedSize: q.state.notary.cosigned().size})
}

// broughtJSON answers whoever brought cosignatures.
type broughtJSON struct {
	Lines        int    `json:"lines"` // that were taken
	CosignedSize uint64 `json:"cosigned_size"`
}

// WitnessStatus is how witnesses and this embassy stand to each other.
type WitnessStatus struct {
	// Frozen are the origins of the ledgers that the embassy does not cosign,
	// because it has not heard yet how far others saw them.
	Frozen []string `json:"frozen"`
	// RefusedBy tells who saw another history of this embassy's own ledger, or
	// more of it than there is: its folder was put back, or they lie.
	RefusedBy []Refused `json:"refused_by"`
	// LacksKey tells that the charter in force names an ML-DSA-44 key of the
	// embassy's that it does not have: what it cosigns counts nothing.
	LacksKey bool `json:"lacks_mldsa_key,omitempty"`
}

// witnessStatus is how it stands with the state's witnesses.
func (st *state) witnessStatus() *WitnessStatus {
	_, lacks := st.vigil.pair.under(st.inForce().charter)
	return &WitnessStatus{Frozen: st.vigil.frozen(), RefusedBy: st.notary.refusedBy(), LacksKey: lacks}
}

// Refused is one witness's refusal of this embassy's own ledger.
type Refused struct {
	By     string    `json:"by"` // its name in the charter, or in words who else
	Why    string    `json:"why"`
	Size   uint64    `json:"size"`   // leaves that it saw
	Proven bool      `json:"proven"` // it showed a checkpoint that this embassy signed and does not have
	At     time.Time `json:"at"`
}

// ScrubStatus is how the embassy's reading of its own disk stands.
type ScrubStatus struct {
	Sequence uint64    `json:"sequence"`       // of the newest scrub record; 0 is none
	Ended    time.Time `json:"ended,omitzero"` // of that record
	Checked  uint64    `json:"checked"`        // objects read in the last sweep, or in the first so far
	Damaged  uint64    `json:"damaged"`        // objects known to be damaged now
	Coverage float64   `json:"coverage"`       // share of the objects that were read in time, 0 to 1
}

// body reads a whole body of at most limit bytes.
func (q *session) body(limit int64) ([]byte, error) {
	size, err := q.length(limit)
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if err := q.read(data); err != nil {
		return nil, err
	}
	return data, nil
}
