package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// embassySightJSON is what one embassy sees of a register.
type embassySightJSON struct {
	Files         int      `json:"files"`
	Bytes         int64    `json:"bytes"`
	Sample        []string `json:"sample"`         // names of objects, as they lie on its disk
	Searched      int64    `json:"searched_bytes"` // of its disk
	NamesSearched int      `json:"names_searched"` // names of the source looked for
	NamesFound    int      `json:"names_found"`
}

const (
	// sightNames is how many names of the source are looked for at the embassy, sightBytes how much of its disk is
	// read: enough to see, and little enough for a first walk.
	sightNames = 40
	sightBytes = 64 << 20
)

// sight looks at an embassy's disk as its host can.
func (q *quickstart) sight(name string) (embassySightJSON, error) {
	var s embassySightJSON
	names := distinctNames(q.path)
	s.NamesSearched = len(names)
	found := map[string]bool{}
	err := filepath.WalkDir(q.in(name), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s.Files++
		s.Bytes += info.Size()
		rel, _ := filepath.Rel(q.in(name), path)
		if strings.Contains(rel, "/objects/") && len(s.Sample) < 3 {
			s.Sample = append(s.Sample, fmt.Sprintf("%s  %d", d.Name(), info.Size()))
		}
		if s.Searched >= sightBytes {
			return nil
		}
		data, err := readSome(path, sightBytes-s.Searched)
		s.Searched += int64(len(data))
		for _, n := range names {
			if bytes.Contains(data, []byte(n)) {
				found[n] = true
			}
		}
		return err
	})
	s.NamesFound = len(found)
	return s, err
}

func readSome(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

var errEnough = errors.New("enough")

// distinctNames picks names of the source that are too long to appear by chance.
func distinctNames(dir string) []string {
	var names []string
	seen := map[string]bool{}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if n := d.Name(); len(n) >= 10 && !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
		if len(names) == sightNames {
			return errEnough
		}
		return nil
	})
	return names
}

func (q *quickstart) tellSight() {
	s := &q.out.Embassy
	q.tell("\nWhat the embassy lu sees: %s, %s, named like this:", plural(s.Files, "file"), size(s.Bytes))
	for _, x := range s.Sample {
		q.tell("    %s", x)
	}
	q.tell("  %s of its disk searched for %s of yours: %d found.", size(s.Searched), plural(s.NamesSearched, "name"), s.NamesFound)
}

// writeStop leaves a script that stops the servers.
func (q *quickstart) writeStop() error {
	script := "#!/bin/sh\n# Stops the embassies of this sandbox.\ncd \"$(dirname \"$0\")/run\" || exit 1\n" +
		"for f in *.pid; do [ -f \"$f\" ] && kill \"$(cat \"$f\")\" 2>/dev/null; rm -f \"$f\"; done\nexit 0\n"
	return os.WriteFile(q.in("stop"), []byte(script), 0o755)
}

// stop ends one embassy's server and waits until it is gone.
func (q *quickstart) stop(name string) {
	path := q.in("run", name+".pid")
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	os.Remove(path)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (q *quickstart) stopAll() {
	for _, e := range embassies() {
		q.stop(e[0])
	}
}
