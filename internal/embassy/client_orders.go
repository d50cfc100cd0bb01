package embassy

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// PutOrder brings an order: the bytes of its record (package order) and what
// travels with it. Bringing it again is no error; the answer says how it stands.
func (c *Client) PutOrder(ctx context.Context, record []byte, attachments ...[]byte) (OrderStatus, error) {
	return c.bring(ctx, "hand in an order", "orders", record, attachments)
}

// PutVeto brings a veto of an order, which is named by its sequence or its hash.
func (c *Client) PutVeto(ctx context.Context, order string, record []byte) (OrderStatus, error) {
	return c.bring(ctx, "stop order "+order, "orders/"+url.PathEscape(order)+"/vetoes", record, nil)
}

func (c *Client) bring(ctx context.Context, op, path string, record []byte, attachments [][]byte) (OrderStatus, error) {
	var body []byte
	for _, part := range append([][]byte{record}, attachments...) {
		body = binary.BigEndian.AppendUint32(body, uint32(len(part)))
		body = append(body, part...)
	}
	var status OrderStatus
	err := c.do(ctx, &call{
		op: op, method: http.MethodPost, path: path, body: body,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		reply:  maxJSON, work: diskTime, accept: intoJSON(&status),
	})
	return status, err
}

// Orders returns every order that the embassy took, in rising sequence.
func (c *Client) Orders(ctx context.Context) ([]OrderStatus, error) {
	var all []OrderStatus
	for after := uint64(0); ; {
		var page ordersJSON
		err := c.do(ctx, &call{
			op: "list orders", method: http.MethodGet, path: "orders?after=" + strconv.FormatUint(after, 10),
			reply: maxJSON, accept: intoJSON(&page),
		})
		if err != nil {
			return nil, err
		}
		for _, s := range page.Orders {
			if s.Sequence != after+1 {
				return nil, c.fail("list orders", ErrForged, errOutOfOrder)
			}
			all, after = append(all, s), s.Sequence
		}
		if len(page.Orders) < maxOrderPage {
			return all, nil
		}
	}
}

// Order returns one order whole, by its sequence or its hash.
func (c *Client) Order(ctx context.Context, order string) (OrderStatus, error) {
	var status OrderStatus
	err := c.do(ctx, &call{
		op: "ask for order " + order, method: http.MethodGet, path: "orders/" + url.PathEscape(order),
		reply: maxJSON, accept: intoJSON(&status),
	})
	return status, err
}

// OrderAttachment returns what came with an order, by the SHA-256 of it in hex.
func (c *Client) OrderAttachment(ctx context.Context, order, hash string) ([]byte, error) {
	var out []byte
	err := c.do(ctx, &call{
		op: "fetch the list of order " + order, method: http.MethodGet,
		path:  "orders/" + url.PathEscape(order) + "/attachments/" + url.PathEscape(hash),
		reply: MaxAttachment, work: diskTime,
		accept: func(resp *http.Response, body io.Reader) error {
			var err error
			out, err = readInto(nil, resp.ContentLength, MaxAttachment, body)
			return err
		},
	})
	return out, err
}
