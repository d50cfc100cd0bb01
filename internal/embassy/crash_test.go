package embassy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

// The child of TestKillLosesNothingAcknowledged.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHANCERY_TEST_EMBASSY"); dir != "" {
		if err := serveForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func serveForever(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	return s.Serve(context.Background(), ln)
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	var mu sync.Mutex
	acknowledged := make(map[shard.Name]int)
	for round := range 3 {
		killedWhileWriting(t, dir, round, &mu, acknowledged)
	}
	if len(acknowledged) < 10 {
		t.Fatalf("only %d objects were acknowledged", len(acknowledged))
	}
	s := serve(t, dir, Options{})
	c := s.client(t, "agent")
	var names []shard.Name
	for name := range acknowledged {
		names = append(names, name)
	}
	damage, err := c.Scrub(t.Context(), names)
	if err != nil || len(damage) != 0 {
		t.Errorf("of %d acknowledged: %v, %v", len(names), damage, err)
	}
	if _, err := c.Receipts(t.Context(), names, nil); err != nil {
		t.Errorf("receipts of %d acknowledged: %v", len(names), err)
	}
	if damage, err := c.Scrub(t.Context(), []shard.Name{{1}}); err != nil || len(damage) != 1 {
		t.Errorf("control: %v, %v", damage, err)
	}
}

// killedWhileWriting runs an embassy in another process, writes from several
// sides, and kills it without warning after some acknowledgements.
func killedWhileWriting(t *testing.T, dir string, round int, mu *sync.Mutex, acknowledged map[shard.Name]int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "CHANCERY_TEST_EMBASSY="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{server: &Server{key: key}, addr: strings.TrimSpace(addr)}
	c := s.client(t, "agent")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough := make(chan struct{}, 1000)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name, data := object(50_000+n, "kill", round, w, n)
				if c.Put(ctx, name, data) != nil {
					return
				}
				mu.Lock()
				acknowledged[name] = len(data)
				mu.Unlock()
				enough <- struct{}{}
			}
		})
	}
	for range 5 + 7*round {
		<-enough
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	cancel()
	writers.Wait()
}
