package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// Home is a witness too. Nobody can reach it, so it goes to the ledgers: it fetches each embassy's checkpoint, has it
// proven that the ledger only grew since home saw it last, keeps it, cosigns it, and brings the cosignature back.

// witnessedJSON is what home, as a witness, made of one ledger.
type witnessedJSON struct {
	Embassy string `json:"embassy"`
	Size    uint64 `json:"size,omitempty"`
	State   string `json:"state"` // "cosigned", "frozen", "offline", "forked", "failed"
	Why     string `json:"why,omitempty"`
}

// States of a ledger in the eyes of home's witness.
const (
	ledgerCosigned = "cosigned"
	ledgerFrozen   = "frozen"
	ledgerOffline  = "offline"
	ledgerForked   = "forked"
	ledgerFailed   = "failed"
)

// errUnnamed: the charter does not know home's witness, so its cosignatures would count nowhere.
var errUnnamed = errors.New("the charter does not name home as a witness")

// witnessRound cosigns the ledger of every embassy that answers, once. The answer is in the charter's order. It fails
// only for reasons at home: durable.ErrLocked while another process does the same, home.ErrReadOnly or errUnnamed where
// home is no witness yet.
func witnessRound(ctx context.Context, conn *connection) ([]witnessedJSON, error) {
	key, _, err := conn.home.WitnessKey()
	if err != nil {
		return nil, err
	}
	ch := conn.home.Charter
	w, err := newWard(ch, key)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	defer func() {
		for _, x := range w.clients {
			x.Close()
		}
	}()
	if w.self == "" {
		return nil, errUnnamed
	}
	dir := conn.home.WitnessDir()
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	defer unlock()
	cosigners, err := conn.home.Cosigners()
	if err != nil {
		return nil, err
	}
	own, err := witness.Open(dir, cosigners, time.Now)
	if err != nil {
		return nil, err
	}
	damaged := own.SetLogs(ch.Logs()) // of the others all goes on
	round, cosigned := make([]witnessedJSON, len(ch.Embassies)), make([]ledger.Checkpoint, len(ch.Embassies))
	var all sync.WaitGroup
	for i, e := range ch.Embassies {
		all.Go(func() { round[i], cosigned[i] = w.witnessed(ctx, own, e) })
	}
	all.Wait()
	for i, e := range ch.Embassies { // so that every command refuses an older one
		if round[i].State == ledgerCosigned {
			damaged = errors.Join(damaged, conn.remember(ctx, e, cosigned[i]))
		}
	}
	return round, damaged
}

// vouchTime is how long a command waits, when its work is done, for home to cosign the ledgers.
const vouchTime = 30 * time.Second

// vouch has home cosign the ledgers after something was added to them. What keeps it from doing so is the agent's to
// tell, but for a ledger that does not continue what home saw.
func (c *connection) vouch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, vouchTime)
	defer cancel()
	round, _ := witnessRound(ctx, c)
	var forked error
	for _, l := range round {
		if l.State == ledgerForked {
			forked = errors.Join(forked, &failure{
				err: fmt.Errorf("%s: %w: %s", l.Embassy, errRolledBack, l.Why), code: exitForked,
				hint: "chancery ledger verify --embassy " + l.Embassy + "; keep the home folder, it is evidence",
			})
		}
	}
	return forked
}

// witnessed cosigns one ledger, and says how it went; cp has home's cosignature then.
func (w *ward) witnessed(ctx context.Context, own *witness.Witness, e charter.Embassy) (out witnessedJSON, cp ledger.Checkpoint) {
	cp, err := w.cosign(ctx, own, e)
	out = witnessedJSON{Embassy: e.Name, Size: cp.Size, State: ledgerCosigned}
	if err == nil {
		return out, cp
	}
	out.State, out.Why = ledgerFailed, err.Error()
	var longer *witness.OldSize
	switch {
	case errors.Is(err, witness.ErrForked), errors.Is(err, witness.ErrProof), errors.Is(err, ledger.ErrForked),
		errors.Is(err, ledger.ErrShorter), errors.As(err, &longer):
		out.State = ledgerForked
	case errors.Is(err, witness.ErrFrozen), errors.Is(err, witness.ErrDamaged):
		out.State = ledgerFrozen
	case errors.Is(err, embassy.ErrUnreachable):
		out.State = ledgerOffline
	}
	return out, cp
}

// cosign does it. The witness keeps the checkpoint before the cosignature leaves; a crash after that leaves one that
// nobody has, and the next round brings it.
func (w *ward) cosign(ctx context.Context, own *witness.Witness, e charter.Embassy) (ledger.Checkpoint, error) {
	x, l := w.clients[e.Name], e.Log()
	cp, held, err := w.look(ctx, own, e)
	if err == nil && own.Frozen(l.Origin) {
		if err = w.ask(ctx, own, l); err == nil { // the others may have seen more
			cp, held, err = w.look(ctx, own, e)
		}
	}
	if err != nil {
		return cp, err
	}
	req := ledger.AddCheckpoint{Old: held.Size, Checkpoint: cp.Raw}
	if cp.Size > held.Size { // of one size and two roots, Add keeps the evidence
		if req.Proof, err = x.Consistency(ctx, held, cp); err != nil {
			return cp, err
		}
	}
	lines, err := own.Add(&req)
	if err != nil {
		return cp, fmt.Errorf("%s: %w", e.Name, err)
	}
	note, err := ledger.AddSignatures(cp.Raw, lines)
	if err != nil {
		return cp, err
	}
	cp.Raw = note
	return cp, x.PutCosignatures(ctx, note)
}

// look fetches the embassy's checkpoint, and the one that home's witness holds: that of the empty tree where there is
// none. It fails with ledger.ErrShorter where the ledger has shrunk.
func (w *ward) look(ctx context.Context, own *witness.Witness, e charter.Embassy) (cp, held ledger.Checkpoint, err error) {
	held = ledger.Checkpoint{Origin: e.Origin, Root: sha256.Sum256(nil)}
	if cp, err = w.clients[e.Name].Checkpoint(ctx); err != nil {
		return cp, held, err
	}
	raw, ok := own.Seen(e.Origin)
	if !ok {
		return cp, held, nil
	}
	v, err := ledger.NewVerifier(e.Origin, e.PublicKey())
	if err != nil {
		return cp, held, err
	}
	if held, err = ledger.ParseCheckpoint(raw, v); err != nil {
		return cp, held, fmt.Errorf("%s: checkpoint kept by home's witness: %w", e.Name, err)
	}
	if cp.Size < held.Size {
		err = fmt.Errorf("%s: it shows %s and had %d: %w", e.Name, plural(cp.Size, "entry"), held.Size, ledger.ErrShorter)
	}
	return cp, held, err
}
