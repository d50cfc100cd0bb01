// Package canon writes documents as deterministic CBOR and reads only what it would itself have written: every value has
// one encoding, so that a hash or a signature of the bytes is one of the value.
//
// Old data: the encoding is that of RFC 8949, section 4.2.1, and never changes. The caps and the layout belong to the
// format that a [Form] is of, and are versioned there.
package canon

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Form is what the documents of one format keep to. It is constant from its first use on, and may be used by several
// goroutines; it must not be copied.
type Form struct {
	Depth    int // levels of arrays and maps in each other, at least 4
	Elements int // of one array, at least 16
	Pairs    int // of one map, at least 16

	once sync.Once
	enc  cbor.EncMode
	dec  cbor.DecMode
	err  error
}

// ErrForm: not the encoding of any value, or not the one encoding of its value.
var ErrForm = errors.New("not the canonical encoding")

func (f *Form) prepare() error {
	f.once.Do(func() {
		if f.Depth == 0 || f.Elements == 0 || f.Pairs == 0 { // for which the decoder would take caps of its own
			f.err = errors.New("a cap is missing")
			return
		}
		options := cbor.CoreDetEncOptions()
		options.NilContainers = cbor.NilContainerAsEmpty // an absent list is an empty one, and null is refused
		if f.enc, f.err = options.EncMode(); f.err != nil {
			return
		}
		f.dec, f.err = cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			UTF8:              cbor.UTF8RejectInvalid,
			MaxNestedLevels:   f.Depth,
			MaxArrayElements:  f.Elements,
			MaxMapPairs:       f.Pairs,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		}.DecMode()
	})
	if f.err != nil {
		return fmt.Errorf("canon: form: %w", f.err)
	}
	return nil
}

// Encode returns the one encoding of v. It does not hold v against the caps.
func (f *Form) Encode(v any) ([]byte, error) {
	if err := f.prepare(); err != nil {
		return nil, err
	}
	data, err := f.enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("canon: encode: %w", err)
	}
	return data, nil
}

// Decode reads data, all of it and at most limit bytes, into what v points to. It accepts only what Encode writes for
// that value: no second form of a number, key twice, unknown, absent or out of order, tag, indefinite length or byte
// behind. It fails with [ErrForm]; v may be filled in part then. Sizes are checked before anything is allocated for them.
func (f *Form) Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, at most %d: %w", len(data), limit, ErrForm)
	}
	if err := f.prepare(); err != nil {
		return err
	}
	if err := f.dec.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	again, err := f.Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return ErrForm
	}
	return nil
}
