package embassy

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strconv"
	"sync"

	"chancery.dev/chancery/internal/shard"
)

// Caps of a batch of objects; docs/spec/embassy-api.md states them.
const (
	maxBatch        = 1 << 20 // bytes of the body
	maxBatchObjects = 256
	frameHead       = 4 + 32 // size, name
)

// batchObject is one object of a batch. data is a part of the body.
type batchObject struct {
	name shard.Name
	data []byte
}

// appendFrame adds an object to the body of a batch.
func appendFrame(body []byte, name shard.Name, data []byte) []byte {
	body = binary.BigEndian.AppendUint32(body, uint32(len(data)))
	body = append(body, name[:]...)
	return append(body, data...)
}

// parseBatch takes the body of a batch apart; it keeps body.
func parseBatch(body []byte) ([]batchObject, error) {
	var objects []batchObject
	for len(body) > 0 {
		if len(objects) == maxBatchObjects {
			return nil, &refusal{
				status: http.StatusRequestEntityTooLarge, Code: codeTooLarge,
				What: "request", Why: "more than " + strconv.Itoa(maxBatchObjects) + " objects",
			}
		}
		if len(body) < frameHead {
			return nil, invalid("request", "an object is cut short")
		}
		size := uint64(binary.BigEndian.Uint32(body))
		name := shard.Name(body[4:frameHead])
		body = body[frameHead:]
		if size == 0 || size > uint64(len(body)) {
			return nil, invalid("request", "an object is empty or cut short")
		}
		objects = append(objects, batchObject{name, body[:size:size]})
		body = body[size:]
	}
	return objects, nil
}

// putBatch is putObject for several small objects. Each is stored and answered
// for by itself; a crash in between leaves each where a PUT of its own would
// have been. They are written at once, so that they share fsyncs.
func (s *Server) putBatch(q *session) error {
	size, err := q.length(maxBatch)
	if err != nil {
		return err
	}
	body := make([]byte, size)
	if err := q.read(body); err != nil {
		return err
	}
	objects, err := parseBatch(body)
	if err != nil {
		return err
	}
	reply := batchJSON{Results: make([]resultJSON, len(objects))}
	var stored sync.WaitGroup
	for i, o := range objects {
		q.state.store.lanes <- struct{}{}
		stored.Go(func() {
			defer func() { <-q.state.store.lanes }()
			reply.Results[i] = s.takeOne(q, o)
		})
	}
	stored.Wait()
	return q.w.json(http.StatusOK, reply)
}

func (s *Server) takeOne(q *session, o batchObject) resultJSON {
	index, _, err := s.take(q.r.Context(), &arrival{
		state: q.state, key: q.key, name: o.name, size: int64(len(o.data)), body: bytes.NewReader(o.data),
	})
	if err == nil {
		return resultJSON{Leaf: &index}
	}
	why, cause := reason(q.r.Context(), err)
	if cause != nil || why.cause != nil {
		s.log.Error("object of a batch failed", "state", q.state.id.String(), "err", err)
	}
	return resultJSON{Error: why}
}

// batchJSON answers a batch: one result for each object, in order, and in each
// either the leaf or the error.
type (
	batchJSON struct {
		Results []resultJSON `json:"results"`
	}
	resultJSON struct {
		Leaf  *uint64  `json:"leaf,omitempty"`
		Error *refusal `json:"error,omitempty"`
	}
)
