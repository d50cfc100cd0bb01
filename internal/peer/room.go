package peer

import (
	"net"
	"sync"
)

// Room returns ln with room for so many connections at once; more wait until one of those is closed. Closing the
// listener also ends an Accept that waits for room.
func Room(ln net.Listener, most int) net.Listener {
	return &room{Listener: ln, places: make(chan struct{}, most), end: make(chan struct{})}
}

type room struct {
	net.Listener
	places chan struct{} // one token per open connection
	end    chan struct{}
	once   sync.Once
}

// Accept waits for a place, then for a peer.
func (r *room) Accept() (net.Conn, error) {
	select {
	case r.places <- struct{}{}:
	case <-r.end:
		return nil, net.ErrClosed
	}
	conn, err := r.Listener.Accept()
	if err != nil {
		<-r.places
		return nil, err
	}
	var once sync.Once
	return &guest{Conn: conn, leave: func() { once.Do(func() { <-r.places }) }}, nil
}

// Close also wakes an Accept that waits for a place.
func (r *room) Close() error {
	r.once.Do(func() { close(r.end) })
	return r.Listener.Close()
}

// guest gives its place back when closed, once.
type guest struct {
	net.Conn
	leave func()
}

// Close frees the place.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
