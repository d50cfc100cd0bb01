package ledger

import (
	"fmt"

	"chancery.dev/chancery/internal/canon"
)

// form is that of all documents of this package.
var form = canon.Form{Depth: 6, Elements: MaxDelivered + 16, Pairs: 16}

func encode(v any) ([]byte, error) {
	b, err := form.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return b, nil
}

// decode accepts only what encode would have written for the same value.
func decode(data []byte, limit int, v any) error {
	if err := form.Decode(data, limit, v); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}
