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
	down  bool // bytes of the embassy, not of the agent
	conns map[net.Conn]bool
	done  bool
}

// What one block of 16 KiB takes on a slow link, and on one that crawls.
const (
	slowness = 5 * time.Millisecond
	crawling = 100 * time.Millisecond
)

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
	go l.pump(to, from, true)
	l.pump(from, to, false)
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

// pump moves bytes one way: down is the way of the embassy's.
func (l *link) pump(from, to net.Conn, down bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !l.pass(int64(n), down) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// pass waits as the mode demands and reports whether the bytes may go on.
func (l *link) pass(n int64, down bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next != "" && down == l.down {
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
	if pause := map[string]time.Duration{"slow": slowness, "crawl": crawling}[l.mode]; pause > 0 {
		l.mu.Unlock()
		time.Sleep(pause)
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
	const usage = "link NAME whole|slow|crawl|cut|cut-once|stall [AFTER-BYTES [down]]"
	want(ts, neg, args, 2, 4, usage)
	l := worldOf(ts).links[args[0]]
	if l == nil {
		ts.Fatalf("%s has no link: embassies -via %s", args[0], args[0])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(args) > 2 {
		if len(args) == 4 && args[3] != "down" {
			ts.Fatalf("usage: %s", usage)
		}
		l.next, l.after, l.down = args[1], number(ts, args[2]), len(args) == 4
		return
	}
	l.set(args[1])
}
