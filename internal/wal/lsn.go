package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrFormat is wrapped by what is returned for text or bytes that no server of a known version writes.
var ErrFormat = errors.New("not as PostgreSQL writes it")

// LSN is a position in the log, in bytes from its beginning. Zero is no position.
type LSN uint64

// String is the server's form, as in 0/16B3740.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads what [LSN.String] writes, and nothing else.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if ok {
		h, err := strconv.ParseUint(high, 16, 32)
		l, err2 := strconv.ParseUint(low, 16, 32)
		if at := LSN(h<<32 | l); err == nil && err2 == nil && at.String() == s {
			return at, nil
		}
	}
	return 0, fmt.Errorf("log position %.40q: %w: as in 0/16B3740", s, ErrFormat)
}

// MarshalText writes the server's form.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the server's form.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timeline numbers one line of a cluster's history; a promoted standby begins the next. Zero is none.
type Timeline uint32

// String is the number in decimal.
func (t Timeline) String() string { return strconv.FormatUint(uint64(t), 10) }

// ParseTimeline reads a number in decimal, from 1.
func ParseTimeline(s string) (Timeline, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("timeline %.40q: %w: a number from 1", s, ErrFormat)
	}
	return Timeline(n), nil
}
