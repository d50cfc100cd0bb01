package ledger

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// modes is made at first use and constant from then on.
var modes = func() func() (cbor.EncMode, cbor.DecMode, error) {
	type pair struct {
		enc cbor.EncMode
		dec cbor.DecMode
	}
	once := sync.OnceValues(func() (pair, error) {
		enc, dec, err := codec()
		return pair{enc, dec}, err
	})
	return func() (cbor.EncMode, cbor.DecMode, error) {
		p, err := once()
		return p.enc, p.dec, err
	}
}()

// codec returns the one deterministic encoder and the strict decoder.
func codec() (cbor.EncMode, cbor.DecMode, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   6,
		MaxArrayElements:  MaxBatch + 16,
		MaxMapPairs:       16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: decoder: %w", err)
	}
	return enc, dec, nil
}

func encode(v any) ([]byte, error) {
	enc, _, err := modes()
	if err != nil {
		return nil, err
	}
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("ledger: encode: %w", err)
	}
	return b, nil
}

// decode accepts only what encode would have written for the same value.
func decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, at most %d: %w", len(data), limit, ErrFormat)
	}
	_, dec, err := modes()
	if err != nil {
		return err
	}
	if err := dec.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	again, err := encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return ErrFormat
	}
	return nil
}
