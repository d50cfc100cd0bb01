package embassy

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// receiptTime is what the embassy may take to publish a checkpoint.
const receiptTime = 15 * time.Second

// Receipts returns one receipt for each object and then for each slot, in the
// order given, every one verified against the embassy's key and the origin of
// this state's ledger, and each for the very thing asked. That a slot's leaf
// names the right bytes (Leaf.Name) is for the caller to compare.
func (c *Client) Receipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot) ([]ledger.Receipt, error) {
	return c.allReceipts(ctx, objects, slots, false)
}

func (c *Client) allReceipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot, cosigned bool) ([]ledger.Receipt, error) {
	var all []ledger.Receipt
	for len(objects)+len(slots) > 0 {
		n := min(len(objects), maxReceipts)
		m := min(len(slots), maxReceipts-n)
		batch, err := c.receipts(ctx, objects[:n], slots[:m], cosigned)
		if err != nil {
			return nil, err
		}
		all = append(all, batch...)
		objects, slots = objects[n:], slots[m:]
	}
	return all, nil
}

func (c *Client) receipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot, cosigned bool) ([]ledger.Receipt, error) {
	const op = "fetch receipts"
	question := receiptsJSON{Objects: hexNames(objects), Records: make([]slotJSON, len(slots)), Cosigned: cosigned}
	for i, s := range slots {
		question.Records[i] = slotJSON{Kind: s.Kind.String(), Register: hex.EncodeToString(s.Register[:]), Sequence: s.Sequence}
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, c.fail(op, ErrInvalid, err)
	}
	var receipts []ledger.Receipt
	err = c.do(ctx, &call{
		op: op, method: http.MethodPost, path: "receipts", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		reply:  ledger.MaxReceiptBatch, work: receiptTime,
		accept: func(_ *http.Response, body io.Reader) error {
			raw, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			batch, err := ledger.ParseReceiptBatch(raw)
			if err != nil {
				return err
			}
			var leaves []ledger.Leaf
			if receipts, leaves, err = batch.Verify(c.verifier); err != nil {
				return err
			}
			return c.match(leaves, objects, slots)
		},
	})
	if err != nil {
		return nil, err
	}
	return receipts, nil
}

// match holds each leaf to what was asked for: a true receipt for something
// else is no receipt.
func (c *Client) match(leaves []ledger.Leaf, objects []shard.Name, slots []ledger.Slot) error {
	if len(leaves) != len(objects)+len(slots) {
		return fmt.Errorf("%d receipts for %d things", len(leaves), len(objects)+len(slots))
	}
	for i := range leaves {
		l := &leaves[i]
		if l.State != [16]byte(c.state) {
			return errors.New("a receipt for another state")
		}
		if i < len(objects) {
			if l.Kind != ledger.ObjectStored || l.Name != [32]byte(objects[i]) {
				return errors.New("a receipt for another object")
			}
			continue
		}
		if l.Kind != ledger.RecordStored || l.Slot != slots[i-len(objects)] {
			return errors.New("a receipt for another record")
		}
	}
	return nil
}

// Checkpoint returns the newest signed checkpoint of the state's ledger, verified.
func (c *Client) Checkpoint(ctx context.Context) (ledger.Checkpoint, error) {
	var cp ledger.Checkpoint
	err := c.do(ctx, &call{
		op: "fetch the checkpoint", method: http.MethodGet, path: "checkpoint", reply: maxErrorDoc,
		accept: func(_ *http.Response, body io.Reader) error {
			raw, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			cp, err = ledger.ParseCheckpoint(raw, c.verifier)
			return err
		},
	})
	return cp, err
}
