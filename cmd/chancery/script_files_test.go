package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/filetree"
)

func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, false, args, 2, 2, "same A B")
	opts := filetree.CompareOptions{Owners: true, SetID: true, Max: 10}
	diffs, err := filetree.Compare(context.Background(), ts.MkAbs(args[0]), ts.MkAbs(args[1]), opts)
	ts.Check(err)
	if neg != (len(diffs) > 0) {
		ts.Fatalf("%s and %s differ in: %v", args[0], args[1], diffs)
	}
}

func cmdRandom(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "random FILE SIZE")
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	data := make([]byte, number(ts, args[1]))
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(args[0]))).Read(data)
	ts.Check(os.WriteFile(path, data, 0o644))
}

func cmdChurn(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "churn FILE")
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		defer f.Close()
		for i := byte(0); ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				_, _ = f.WriteAt([]byte{i}, 0)
			}
		}
	})
	w := worldOf(ts)
	w.endings = append(w.endings, func() { close(stop); done.Wait() })
}

// cmdOddTree makes one of everything that a tree can hold.
func cmdOddTree(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "oddtree DIR")
	at := func(name string) string { return filepath.Join(ts.MkAbs(args[0]), name) }
	write := func(name, text string, mode os.FileMode) {
		ts.Check(os.MkdirAll(filepath.Dir(at(name)), 0o755))
		ts.Check(os.WriteFile(at(name), []byte(text), mode))
		ts.Check(os.Chmod(at(name), mode))
	}
	write("deeds/1.txt", "canary: the first deed\n", 0o640)
	write("deeds/2.txt", "canary: the second deed\n", 0o400)
	write("tool", "#!/bin/sh\n", 0o755|os.ModeSetuid)
	write("name \xff\xfe\nwith any bytes", "x", 0o600)
	write("no bytes", "", 0o644)
	ts.Check(os.Mkdir(at("empty"), 0o711))
	ts.Check(os.Symlink("deeds/1.txt", at("link")))
	ts.Check(os.Symlink("nowhere/at all", at("dangling")))
	ts.Check(os.Link(at("deeds/1.txt"), at("hard")))
	ts.Check(unix.Mkfifo(at("fifo"), 0o600))
	ts.Check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	ts.Check(os.Chown(at("deeds/2.txt"), 1234, 4321))
	ts.Check(unix.Setxattr(at("deeds/2.txt"), "user.seal", []byte{0, 1, 2, 255}, 0))
	f, err := os.Create(at("sparse"))
	ts.Check(err)
	_, err = f.WriteAt([]byte("at the end"), 5<<20)
	ts.Check(err)
	ts.Check(f.Close())
	ts.Check(os.Chtimes(at("deeds/1.txt"), time.Time{}, time.Unix(-86400, 123456789)))
	ts.Check(os.Chtimes(at("deeds"), time.Time{}, time.Unix(1e9, 987654321)))
}

func cmdSmallDisk(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "smalldisk DIR SIZE")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+args[1]))
	w := worldOf(ts)
	w.endings = append(w.endings, func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func cmdObjects(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "objects EMBASSY FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(worldOf(ts).objects(ts, args[0]), "\n")), 0o644))
}

func cmdCount(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "count VARIABLE EMBASSY FILE")
	known, n := ts.ReadFile(args[2]), 0
	for _, path := range worldOf(ts).objects(ts, args[1]) {
		if !strings.Contains(known, path) {
			n++
		}
	}
	ts.Setenv(args[0], fmt.Sprint(n))
}

func cmdHarm(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 4, "harm flip|truncate|delete|swap EMBASSY [FILE [SIZE]]")
	known, least := "", int64(0)
	if len(args) > 2 {
		known = ts.ReadFile(args[2])
	}
	if len(args) > 3 {
		least = number(ts, args[3])
	}
	harmed := ""
	for _, path := range worldOf(ts).objects(ts, args[1]) {
		info, err := os.Stat(path)
		ts.Check(err)
		if strings.Contains(known, path) || info.Size() < least {
			continue
		}
		switch args[0] {
		case "flip":
			err = flip(path, info.Size()/2)
		case "truncate":
			err = os.Truncate(path, info.Size()-1)
		case "delete":
			err = os.Remove(path)
		case "swap": // each object takes the place of the one before
			if harmed != "" {
				err = exchange(harmed, path)
			}
		default:
			ts.Fatalf("no harm is called %s", args[0])
		}
		ts.Check(err)
		harmed = path
	}
	if harmed == "" {
		ts.Fatalf("%s has no such object", args[1])
	}
	ts.Setenv("HARMED", filepath.Base(harmed))
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// field finds a field by a path such as registers.0.name; count is the number of elements of a list.
func field(text, path string) (string, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return "", fmt.Errorf("not JSON: %w: %s", err, text)
	}
	for _, step := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			if step == "count" {
				v = len(x)
				continue
			}
			i, err := strconv.Atoi(step)
			if key, wanted, ok := strings.Cut(step, "="); ok { // the first element whose field is so
				err = nil
				i = slices.IndexFunc(x, func(e any) bool { m, ok := e.(map[string]any); return ok && fmt.Sprint(m[key]) == wanted })
			}
			if err != nil || i < 0 || i >= len(x) {
				return "", fmt.Errorf("%s: no element %s of %d", path, step, len(x))
			}
			v = x[i]
		case nil:
			if step == "count" {
				v = 0
				continue
			}
			return "", fmt.Errorf("%s: nothing above %s in %s", path, step, text)
		default:
			return "", fmt.Errorf("%s: %v has no field %s", path, v, step)
		}
	}
	return fmt.Sprint(v), nil
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 4, 4, "json FILE PATH OP VALUE")
	text := ts.ReadFile(args[0])
	got, err := field(text, args[1])
	ts.Check(err)
	if !holds(ts, got, args[2], args[3]) {
		ts.Fatalf("%s is %s, want %s %s in %s", args[1], got, args[2], args[3], text)
	}
}

// holds compares texts, or numbers by their size.
func holds(ts *testscript.TestScript, got, op, wanted string) bool {
	switch op {
	case "=":
		return got == wanted
	case "!=":
		return got != wanted
	case "~":
		ok, err := regexp.MatchString(wanted, got)
		ts.Check(err)
		return ok
	}
	a, err := strconv.ParseFloat(got, 64)
	ts.Check(err)
	b, err := strconv.ParseFloat(wanted, 64)
	ts.Check(err)
	switch op {
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	case ">=":
		return a >= b
	}
	ts.Fatalf("no comparison is called %s", op)
	return false
}

func cmdIs(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "is A OP B")
	if !holds(ts, args[0], args[1], args[2]) {
		ts.Fatalf("%s is not %s %s", args[0], args[1], args[2])
	}
}

func cmdJSONEnv(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "jsonenv VARIABLE FILE PATH")
	got, err := field(ts.ReadFile(args[1]), args[2])
	ts.Check(err)
	ts.Setenv(args[0], got)
}

// cmdForge puts another custodian's share into a kit, sealed to the kit's custodian as the right one was.
func cmdForge(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "forge KIT IDENTITY OTHER-KIT")
	identity := ts.ReadFile(args[1])
	kit, _, err := readKit(ts.MkAbs(args[0]))
	ts.Check(err)
	other, _, err := readKit(ts.MkAbs(args[2]))
	ts.Check(err)
	share, err := custody.OpenShare(other.Share, identity)
	ts.Check(err)
	share.Holder, share.X = kit.Custodian, kit.X
	keys, err := holders()
	ts.Check(err)
	file, err := custody.SealShare(share, keys[kit.Custodian][1])
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[0]), "share.age"), file, 0o600))
}
