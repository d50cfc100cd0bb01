package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

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
		errs[i] = c.resultOf(objects[i].Name, rest[0])
		rest = rest[1:]
	}
	return true
}

// resultOf turns an answer for one object into an error.
func (c *Client) resultOf(name shard.Name, r resultJSON) error {
	op := "store object " + name.String()
	switch {
	case r.Error == nil && r.Leaf != nil:
		return nil
	case r.Error != nil && r.Leaf == nil && r.Error.Code != "":
		return c.fail(op, kindOf(r.Error.Code), fmt.Errorf("%s: %s", printable(r.Error.What), printable(r.Error.Why)))
	}
	return c.fail(op, ErrForged, errors.New("neither a leaf nor a reason"))
}
