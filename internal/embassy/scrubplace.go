package embassy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/shard"
)

// scrubPlace is how far a scrub is: the file "scrub" of a state, JSON. It is no
// evidence and may be removed while no server runs: the sweep begins anew.
type scrubPlace struct {
	Version  int    `json:"version"`
	Sequence uint64 `json:"sequence"` // of the newest record; 0 for none
	Ended    int64  `json:"ended"`    // of the newest record

	Began   int64  `json:"began"`   // of the sweep under way, or the last
	Done    uint64 `json:"done"`    // objects read in it
	Resting bool   `json:"resting"` // it is through
	After   string `json:"after"`   // the last name read; empty at the beginning
	Whole   int64  `json:"whole"`   // when the last sweep that is through began; 0 for none
	Read    uint64 `json:"read"`    // objects read in that one, or in the first so far

	From    string        `json:"from"` // what the next record begins with; empty for the first name
	Since   int64         `json:"since"`
	Checked uint64        `json:"checked"`
	Bytes   uint64        `json:"bytes"`
	Found   []audit.Found `json:"found"`
	Mended  []shard.Name  `json:"mended"`

	// Known are the damaged names that records tell of.
	Known map[string]audit.DamageKind `json:"known"`
}

// lastName comes after all.
var lastName = func() (n shard.Name) {
	for i := range n {
		n[i] = 0xff
	}
	return n
}()

// maxPlace caps the file in bytes: remembered names, and lists of a record.
const maxPlace = 16 << 20

func (s *scrubber) load() scrubPlace {
	fresh := scrubPlace{Version: 1, Resting: true, Known: map[string]audit.DamageKind{}}
	data, err := readFile(s.file, maxPlace)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh
	}
	var p scrubPlace
	if err == nil {
		p, err = parseScrubPlace(data)
	}
	if err != nil {
		s.log.Warn("scrub begins anew: its file cannot be used", "err", err)
		return fresh
	}
	return p
}

func parseScrubPlace(data []byte) (scrubPlace, error) {
	var p scrubPlace
	if err := json.Unmarshal(data, &p); err != nil {
		return scrubPlace{}, err
	}
	if p.Known == nil {
		p.Known = map[string]audit.DamageKind{}
	}
	return p, p.check()
}

func (p *scrubPlace) check() error {
	for _, text := range []string{p.After, p.From} {
		if text == "" {
			continue
		}
		if _, err := shard.ParseName(text); err != nil {
			return err
		}
	}
	for name, what := range p.Known {
		if _, err := shard.ParseName(name); err != nil || what < audit.Lost || what > audit.Altered {
			return errors.New("a malformed name")
		}
	}
	if p.Version != 1 || len(p.Found) > audit.MaxFound || len(p.Mended) > audit.MaxFound || len(p.Known) > maxKnown {
		return errors.New("another version, or beyond a cap")
	}
	return nil
}

// save is called with mu held, or by nobody else. A crash leaves the old place
// or the new one; after the old one some objects are read twice.
func (s *scrubber) save() error {
	data, err := json.Marshal(&s.at)
	if err != nil {
		return fmt.Errorf("embassy: scrub: %w", err)
	}
	s.saved = s.now()
	if err := durable.WriteFile(s.file, data, filePerm); err != nil {
		return fmt.Errorf("embassy: scrub: %w", err)
	}
	return nil
}

func (p *scrubPlace) began() time.Time { return time.Unix(0, p.Began) }

func (p *scrubPlace) after() shard.Name {
	n, _ := shard.ParseName(p.After) // checked, or empty: the zero name
	return n
}

func (p *scrubPlace) begin(now time.Time) {
	p.Resting, p.Began, p.Done, p.After = false, max(0, now.UnixNano()), 0, ""
	p.From, p.Since, p.Checked, p.Bytes, p.Found, p.Mended = "", p.Began, 0, 0, nil, nil
}

// rest ends a sweep.
func (p *scrubPlace) rest() {
	p.Resting = true
	if p.Done > 0 {
		p.Whole, p.Read = p.Began, p.Done
	}
}

// took keeps what reading one object gave.
func (p *scrubPlace) took(name shard.Name, size uint64, what string) {
	text := name.String()
	p.After = text
	p.Done++
	p.Checked++
	p.Bytes += size
	if p.Whole == 0 {
		p.Read = p.Done
	}
	for _, k := range []audit.DamageKind{audit.Lost, audit.Length, audit.Altered} {
		if what == k.String() {
			p.Found = append(p.Found, audit.Found{Name: name, What: k})
			return
		}
	}
	if _, was := p.Known[text]; was {
		p.Mended = append(p.Mended, name)
	}
}

// document is the record of what was read since the last one.
func (p *scrubPlace) document(state charter.StateID, to shard.Name, now time.Time, total uint64) *audit.ScrubRecord {
	from, _ := shard.ParseName(p.From) // checked, or empty: the zero name
	r := &audit.ScrubRecord{
		State: state, Sequence: p.Sequence + 1, From: from, To: to,
		Began: p.Since, Ended: max(p.Since, now.UnixNano()),
		Checked: p.Checked, Read: p.Bytes, Total: total,
		Damaged: slices.Clone(p.Found), Mended: slices.Clone(p.Mended),
	}
	sortFound(r.Damaged)
	slices.SortFunc(r.Mended, func(a, b shard.Name) int { return slices.Compare(a[:], b[:]) })
	return r
}

// told goes on behind a record that is stored.
func (p *scrubPlace) told(r *audit.ScrubRecord) {
	p.Sequence, p.Ended = r.Sequence, r.Ended
	for _, f := range r.Damaged {
		if len(p.Known) < maxKnown {
			p.Known[f.Name.String()] = f.What
		}
	}
	for _, n := range r.Mended {
		delete(p.Known, n.String())
	}
	p.From, p.Since = successor(r.To).String(), r.Ended
	p.Checked, p.Bytes, p.Found, p.Mended = 0, 0, nil, nil
}

// successor is the name after n; the last one has none and stays.
func successor(n shard.Name) shard.Name {
	if n == lastName {
		return n
	}
	for i := len(n) - 1; i >= 0; i-- {
		n[i]++
		if n[i] != 0 {
			break
		}
	}
	return n
}
