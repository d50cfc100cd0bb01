package register

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// Fault is one thing that one embassy did not give as it should have.
type Fault struct {
	Embassy string `json:"embassy"`
	Object  string `json:"object"` // name of the object, or "head 12"
	What    string `json:"what"`   // Missing, "wrong bytes", or why it could not be read
}

// Missing is the fault of an embassy that says it does not hold an object. It need not be one: it may never have been given it.
const Missing = "missing"

// String says who, what and why in one line.
func (f Fault) String() string {
	object := f.Object
	if !strings.Contains(object, " ") {
		object = "object " + object
	}
	if f.Embassy == "" {
		return object + ": " + f.What
	}
	return f.Embassy + ": " + object + ": " + f.What
}

// Faults collects what embassies did wrong, each thing once. The zero value is empty; it is safe for concurrent use.
type Faults struct {
	mu   sync.Mutex
	seen map[Fault]bool
	list []Fault
}

// maxFaults is how many faults a report lists.
const maxFaults = 10000

// Add notes a fault. Beyond the first 10,000 it notes none: a report that long says no more.
func (f *Faults) Add(x Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[Fault]bool{}
	}
	if f.seen[x] || len(f.list) >= maxFaults {
		return
	}
	f.seen[x] = true
	f.list = append(f.list, x)
}

// Drop forgets what is about some objects, by Fault.Object: nothing needs them.
func (f *Faults) Drop(objects map[string]bool) {
	f.forget(func(x Fault) bool { return objects[x.Object] })
}

// DropMissing forgets that some objects are missing: others stand for them. What is wrong with them otherwise stays.
func (f *Faults) DropMissing(objects map[string]bool) {
	f.forget(func(x Fault) bool { return x.What == Missing && objects[x.Object] })
}

func (f *Faults) forget(which func(Fault) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.DeleteFunc(f.list, which)
}

// All returns what was noted, by embassy and object, in a list of the caller's own.
func (f *Faults) All() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.Clone(f.list)
	slices.SortFunc(out, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Embassy, b.Embassy), cmp.Compare(a.Object, b.Object))
	})
	return out
}

// Down is an embassy that a run had to do without, and why.
type Down struct {
	Embassy string `json:"embassy"`
	Why     string `json:"why"`
}
