package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/wal"
)

// Evidence says what two servers wrote, or an older copy of one: the bytes that go with it are the server's log from
// Start up to End, and what the embassies hold cannot go on from there.
type Evidence struct {
	System   uint64          `json:"system,string"`
	Timeline wal.Timeline    `json:"timeline"`
	Segment  wal.SegmentSize `json:"segment_size"`
	Start    wal.LSN         `json:"start"`
	End      wal.LSN         `json:"end"`
	// What the embassies hold: up to HeldEnd of HeldTimeline, and the digest of the segment before that place.
	HeldTimeline wal.Timeline `json:"held_timeline"`
	HeldEnd      wal.LSN      `json:"held_end"`
	HeldDigest   string       `json:"held_sha256"`
	Why          string       `json:"why"`
	Time         time.Time    `json:"time"`
}

// span is a part of the log of the server that answers.
type span struct {
	timeline   wal.Timeline
	start, end wal.LSN
}

// evidence keeps what the server has at the place of a conflict, and returns the error with what became of that.
func (s *streamer) evidence(ctx context.Context, why error) error {
	c := s.conflict
	if c == nil || s.opts.Keep == nil || !errors.Is(why, ErrTwoServers) && !errors.Is(why, ErrBehind) {
		return why
	}
	e := Evidence{
		System: s.at.System, Timeline: c.timeline, Segment: s.at.Segment, Start: c.start, End: c.end,
		HeldTimeline: s.at.Timeline, HeldEnd: s.at.End, HeldDigest: hex.EncodeToString(s.at.Digest[:]),
		Why: why.Error(), Time: time.Now().UTC(),
	}
	ctx, stop := context.WithTimeout(ctx, evidenceTime)
	defer stop()
	if err := s.opts.Keep(e, func(w io.Writer) error { return s.receiveSpan(ctx, c, w) }); err != nil {
		return fmt.Errorf("%w; what the server has there could not be kept: %w", why, err)
	}
	return why
}

// evidenceTime is how long the server may take to send a segment once more.
const evidenceTime = 2 * time.Minute

// receiveSpan asks the server for a part of its log once more, without the slot.
func (s *streamer) receiveSpan(ctx context.Context, c *span, w io.Writer) error {
	conn, err := cluster.Open(ctx, s.opts.Conninfo)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Require(ctx, s.at.System); err != nil {
		return err
	}
	live, err := conn.StartStream(ctx, "", c.start, c.timeline)
	if err != nil {
		return err
	}
	for at := c.start; at < c.end; {
		m, err := live.Receive(ctx)
		if err != nil {
			return err
		}
		if m.Kind == cluster.End {
			return fmt.Errorf("%w: timeline %d ends at %s", cluster.ErrDiverged, c.timeline, m.Switch)
		}
		n := min(len(m.Data), int(c.end-at))
		if _, err := w.Write(m.Data[:n]); err != nil {
			return err
		}
		at += wal.LSN(n)
	}
	return nil
}
