package embassy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery.dev/chancery/internal/durable"
)

// witnessed is the time that an embassy goes by when somebody wants something
// gone: that of its cosigned checkpoints, which witnesses in other states
// vouched for (ledger.Verdict). Its own clock counts for nothing here.
//
// It remembers how large the ledger was at which moment, so that it can say how
// long a leaf has been covered at least. The file holds few moments: of two that
// are close together, measured by how long ago they were, the later one stays.
// What was forgotten so, or lost with the file, makes leaves look younger, never
// older. Where the file cannot be used, every leaf counts as new.
type witnessed struct {
	file   string
	origin string
	log    *slog.Logger

	mu      sync.Mutex
	moments []moment      // times strictly rising, sizes not falling
	saved   moment        // the newest on disk
	grown   chan struct{} // closed when the newest changes
}

// moment says that witnesses had seen so many leaves at that time.
type moment struct {
	size uint64
	time int64 // seconds since 1970 UTC
}

const (
	witnessedFile = "witnessed"
	witnessedHead = "chancery witnessed time v1"
	// Of moments so long ago, one stays in each hour, or in a 64th of that time
	// where that is less.
	momentShare  = 64
	momentSpan   = int64(time.Hour / time.Second)
	momentSave   = 60 // seconds of witnessed time between two saves
	maxWitnessed = 16 << 20
)

// openWitnessed reads the file of a state whose ledger has size leaves.
func openWitnessed(path, origin string, size uint64, log *slog.Logger) *witnessed {
	w := &witnessed{file: path, origin: origin, log: log, grown: make(chan struct{})}
	data, err := readFile(path, maxWitnessed)
	if errors.Is(err, fs.ErrNotExist) {
		return w
	}
	var moments []moment
	if err == nil {
		moments, err = parseMoments(data, origin)
	}
	if n := len(moments); err == nil && n > 0 && moments[n-1].size > size {
		err = fmt.Errorf("it speaks of %d leaves, the ledger has %d", moments[n-1].size, size)
	}
	if err != nil {
		log.Warn("witnessed time begins anew: everything counts as new", "err", err)
		return w
	}
	w.moments = moments
	if n := len(moments); n > 0 {
		w.saved = moments[n-1]
	}
	return w
}

// note takes the newest cosigned checkpoint. Time that goes back counts for nothing.
func (w *witnessed) note(size uint64, at time.Time) {
	if at.IsZero() || size == 0 || at.Unix() <= 0 {
		return
	}
	m := moment{size, at.Unix()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.moments); n > 0 {
		last := &w.moments[n-1]
		if m.size < last.size || m.time < last.time || m == *last {
			return
		}
		if m.time == last.time { // more leaves in the same second
			w.moments = w.moments[:n-1]
		}
	}
	w.moments = thin(append(w.moments, m))
	close(w.grown)
	w.grown = make(chan struct{})
	if m.time-w.saved.time >= momentSave {
		w.save()
	}
}

// thin leaves moments out that lie close to others, but for the first and the
// newest. A leaf is then taken for younger than it is by one span at most.
func thin(all []moment) []moment {
	if len(all) < 3 {
		return all
	}
	newest := all[len(all)-1]
	kept := all[:1]
	for i := 1; i < len(all)-1; i++ {
		if all[i].size == kept[len(kept)-1].size { // the same tree again
			continue
		}
		span := min(momentSpan, (newest.time-all[i].time)/momentShare)
		if all[i+1].time-kept[len(kept)-1].time > span {
			kept = append(kept, all[i])
		}
	}
	return append(kept, newest)
}

// save is called with mu held, or at the end. A crash leaves the old file or the
// new one.
func (w *witnessed) save() {
	n := len(w.moments)
	if n == 0 || w.moments[n-1] == w.saved {
		return
	}
	if err := durable.WriteFile(w.file, formatMoments(w.moments, w.origin), filePerm); err != nil {
		w.log.Error("witnessed time is not on disk", "err", err)
		return
	}
	w.saved = w.moments[n-1]
}

// close saves what is known.
func (w *witnessed) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.save()
}

// now is the newest witnessed time, and a channel that is closed when there is a
// newer one. It is zero where no witness has vouched for anything yet.
func (w *witnessed) now() (time.Time, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.moments); n > 0 {
		return time.Unix(w.moments[n-1].time, 0).UTC(), w.grown
	}
	return time.Time{}, w.grown
}

// covered is when a leaf was first known to be covered by a cosigned checkpoint;
// false while it is not.
func (w *witnessed) covered(index uint64) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.moments, index, func(m moment, index uint64) int {
		if m.size <= index {
			return -1
		}
		return 1
	})
	if i == len(w.moments) {
		return time.Time{}, false
	}
	return time.Unix(w.moments[i].time, 0).UTC(), true
}

// age is how much witnessed time has gone by at least since a leaf was covered; 0
// while it is not.
func (w *witnessed) age(index uint64) time.Duration {
	at, ok := w.covered(index)
	if !ok {
		return 0
	}
	now, _ := w.now()
	return max(0, now.Sub(at))
}

// formatMoments writes the file: the head, the ledger's origin, a line "SIZE TIME"
// for each moment, and the SHA-256 of all that in hex.
func formatMoments(all []moment, origin string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n", witnessedHead, origin)
	for _, m := range all {
		fmt.Fprintf(&b, "%d %d\n", m.size, m.time)
	}
	sum := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "%s\n", hex.EncodeToString(sum[:]))
	return b.Bytes()
}

func parseMoments(data []byte, origin string) ([]moment, error) {
	lines := strings.Split(string(data), "\n")
	if len(lines) < 4 || lines[0] != witnessedHead || lines[1] != origin {
		return nil, errors.New("not the witnessed time of this ledger")
	}
	var all []moment
	for _, line := range lines[2 : len(lines)-2] {
		size, at, _ := strings.Cut(line, " ")
		var m moment
		var err1, err2 error
		m.size, err1 = strconv.ParseUint(size, 10, 63)
		m.time, err2 = strconv.ParseInt(at, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if n := len(all); n > 0 && (m.size < all[n-1].size || m.time <= all[n-1].time) {
			return nil, errors.New("moments out of order")
		}
		all = append(all, m)
	}
	if !bytes.Equal(data, formatMoments(all, origin)) {
		return nil, errors.New("damaged")
	}
	return all, nil
}
