package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const sampleMaps = `00400000-00f5c000 r-xp 00000000 fe:00 17 /usr/bin/chancery
00f5c000-01a7f000 r--p 00b5c000 fe:00 17 /usr/bin/chancery
01a7f000-01ae4000 rw-p 0167f000 fe:00 17 /usr/bin/chancery
01ae4000-03b36000 rw-p 00000000 00:00 0
c000000000-c000400000 rw-p 00000000 00:00 0
7ffd0000-7fff0000 rw-p 00000000 00:00 0 [stack]
`

func TestTheVariablesOfAProgramAreFoundInItsMap(t *testing.T) {
	for name, c := range map[string]struct {
		maps string
		want mapping
	}{
		"a program":           {sampleMaps, mapping{0x1ae4000, 0x3b36000}},
		"of another name":     {strings.ReplaceAll(sampleMaps, "/usr/bin/chancery", "/usr/bin/other"), mapping{}},
		"none":                {strings.Replace(sampleMaps, "01ae4000-03b36000 rw-p 00000000 00:00 0\n", "", 1), mapping{}},
		"not beside the file": {strings.Replace(sampleMaps, "01ae4000-", "01ae5000-", 1), mapping{}},
		"not writable":        {strings.Replace(sampleMaps, "03b36000 rw-p", "03b36000 r--p", 1), mapping{}},
		"no addresses":        {strings.ReplaceAll(sampleMaps, "01ae4000-", "x-"), mapping{}},
		"backwards":           {strings.Replace(sampleMaps, "01ae4000-03b36000", "01ae4000-01ae3000", 1), mapping{}},
		"nothing":             {"", mapping{}},
		"short lines":         {"\n1-2\n1 2 3\n", mapping{}},
	} {
		got, ok := variables(bufio.NewScanner(strings.NewReader(c.maps)), "/usr/bin/chancery")
		if got != c.want || ok != (c.want != mapping{}) {
			t.Errorf("%s: %x, %v", name, got, ok)
		}
	}
}

// What the system was asked for stands in the flags of the mapping (hg, proc_pid_smaps(5)).
func TestTheSystemIsAskedForHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		hugePages() // on a system without, it does no harm
		return
	}
	asked := func() (m mapping, yes bool) {
		smaps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		program, err := os.Readlink("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		m, ok := variables(bufio.NewScanner(bytes.NewReader(smaps)), program)
		if !ok {
			t.Fatal("no variables")
		}
		_, rest, _ := strings.Cut(string(smaps), fmt.Sprintf("\n%08x-", m.from))
		_, rest, _ = strings.Cut(rest, "VmFlags:")
		flags, _, _ := strings.Cut(rest, "\n")
		return m, slices.Contains(strings.Fields(flags), "hg")
	}
	if _, yes := asked(); yes {
		t.Fatal("control: it has been asked already")
	}
	hugePages()
	if m, yes := asked(); !yes {
		t.Errorf("%d KiB at %x are in small pages", (m.to-m.from)>>10, m.from)
	}
}
