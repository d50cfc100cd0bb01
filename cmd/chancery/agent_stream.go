package main

import (
	"context"
	"sync"
)

// streamKeeper keeps the streams of all clusters running beside the agent's rounds.
type streamKeeper struct {
	ui  *ui
	dir string
	all sync.WaitGroup

	mu      sync.Mutex // guards running
	running map[string]*keptStream
}

// keptStream is one cluster's stream, opened under one charter.
type keptStream struct {
	charter [32]byte
	stop    context.CancelFunc
	over    chan struct{}
}

// round starts what does not run: new registers, streams that ended, and those of an older charter, whose embassies or
// agents may have changed. One that another process has open is left to it.
func (k *streamKeeper) round(ctx context.Context) error {
	conn, err := connect(k.dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	names, err := conn.clusterNames()
	if err != nil {
		return err
	}
	for _, n := range names {
		k.keep(ctx, n, conn.home.Charter.Hash())
	}
	return nil
}

func (k *streamKeeper) keep(ctx context.Context, name string, charter [32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.running[name]; s != nil {
		select {
		case <-s.over:
		default:
			if s.charter == charter {
				return
			}
			s.stop()
			<-s.over
		}
	}
	run, stop := context.WithCancel(ctx)
	s := &keptStream{charter: charter, stop: stop, over: make(chan struct{})}
	if k.running == nil {
		k.running = map[string]*keptStream{}
	}
	k.running[name] = s
	k.all.Go(func() {
		defer close(s.over)
		conn, err := connect(k.dir, false)
		if err == nil {
			defer conn.close()
			err = conn.stream(run, &ui{out: k.ui.err, err: k.ui.err, quiet: true}, name)
		}
		if err != nil && !locked(err) && run.Err() == nil {
			k.ui.note("stream of %s: %s", name, printable(err.Error()))
		}
	})
}

// end stops all streams and waits for them.
func (k *streamKeeper) end() {
	k.mu.Lock()
	for _, s := range k.running {
		s.stop()
	}
	k.mu.Unlock()
	k.all.Wait()
}
