package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/witness"
)

// maxTile caps a tile or bundle of entries, in bytes: 256 leaves with their
// lengths.
const maxTile = layout.TileWidth * (2 + ledger.MaxLeaf)

// Cosigned returns the newest checkpoint of the state's ledger that the embassy
// has enough cosignatures for: the whole note. The ledger's own signature is
// verified; whether the rest is enough, ledger.Policy.Judge tells. ErrNotFound
// when there is none yet.
func (c *Client) Cosigned(ctx context.Context) ([]byte, error) {
	return c.note(ctx, "fetch the cosigned checkpoint", "cosigned")
}

// note fetches a checkpoint of this ledger as the note that it is.
func (c *Client) note(ctx context.Context, op, path string) ([]byte, error) {
	var raw []byte
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: path, reply: maxNote,
		accept: func(_ *http.Response, body io.Reader) error {
			var err error
			if raw, err = io.ReadAll(body); err != nil {
				return err
			}
			_, err = ledger.ParseCheckpoint(raw, c.verifier)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// PutCosignatures brings a checkpoint of the state's ledger with one cosignature
// or more. It is how a witness that no embassy can reach cosigns.
func (c *Client) PutCosignatures(ctx context.Context, note []byte) error {
	const op = "bring cosignatures"
	if len(note) == 0 || len(note) > maxNote {
		return c.fail(op, ErrInvalid, fmt.Errorf("%d bytes", len(note)))
	}
	var taken broughtJSON
	return c.do(ctx, &call{
		op: op, method: http.MethodPost, path: "cosignatures", body: note,
		header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		reply:  maxErrorDoc, work: diskTime, accept: intoJSON(&taken),
	})
}

// Tile returns a tile or bundle of entries of the state's ledger as the embassy
// sent it, by its path in C2SP tlog-tiles: "tile/0/000", "tile/entries/000.p/7".
// A partial tile that the embassy has only whole by now comes whole.
func (c *Client) Tile(ctx context.Context, path string) ([]byte, error) {
	op := "fetch " + printable(path)
	if !strings.HasPrefix(path, "tile/") || !tilePattern.MatchString(strings.TrimPrefix(path, "tile/")) {
		return nil, c.fail(op, ErrInvalid, errors.New("not the path of a tile"))
	}
	data, err := c.tile(ctx, op, path)
	if whole, _, partial := strings.Cut(path, ".p/"); partial && errors.Is(err, ErrNotFound) {
		return c.tile(ctx, op, whole)
	}
	return data, err
}

func (c *Client) tile(ctx context.Context, op, path string) ([]byte, error) {
	var data []byte
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: path, reply: maxTile,
		accept: func(resp *http.Response, body io.Reader) error {
			var err error
			data, err = readInto(nil, resp.ContentLength, maxTile, body)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Consistency returns the proof that the newer of two checkpoints of the state's
// ledger continues the older one, built from the embassy's tiles and verified.
// ErrForged with ledger.ErrForked or ledger.ErrShorter inside: it does not; both
// checkpoints together are evidence when the ledger signed both.
func (c *Client) Consistency(ctx context.Context, older, newer ledger.Checkpoint) ([][32]byte, error) {
	const op = "prove that the ledger only grew"
	if older.Size >= newer.Size || older.Size == 0 {
		if err := c.joined(older, newer, nil); err != nil {
			return nil, c.fail(op, ErrForged, err)
		}
		return nil, nil
	}
	var failed error
	prover, err := ledger.NewProver(newer.Size, func(t ledger.Tile) ([]byte, error) {
		partial := uint8(0)
		if t.Width < layout.TileWidth {
			partial = uint8(t.Width)
		}
		data, err := c.Tile(ctx, layout.TilePath(uint64(t.Level), t.Index, partial))
		if err != nil {
			failed = err
		}
		return data, err
	})
	var proof [][32]byte
	if err == nil {
		proof, err = prover.Consistency(older.Size)
	}
	if failed != nil {
		return nil, failed // *Error already
	}
	if err == nil {
		err = c.joined(older, newer, proof)
	}
	if err != nil {
		return nil, c.fail(op, ErrForged, err)
	}
	return proof, nil
}

// joined verifies a proof. An older checkpoint of which only the size is known
// (no Raw and no root) is taken on trust: whoever asked checks the proof against
// the tree that it cosigned.
func (c *Client) joined(older, newer ledger.Checkpoint, proof [][32]byte) error {
	if older.Raw == nil && older.Root == [32]byte{} && older.Size <= newer.Size {
		return nil
	}
	return ledger.VerifyConsistency(older, newer, proof)
}

// WitnessRemote is this embassy as a witness of the state's other ledgers. It
// lives as long as the Client does.
func (c *Client) WitnessRemote() *witness.Remote {
	r := &witness.Remote{Prefix: c.url + "/v1/states/" + c.state.String() + "/witness", HTTP: c.http}
	if c.http == nil {
		broken := c.broken
		r.HTTP = &http.Client{Transport: noTransport{broken}}
	}
	name := ledger.WitnessName(c.server)
	if key, err := ledger.NewWitnessKey(name, c.server); err == nil {
		r.Key = []ledger.WitnessKey{key}
	}
	if key, err := ledger.NewMLDSAWitnessKey(name, c.mldsa); err == nil { // Dial refused what is none
		r.Key = append(r.Key, key)
	}
	return r
}

// noTransport is of a Client that cannot speak to anybody.
type noTransport struct{ err error }

// RoundTrip fails with the configuration's error.
func (n noTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, n.err }

// Seen returns the newest checkpoint of any of the state's ledgers, by its
// origin, that the embassy saw as a witness, unverified; nil when it saw none.
func (c *Client) Seen(ctx context.Context, origin string) ([]byte, error) {
	const op = "ask which checkpoint was seen"
	if c.broken != nil {
		return nil, c.fail(op, ErrUnreachable, c.broken)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	raw, err := c.WitnessRemote().Seen(ctx, origin)
	if err == nil {
		return raw, nil
	}
	kind := ErrUnreachable
	switch {
	case errors.Is(err, ErrWrongKey):
		kind = ErrWrongKey
	case errors.Is(err, witness.ErrNoSeen):
		kind = ErrNotFound
	}
	return nil, c.fail(op, kind, withoutURL(err))
}

// Audit sends a challenge and returns the answer as it comes, for audit.Verify.
// It ends with ctx, and after auditTime in any case. The caller closes it.
func (c *Client) Audit(ctx context.Context, ch *audit.Challenge) (io.ReadCloser, error) {
	const op = "audit"
	if c.broken != nil {
		return nil, c.fail(op, ErrUnreachable, c.broken)
	}
	body, err := ch.Bytes()
	if err != nil {
		return nil, c.fail(op, ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout+auditTime)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/states/"+c.state.String()+"/audit", bytes.NewReader(body))
	if err != nil {
		cancel()
		return nil, c.fail(op, ErrInvalid, err)
	}
	req.Header.Set("Content-Type", "application/cbor")
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		if errors.Is(err, ErrWrongKey) {
			return nil, c.fail(op, ErrWrongKey, nil)
		}
		return nil, c.fail(op, ErrUnreachable, withoutURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer cancel()
		defer func() { _ = resp.Body.Close() }() // given up
		kind, err := refusalOf(resp)
		return nil, c.fail(op, kind, err)
	}
	return &auditAnswer{body: resp.Body, cancel: cancel}, nil
}

// auditAnswer frees the connection and its deadline when it is closed.
type auditAnswer struct {
	body   io.ReadCloser
	cancel context.CancelFunc
}

func (a *auditAnswer) Read(p []byte) (int, error) { return a.body.Read(p) }

// Close ends the audit.
func (a *auditAnswer) Close() error {
	a.cancel()
	return a.body.Close()
}

// CosignedReceipts is Receipts under a checkpoint for which the embassy has
// enough cosignatures; it waits some seconds for one. That they are enough is
// for the caller to judge (ledger.Policy.Judge of a receipt's Checkpoint).
func (c *Client) CosignedReceipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot) ([]ledger.Receipt, error) {
	return c.allReceipts(ctx, objects, slots, true)
}
