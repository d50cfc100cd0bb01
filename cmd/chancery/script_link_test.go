package main

import (
	"net"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// link is the network between the agent and one embassy.
type link struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	freed *sync.Cond // the mode changed
	mode  string
	next  string // the mode after more bytes
	after int64
	conns map[net.Conn]bool
	done  bool
}

// slowness is what one block of 16 KiB takes on a slow link.
const slowness = 5 * time.Millisecond

func newLink(ts *testscript.TestScript, at, to string) *link {
	ln, err := net.Listen("tcp", at)
	ts.Check(err)
	l := &link{ln: ln, to: to, mode: "whole", conns: map[net.Conn]bool{}}
	l.freed = sync.NewCond(&l.mu)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.join(c)
		}
	}()
	return l
}

func (l *link) join(from net.Conn) {
	to, err := net.Dial("tcp", l.to)
	if err != nil {
		from.Close()
		return
	}
	if !l.keep(from, to) {
		return
	}
	go l.pump(to, from, 0)
	l.pump(from, to, 1)
}

// keep remembers the connections, so that they can be cut.
func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.conns[c] = true
	}
	if l.done || l.mode == "cut" {
		l.cut()
		return false
	}
	return true
}

func (l *link) cut() {
	for c := range l.conns {
		c.Close()
	}
	clear(l.conns)
}

// pump moves bytes one way; those of the agent (weight 1) count.
func (l *link) pump(from, to net.Conn, weight int64) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !l.pass(int64(n)*weight) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// pass waits as the mode demands and reports whether the bytes may go on.
func (l *link) pass(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next != "" {
		if l.after -= n; l.after <= 0 {
			l.set(l.next)
			if len(l.conns) == 0 {
				return false
			}
		}
	}
	for l.mode == "stall" && !l.done {
		l.freed.Wait()
	}
	if l.mode == "slow" {
		l.mu.Unlock()
		time.Sleep(slowness)
		l.mu.Lock()
	}
	return l.mode != "cut" && !l.done
}

// set is called with mu held.
func (l *link) set(mode string) {
	l.mode, l.next = mode, ""
	if mode == "cut" || mode == "cut-once" {
		l.cut()
	}
	if mode == "cut-once" {
		l.mode = "whole"
	}
	l.freed.Broadcast()
}

func (l *link) close() {
	l.ln.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = true
	l.cut()
	l.freed.Broadcast()
}

func cmdLink(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 3, "link NAME whole|slow|cut|cut-once|stall [AFTER-BYTES]")
	l := worldOf(ts).links[args[0]]
	if l == nil {
		ts.Fatalf("%s has no link: embassies -via %s", args[0], args[0])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(args) == 3 {
		l.next, l.after = args[1], number(ts, args[2])
		return
	}
	l.set(args[1])
}
