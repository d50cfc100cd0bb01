package embassy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Put stores an object of 1 byte to 16 MiB under its name. When it returns nil
// the embassy has said that the bytes are durable and their leaf is in its
// ledger. Storing what is there already is no error. data is not kept.
func (c *Client) Put(ctx context.Context, name shard.Name, data []byte) error {
	return c.put(ctx, "store object "+name.String(), name, data, nil)
}

// Repair is Put for an object that may be damaged where it lies: the embassy
// reads its copy first and replaces it when it is not what the name says.
func (c *Client) Repair(ctx context.Context, name shard.Name, data []byte) error {
	return c.put(ctx, "repair object "+name.String(), name, data, http.Header{repairHeader: {"1"}})
}

func (c *Client) put(ctx context.Context, op string, name shard.Name, data []byte, h http.Header) error {
	if len(data) == 0 || len(data) > maxObject {
		return c.fail(op, ErrInvalid, fmt.Errorf("%d bytes, 1 to %d are possible", len(data), maxObject))
	}
	var leaf leafJSON
	return c.do(ctx, &call{
		op: op, method: http.MethodPut, path: "objects/" + name.String(),
		header: h, body: data, reply: maxErrorDoc, work: diskTime, accept: intoJSON(&leaf),
	})
}

// diskTime is what an embassy may take to make 16 MiB durable.
const diskTime = 30 * time.Second

// Get appends the object's bytes to dst and returns the longer slice; on error,
// nil. The bytes are what the embassy sent: the caller compares them with the
// name, as shard.HashAndUnmask does on the way.
func (c *Client) Get(ctx context.Context, name shard.Name, dst []byte) ([]byte, error) {
	var out []byte
	err := c.do(ctx, &call{
		op: "fetch object " + name.String(), method: http.MethodGet, path: "objects/" + name.String(),
		reply: maxObject, work: diskTime,
		accept: func(resp *http.Response, body io.Reader) error {
			var err error
			out, err = readInto(dst, resp.ContentLength, maxObject, body)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetRange appends n bytes of the object from byte off, or fewer where the
// object ends, to dst; on error, nil. off is a multiple of shard.LeafSize. The
// caller checks the bytes with shard.VerifyRange.
func (c *Client) GetRange(ctx context.Context, name shard.Name, off int64, n int, dst []byte) ([]byte, error) {
	op := "fetch part of object " + name.String()
	if off < 0 || off%shard.LeafSize != 0 || n <= 0 || off+int64(n) > maxObject {
		return nil, c.fail(op, ErrInvalid, fmt.Errorf("%d bytes from %d", n, off))
	}
	var out []byte
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: "objects/" + name.String(),
		header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+int64(n)-1)}},
		reply:  int64(n), work: diskTime,
		accept: func(resp *http.Response, body io.Reader) error {
			if resp.StatusCode != http.StatusPartialContent {
				return errors.New("not the range that was asked for")
			}
			var err error
			out, err = readInto(dst, resp.ContentLength, int64(n), body)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readInto appends a body of known length to dst without another copy.
func readInto(dst []byte, length, most int64, body io.Reader) ([]byte, error) {
	if length < 0 || length > most {
		return nil, fmt.Errorf("an answer of %d bytes", length)
	}
	out := slices.Grow(dst, int(length))[:len(dst)+int(length)]
	if _, err := io.ReadFull(body, out[len(dst):]); err != nil {
		return nil, err
	}
	return out, nil
}

// Leaves returns all leaf hashes of an object, checked against its name.
func (c *Client) Leaves(ctx context.Context, name shard.Name) ([][32]byte, error) {
	op := "fetch leaf hashes of " + name.String()
	var leaves [][32]byte
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: "objects/" + name.String() + "/leaves",
		reply: maxLeafCount * 32, work: diskTime,
		accept: func(resp *http.Response, body io.Reader) error {
			raw, err := readInto(nil, resp.ContentLength, maxLeafCount*32, body)
			if err != nil {
				return err
			}
			if len(raw)%32 != 0 {
				return errors.New("not whole hashes")
			}
			leaves = make([][32]byte, len(raw)/32)
			for i := range leaves {
				leaves[i] = [32]byte(raw[32*i:])
			}
			if shard.RootOf(leaves) != name {
				return errors.New("leaf hashes do not make the object's name")
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return leaves, nil
}

// Missing returns those of names that the embassy does not hold on disk and in
// its ledger, in the order given. It asks in batches.
func (c *Client) Missing(ctx context.Context, names []shard.Name) ([]shard.Name, error) {
	var missing []shard.Name
	for batch := range slices.Chunk(names, maxNames) {
		asked := make(map[shard.Name]int, len(batch))
		for _, n := range batch {
			asked[n]++
		}
		var reply missingJSON
		err := c.ask(ctx, "ask for missing objects", "objects/has", namesJSON{hexNames(batch)}, 0, &reply)
		if err != nil {
			return nil, err
		}
		got, err := parseNames(reply.Missing)
		if err != nil {
			return nil, c.fail("ask for missing objects", ErrForged, err)
		}
		for _, n := range got {
			if asked[n]--; asked[n] < 0 {
				return nil, c.fail("ask for missing objects", ErrForged, errors.New("it names what was not asked, or twice"))
			}
		}
		missing = append(missing, got...)
	}
	return missing, nil
}

// ask posts a JSON question and reads a JSON answer of at most maxJSON bytes.
func (c *Client) ask(ctx context.Context, op, path string, question any, work time.Duration, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return c.fail(op, ErrInvalid, err)
	}
	return c.do(ctx, &call{
		op: op, method: http.MethodPost, path: path, body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		reply:  maxJSON, work: work, accept: intoJSON(answer),
	})
}

// List returns up to limit (at most 4096) names of objects above after, in
// rising order. The zero name comes before all.
func (c *Client) List(ctx context.Context, after shard.Name, limit int) ([]shard.Name, error) {
	const op = "list objects"
	q := url.Values{"after": {after.String()}, "limit": {strconv.Itoa(min(limit, maxList))}}
	var reply namesJSON
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: "objects?" + q.Encode(),
		reply: maxJSON, accept: intoJSON(&reply),
	})
	if err != nil {
		return nil, err
	}
	names, err := parseNames(reply.Names)
	if err != nil || len(names) > limit {
		return nil, c.fail(op, ErrForged, errors.Join(err, fmt.Errorf("%d names", len(names))))
	}
	for i, last := 0, after; i < len(names); i++ {
		if bytes.Compare(names[i][:], last[:]) <= 0 {
			return nil, c.fail(op, ErrForged, errors.New("names out of order"))
		}
		last = names[i]
	}
	return names, nil
}

func slotPath(s ledger.Slot) string {
	return "records/" + s.Kind.String() + "/" + hex.EncodeToString(s.Register[:]) + "/" + strconv.FormatUint(s.Sequence, 10)
}

// PutRecord stores a document of 1 byte to 1 MiB in a slot, durable and in the
// ledger like an object. The same bytes again are no error; other bytes in a
// taken slot are ErrConflict.
func (c *Client) PutRecord(ctx context.Context, slot ledger.Slot, data []byte) error {
	op := "store record " + slotPath(slot)
	if len(data) == 0 || len(data) > maxRecord || slot.Sequence == 0 {
		return c.fail(op, ErrInvalid, fmt.Errorf("%d bytes at sequence %d", len(data), slot.Sequence))
	}
	var leaf leafJSON
	return c.do(ctx, &call{
		op: op, method: http.MethodPut, path: slotPath(slot),
		body: data, reply: maxErrorDoc, work: diskTime, accept: intoJSON(&leaf),
	})
}

// GetRecord returns the document in a slot, at most 1 MiB, as the embassy sent it.
func (c *Client) GetRecord(ctx context.Context, slot ledger.Slot) ([]byte, error) {
	var out []byte
	err := c.do(ctx, &call{
		op: "fetch record " + slotPath(slot), method: http.MethodGet, path: slotPath(slot), reply: maxRecord,
		accept: func(resp *http.Response, body io.Reader) error {
			var err error
			out, err = readInto(nil, resp.ContentLength, maxRecord, body)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListRecords returns a page (at most 1000) of the slots of one kind and
// register with a sequence above after, in rising order. An empty page is the end.
func (c *Client) ListRecords(ctx context.Context, kind ledger.RecordKind, register [16]byte, after uint64) ([]ledger.RecordInfo, error) {
	op := "list records of kind " + kind.String()
	q := url.Values{"register": {hex.EncodeToString(register[:])}, "after": {strconv.FormatUint(after, 10)}}
	var reply recordsJSON
	err := c.do(ctx, &call{
		op: op, method: http.MethodGet, path: "records/" + kind.String() + "?" + q.Encode(),
		reply: maxJSON, accept: intoJSON(&reply),
	})
	if err != nil {
		return nil, err
	}
	if len(reply.Records) > maxSlotPage {
		return nil, c.fail(op, ErrForged, fmt.Errorf("%d records", len(reply.Records)))
	}
	infos := make([]ledger.RecordInfo, len(reply.Records))
	for i, r := range reply.Records {
		hash, err := hex.DecodeString(r.Hash)
		if err != nil || len(hash) != sha256.Size || r.Sequence <= after || r.Size > maxRecord {
			return nil, c.fail(op, ErrForged, errors.New("a malformed or misplaced record"))
		}
		after = r.Sequence
		slot := ledger.Slot{Kind: kind, Register: register, Sequence: r.Sequence}
		infos[i] = ledger.RecordInfo{Slot: slot, Hash: [32]byte(hash), Size: r.Size}
	}
	return infos, nil
}

// ListRegisters returns every register that has a record of this kind, in
// rising order.
func (c *Client) ListRegisters(ctx context.Context, kind ledger.RecordKind) ([][16]byte, error) {
	op := "list registers with records of kind " + kind.String()
	var all [][16]byte
	after := ""
	for {
		var reply registersJSON
		q := url.Values{"limit": {strconv.Itoa(maxList)}}
		if after != "" {
			q.Set("after", after)
		}
		err := c.do(ctx, &call{
			op: op, method: http.MethodGet, path: "records/" + kind.String() + "?" + q.Encode(),
			reply: maxJSON, accept: intoJSON(&reply),
		})
		if err != nil {
			return nil, err
		}
		for _, text := range reply.Registers {
			id, err := parseRegister(text)
			if err != nil || (len(all) > 0 && text <= after) {
				return nil, c.fail(op, ErrForged, errors.New("a malformed or misplaced register"))
			}
			all, after = append(all, id), text
		}
		if len(reply.Registers) < maxList {
			return all, nil
		}
	}
}

// Charter returns the state's charter and its signatures as the embassy has
// them, unchecked.
func (c *Client) Charter(ctx context.Context) (doc, sig []byte, err error) {
	var reply charterJSON
	err = c.do(ctx, &call{
		op: "fetch the charter", method: http.MethodGet, path: "charter",
		reply: 3 * maxCharter, accept: intoJSON(&reply),
	})
	return reply.Document, reply.Signature, err
}

// PutCharter gives the embassy the charter that follows its own.
func (c *Client) PutCharter(ctx context.Context, doc, sig []byte) error {
	const op = "hand over the charter"
	body, err := json.Marshal(charterJSON{doc, sig})
	if err != nil {
		return c.fail(op, ErrInvalid, err)
	}
	var taken takenJSON
	return c.do(ctx, &call{
		op: op, method: http.MethodPut, path: "charter", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		reply:  maxErrorDoc, work: diskTime, accept: intoJSON(&taken),
	})
}

// Agreement returns the newest agreement and its signatures as the embassy has
// them, unchecked; ErrNotFound where it serves without one.
func (c *Client) Agreement(ctx context.Context) (doc, sigs []byte, err error) {
	var reply charterJSON
	err = c.do(ctx, &call{
		op: "fetch the agreement", method: http.MethodGet, path: "agreement",
		reply: 3 * maxCharter, accept: intoJSON(&reply),
	})
	return reply.Document, reply.Signature, err
}

// PutAgreement gives the embassy the amendment that follows its agreement.
func (c *Client) PutAgreement(ctx context.Context, doc, sigs []byte) error {
	const op = "hand over the agreement"
	body, err := json.Marshal(charterJSON{doc, sigs})
	if err != nil {
		return c.fail(op, ErrInvalid, err)
	}
	var taken takenJSON
	return c.do(ctx, &call{
		op: op, method: http.MethodPut, path: "agreement", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
		reply:  maxErrorDoc, work: diskTime, accept: intoJSON(&taken),
	})
}

// Status asks the embassy for its own account of itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, &call{
		op: "ask for status", method: http.MethodGet, path: "status",
		reply: maxErrorDoc, accept: intoJSON(&s),
	})
	return s, err
}

// Scrub has the embassy read objects from its disk and compare them with their
// names; it asks in batches and returns what is wrong. An embassy may lie here:
// only fetching a range proves anything.
func (c *Client) Scrub(ctx context.Context, names []shard.Name) ([]Damage, error) {
	const op = "have objects read"
	var all []Damage
	for batch := range slices.Chunk(names, maxScrub) {
		var reply scrubJSON
		err := c.ask(ctx, op, "objects/scrub", namesJSON{hexNames(batch)}, scrubTime, &reply)
		if err != nil {
			return nil, err
		}
		if reply.Checked != len(batch) || len(reply.Damaged) > len(batch) {
			return nil, c.fail(op, ErrForged, errors.New("it answers for other objects"))
		}
		for _, d := range reply.Damaged {
			n, err := shard.ParseName(d.Name)
			if err != nil || !slices.Contains(batch, n) {
				return nil, c.fail(op, ErrForged, errors.New("it answers for other objects"))
			}
			all = append(all, Damage{Name: n, What: printable(d.What)})
		}
	}
	return all, nil
}

// scrubTime is what reading a scrub's batch of 1 GiB may take.
const scrubTime = 3 * time.Minute
