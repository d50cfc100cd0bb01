package snapshot

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

var errNotCanonical = errors.New("not the canonical encoding")

// encodeCBOR writes deterministic CBOR (RFC 8949, section 4.2.1). The error cannot happen for the
// structures of this package.
func encodeCBOR(v any) ([]byte, error) {
	options := cbor.CoreDetEncOptions()
	options.NilContainers = cbor.NilContainerAsEmpty
	mode, err := options.EncMode()
	if err != nil {
		return nil, fmt.Errorf("cbor: %w", err)
	}
	return mode.Marshal(v)
}

// decodeCBOR reads b, all of it, into v, and refuses whatever v does not encode to again: duplicate and
// unknown keys, absent ones, indefinite lengths, tags, longer forms of numbers, bytes behind.
func decodeCBOR(b []byte, v any) error {
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   4,
		MaxArrayElements:  maxArray,
		MaxMapPairs:       32,
	}.DecMode()
	if err != nil {
		return fmt.Errorf("cbor: %w", err)
	}
	if err := mode.Unmarshal(b, v); err != nil {
		return err
	}
	again, err := encodeCBOR(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errNotCanonical
	}
	return nil
}
