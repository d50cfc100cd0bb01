// Package vectest is for tests: vectors of formats, read and written anew, and keys in software that sign as hardware
// keys do.
package vectest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the vectors anew")

// Update tells whether vectors are to be written anew.
func Update() bool { return *update }

// Of reads vectors out of a file below testdata/vectors, strictly. Where they are to be written anew, fresh makes them.
func Of[T any](t *testing.T, file string, fresh func() T) T {
	t.Helper()
	path := filepath.Join("../../testdata/vectors", file)
	if *update {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(fresh()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
