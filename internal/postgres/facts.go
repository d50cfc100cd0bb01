package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/snapshot"
)

// readFacts returns what a snapshot knows of its cluster beyond the files.
func readFacts(ctx context.Context, r *archive.Reader, head *snapshot.Head) (*cluster.Facts, error) {
	text, err := r.ReadFile(ctx, head, factsFile, maxText)
	if errors.Is(err, archive.ErrNoPath) {
		return nil, ErrNotCluster
	}
	if err != nil {
		return nil, err
	}
	var facts cluster.Facts
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&facts); err != nil {
		return nil, fmt.Errorf("%s of snapshot %d: %w", factsFile, head.Sequence, err)
	}
	return &facts, nil
}
