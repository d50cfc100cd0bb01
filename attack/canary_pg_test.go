package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
)

// database makes a cluster in which every name and value is a canary, with a tablespace below a folder that is one.
func database(t *testing.T) (*pgtest.Server, canaries) {
	t.Helper()
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	c := canaries{}
	for _, what := range strings.Fields("database schema table column index function role row comment setting space-path space " +
		"logged-row restore-point register reader slot password assertion assertion-text cut alarm") {
		c[what] = word(r)
	}
	s := pgtest.Start(t, 15, pgtest.Options{Settings: map[string]string{"cluster_name": string(c["setting"])}})
	c["socket-path"] = []byte(filepath.Base(s.Dir))
	space := filepath.Join(s.Dir, string(c["space-path"]))
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Give(t, space)
	put := func(text string) string {
		for what, b := range c {
			text = strings.ReplaceAll(text, "{"+what+"}", string(b))
		}
		return text
	}
	s.Exec(put("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'"))
	s.Exec(put("CREATE TABLESPACE {space} LOCATION '" + space + "'"))
	s.Exec(put("CREATE DATABASE {database} OWNER {role}"))
	in := string(c["database"])
	s.ExecIn(in, put("CREATE SCHEMA {schema}"))
	s.ExecIn(in, put("CREATE TABLE {schema}.{table} (id int PRIMARY KEY, {column} text) TABLESPACE {space}"))
	s.ExecIn(in, put("CREATE INDEX {index} ON {schema}.{table} ({column})"))
	s.ExecIn(in, put("COMMENT ON TABLE {schema}.{table} IS '{comment}'"))
	s.ExecIn(in, put("CREATE FUNCTION {function}() RETURNS int LANGUAGE sql AS 'select 1'"))
	s.ExecIn(in, put("INSERT INTO {schema}.{table} SELECT i, '{row}' FROM generate_series(1, 20000) i"))
	return s, c
}

// TestADatabaseIsSeenNowhereAbroad is promise P1 for PostgreSQL: at a host (disk, log, memory, traffic in both directions)
// there is nothing of a cluster's pages, log, names, place or keys, nor of what was proven of it. That the same search
// finds all of it where it may be is the control: in the server's folder, and in the memory of the backup and the stream.
func TestADatabaseIsSeenNowhereAbroad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, c := database(t)
	taps := map[string]*tap{}
	s := foundTapped(t, dir, string(c["reader"]), taps)
	register, in := string(c["register"]), string(c["database"])
	passwords := filepath.Join(dir, "passwords")
	write(t, passwords, fmt.Appendf(nil, "*:*:*:*:%s\n", c["password"]))
	args := s.addArgs(register, "", 2)
	for i := range args {
		if args[i] == "--files" {
			args[i], args[i+1] = "--postgres", fmt.Sprintf("%s user=%s passfile=%s", place(server), c["role"], passwords)
		}
	}
	must(t, append(args, "--slot", string(c["slot"]))...)
	addKeys(t, s, register, c)
	assert(t, s, c)
	d := c.detector()
	watchAgent(t, d, exec.Command(program, "backup", register, "--home", s.home, "--tag", string(c["cut"])),
		"row", "table", "setting", "register", "slot", "password", "id-key", "mask-key")

	watchStream(t, d, s, register, func() {
		server.ExecIn(in, fmt.Sprintf("INSERT INTO %s.%s SELECT max(id) + 1, '%s' FROM %[1]s.%[2]s", c["schema"], c["table"], c["logged-row"]))
		server.Exec(fmt.Sprintf("SELECT pg_create_restore_point('%s')", c["restore-point"]))
	}, func() { must(t, "snapshot", "cut", register, "--home", s.home, "--name", string(c["cut"])) })
	write(t, filepath.Join(s.home, "registers", register, "alarms"),
		fmt.Appendf(nil, `{"what":"filling","text":"%s","alarm":true,"time":"2100-01-01T00:00:00Z"}`+"\n", c["alarm"]))
	must(t, "verify", register, "--boot", "--home", s.home, "--identity", s.reader())
	must(t, "verify", register, "--data", "--home", s.home)
	answer(t, &json.RawMessage{}, []int{0, 3}, "status", "--home", s.home) // an alarm asks for a person
	must(t, "restore", register, "--home", s.home, "--identity", s.reader(), "--to", filepath.Join(dir, "restored"), "--no-wait",
		"--tablespace", filepath.Join(server.Dir, string(c["space-path"]))+"="+filepath.Join(dir, "space"))

	seen := sightings{}
	d.folder(t, seen, server.Dir)
	for _, what := range strings.Fields("database schema table column index function role row comment setting space-path space logged-row restore-point") {
		if seen[what] == "" {
			t.Errorf("control: the %s is not found in the server's own folder", what)
		}
	}
	for _, h := range s.hosts {
		seeks(t, d, h, taps[h.listen])
	}
}

// place is how a server is found.
func place(s *pgtest.Server) string {
	for field := range strings.FieldsSeq(s.Conninfo()) {
		if strings.HasPrefix(field, "host=") {
			return field
		}
	}
	return ""
}

// assert gives the register something that must be true of what comes back.
func assert(t *testing.T, s *state, c canaries) {
	t.Helper()
	path := filepath.Join(s.home, "registers", string(c["register"]), "register.yaml")
	text := readFile(t, path)
	slot := fmt.Appendf(nil, "  slot: %s\n", c["slot"])
	if !bytes.Contains(text, slot) {
		t.Fatalf("no slot in %s", text)
	}
	write(t, path, bytes.Replace(text, slot, fmt.Appendf(slot, `  assertions:
    - name: %s
      database: %s
      sql: select '%s' <> '' and count(*) > 20000 from %s.%s
`, c["assertion"], c["database"], c["assertion-text"], c["schema"], c["table"]), 1))
}

// watchStream runs a stream while something commits, until the canaries that it must have had are seen in its memory, and
// goes on while then runs.
func watchStream(t *testing.T, d *detector, s *state, register string, commit, then func()) {
	t.Helper()
	var out bytes.Buffer
	c := exec.Command(program, "pg", "stream", register, "--home", s.home)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	defer func() { _ = c.Process.Kill(); <-ended }()
	seen := sightings{}
	d = d.only("logged-row", "slot")
	for deadline := time.Now().Add(2 * time.Minute); seen["logged-row"] == "" || seen["slot"] == ""; {
		commit()
		_ = c.Process.Signal(syscall.SIGSTOP)
		d.tryMemory(seen, c.Process.Pid)
		_ = c.Process.Signal(syscall.SIGCONT)
		select {
		case <-ended:
			t.Fatalf("the stream has ended: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("control: what the stream has in memory is not found there, only %v", seen.names())
		}
	}
	then()
}

// seeks searches all that a host has of an embassy.
func seeks(t *testing.T, d *detector, h *host, p *tap) {
	t.Helper()
	seen := sightings{}
	disk := d.folder(t, seen, h.dir)
	log := readFile(t, h.log)
	d.search(seen, "log", log)
	memory := d.memory(t, seen, h.proc.Pid)
	up, down := p.recorded()
	d.search(seen, "traffic to it", up)
	d.search(seen, "traffic from it", down)
	for _, what := range seen.names() {
		t.Errorf("%s sees the %s: %s", h.name, what, seen[what])
	}
	if disk < 400<<10 || len(log) == 0 || memory < 8<<20 || len(up) < 400<<10 || len(down) < 400<<10 {
		t.Errorf("%s: searched %d bytes of disk, %d of log, %d of memory, %d and %d of traffic: not enough to mean anything",
			h.name, disk, len(log), memory, len(up), len(down))
	}
}
