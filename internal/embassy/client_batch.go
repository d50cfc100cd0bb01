package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Object is bytes and their name.
type Object struct {
	Name shard.Name
	Data []byte // 1 byte to 16 MiB; not kept
}

// PutMany stores objects as Put does, small ones several in a request, and
// returns one error for each, nil for those that are acknowledged. Requests go
// one after another; for more at once it may be called from several sides.
func (c *Client) PutMany(ctx context.Context, objects []Object) []error {
	errs := make([]error, len(objects))
	for i := 0; i < len(objects); {
		n, size := 0, 0
		for _, o := range objects[i:min(len(objects), i+maxBatchObjects)] {
			if size += frameHead + len(o.Data); size > maxBatch {
				break
			}
			n++
		}
		if n > 1 && c.putBatch(ctx, objects[i:i+n], errs[i:i+n]) {
			i += n
			continue
		}
		for end := i + max(n, 1); i < end; i++ {
			errs[i] = c.Put(ctx, objects[i].Name, objects[i].Data)
		}
	}
	return errs
}

// putBatch is one request. It returns false from an embassy that knows none of
// this kind.
func (c *Client) putBatch(ctx context.Context, objects []Object, errs []error) (known bool) {
	op := fmt.Sprintf("store %d objects", len(objects))
	var body []byte
	sent := 0
	for i, o := range objects {
		if len(o.Data) == 0 {
			errs[i] = c.fail("store object "+o.Name.String(), ErrInvalid, errors.New("no bytes"))
			continue
		}
		body = appendFrame(body, o.Name, o.Data)
		sent++
	}
	if sent == 0 {
		return true
	}
	var reply batchJSON
	err := c.do(ctx, &call{
		op: op, method: http.MethodPut, path: "objects", body: body,
		reply: maxJSON, work: diskTime,
		accept: func(resp *http.Response, answer io.Reader) error {
			reply = batchJSON{}
			if err := intoJSON(&reply)(resp, answer); err != nil {
				return err
			}
			if len(reply.Results) != sent {
				return errors.New("it answers for other objects")
			}
			return nil
		},
	})
	if errors.Is(err, ErrNotFound) {
		return false
	}
	rest := reply.Results
	for i := range objects {
		if errs[i] != nil {
			continue
		}
		if err != nil {
			errs[i] = err
			continue
		}
		errs[i] = c.resultOf("store object "+objects[i].Name.String(), rest[0])
		rest = rest[1:]
	}
	return true
}

// resultOf turns an answer for one thing of a batch into an error.
func (c *Client) resultOf(op string, r resultJSON) error {
	switch {
	case r.Error == nil && r.Leaf != nil:
		return nil
	case r.Error != nil && r.Leaf == nil && r.Error.Code != "":
		return c.fail(op, kindOf(r.Error.Code), fmt.Errorf("%s: %s", printable(r.Error.What), printable(r.Error.Why)))
	}
	return c.fail(op, ErrForged, errors.New("neither a leaf nor a reason"))
}

// PutRecords stores records in slots that follow each other, from first on, as
// PutRecord does, several in a request. It returns how many of them, from the
// first on, are acknowledged, and why the next is not; nil when all are. What
// became of those behind that one is open. An embassy takes none of them before
// those that come before it.
func (c *Client) PutRecords(ctx context.Context, first ledger.Slot, records [][]byte) (taken int, err error) {
	for slot := first; taken < len(records); slot.Sequence = first.Sequence + uint64(taken) {
		n, size := 0, 0
		for _, data := range records[taken:min(len(records), taken+maxBatchRecords)] {
			if size += recordHead + len(data); size > maxBatch {
				break
			}
			n++
		}
		if n > 1 && inMany(first.Kind) {
			got, err := c.putMany(ctx, slot, records[taken:taken+n])
			if taken += got; err == nil {
				continue
			}
			if got > 0 || !errors.Is(err, ErrNotFound) || errors.Is(err, ErrRemoved) {
				return taken, err
			}
		}
		if err := c.PutRecord(ctx, slot, records[taken]); err != nil {
			return taken, err
		}
		taken++
	}
	return taken, nil
}

// putMany is one request. It fails with ErrNotFound from an embassy that knows
// none of this kind.
func (c *Client) putMany(ctx context.Context, first ledger.Slot, records [][]byte) (taken int, err error) {
	op := fmt.Sprintf("store %d records from %s on", len(records), slotPath(first))
	var body []byte
	for i, data := range records {
		if len(data) == 0 || first.Sequence == 0 {
			return 0, c.fail(op, ErrInvalid, fmt.Errorf("%d bytes at sequence %d", len(data), first.Sequence+uint64(i)))
		}
		body = appendRecord(body, first.Sequence+uint64(i), data)
	}
	var reply batchJSON
	err = c.do(ctx, &call{
		op: op, method: http.MethodPut, path: path.Dir(slotPath(first)), body: body,
		reply: maxJSON, work: diskTime,
		accept: func(resp *http.Response, answer io.Reader) error {
			reply = batchJSON{}
			if err := intoJSON(&reply)(resp, answer); err != nil {
				return err
			}
			if n := len(reply.Results); n == 0 || n > len(records) || n < len(records) && reply.Results[n-1].Error == nil {
				return errors.New("it answers for other records")
			}
			return nil
		},
	})
	if err != nil {
		return 0, err
	}
	for _, r := range reply.Results {
		if err := c.resultOf(op, r); err != nil {
			return taken, err
		}
		taken++
	}
	return taken, nil
}
