package attack

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
)

// clientTLS speaks TLS as well as the program does, with this key or none; whoever answers is believed.
func clientTLS(key ed25519.PrivateKey) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}
	if key == nil {
		return c
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return c
	}
	c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return c
}

// rawClient is an HTTP client with nothing of the program's.
func rawClient(t *testing.T, c *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 5 * time.Minute}
}

// ask makes a request and returns the status; header is names and values by turns.
func ask(c *http.Client, method, url string, body []byte, header ...string) (status int, err error) {
	status, _, err = askFor(c, method, url, body, header...)
	return status, err
}

func askFor(c *http.Client, method, url string, body []byte, header ...string) (status int, answer string, err error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(text), err
}

// TestOnlyTheHybridGroupIsSpoken records the program's own handshakes: the agent offers X25519MLKEM768 and nothing
// else, and the embassy takes it. Peers that offer less are refused; one that offers the group, the control, is not.
func TestOnlyTheHybridGroupIsSpoken(t *testing.T) {
	t.Parallel()
	taps := map[string]*tap{}
	s := foundTapped(t, t.TempDir(), "reader", taps)
	must(t, "status", "--home", s.home)
	for _, p := range taps {
		up, down := p.recorded()
		hello, err := parseHello(up)
		if err != nil || len(hello.groups) != 1 || hello.groups[0] != hybrid || len(hello.shares) != 1 || hello.shares[0] != hybrid ||
			len(hello.versions) != 1 || hello.versions[0] != tls.VersionTLS13 {
			t.Errorf("the agent offers %+v: %v", hello, err)
		}
		answer, err := parseHello(down)
		if err != nil || len(answer.shares) != 1 || answer.shares[0] != hybrid {
			t.Errorf("the embassy takes %+v: %v", answer, err)
		}
	}
	address := s.hosts[0].listen
	refused := map[string]*tls.Config{
		"X25519":  {CurvePreferences: []tls.CurveID{tls.X25519}},
		"P-256":   {CurvePreferences: []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521}},
		"TLS 1.2": {MaxVersion: tls.VersionTLS12},
	}
	for what, c := range refused {
		c.InsecureSkipVerify = true
		if err := shake(address, c); err == nil {
			t.Errorf("a peer that offers only %s is let in", what)
		}
	}
	if err := shake(address, clientTLS(nil)); err != nil {
		t.Errorf("control: the hybrid group is refused too: %v", err)
	}
}

// shake completes a handshake, and waits for what the server says to it.
func shake(address string, c *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", address, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /v1/identity HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

const hybrid = uint16(tls.X25519MLKEM768)

// hello is what a ClientHello or ServerHello says of groups and versions.
type hello struct{ groups, shares, versions []uint16 }

var errHello = errors.New("not a hello")

// parseHello reads the first handshake message of a recorded stream (RFC 8446, 4.1).
func parseHello(stream []byte) (h hello, err error) {
	defer func() {
		if recover() != nil { // a length beyond what was recorded
			err = errHello
		}
	}()
	take := func(width int) []byte { // a vector with its length before it
		n := 0
		for _, b := range stream[:width] {
			n = n<<8 | int(b)
		}
		v := stream[width : width+n]
		stream = stream[width+n:]
		return v
	}
	if stream[0] != 22 {
		return h, errHello
	}
	client := stream[5] == 1
	stream = stream[5+4+2+32:]
	take(1) // session
	if client {
		take(2) // ciphers
		take(1) // compressions
	} else {
		stream = stream[3:]
	}
	stream = take(2)
	for len(stream) > 0 {
		kind := binary.BigEndian.Uint16(stream)
		stream = stream[2:]
		h.extension(kind, client, take(2))
	}
	return h, nil
}

func (h *hello) extension(kind uint16, client bool, body []byte) {
	word := binary.BigEndian.Uint16
	switch {
	case kind == 10:
		for b := body[2:]; len(b) > 0; b = b[2:] {
			h.groups = append(h.groups, word(b))
		}
	case kind == 43 && client:
		for b := body[1:]; len(b) > 0; b = b[2:] {
			h.versions = append(h.versions, word(b))
		}
	case kind == 51 && client:
		for b := body[2:]; len(b) > 0; b = b[4+int(word(b[2:])):] {
			h.shares = append(h.shares, word(b))
		}
	case kind == 51:
		h.shares = append(h.shares, word(body))
	}
}

// TestKeysMayDoWhatTheirRoleMay asks an embassy with no key, an unknown key, the recovery key and the agent's. A
// stranger hears the same of a state that is there and of one that is not; the recovery key reads and never writes.
func TestKeysMayDoWhatTheirRoleMay(t *testing.T) {
	t.Parallel()
	s := found(t, t.TempDir(), "reader", nil, "lu")
	smallTree(t, s.in("tree"))
	s.add(t, "land", s.in("tree"), 1)
	must(t, "backup", "land", "--home", s.home)
	x := steal(t, s.home, "land", s.hosts)
	url := s.hosts[0].url
	here, nowhere := url+"/v1/states/"+x.record.State.String(), url+"/v1/states/00112233445566778899aabbccddeeff"
	reads := []string{"/status", "/charter", "/objects", "/checkpoint", fmt.Sprintf("/records/head/%s/1", x.record.ID)}

	_, unknown, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]ed25519.PrivateKey{"no key": nil, "an unknown key": unknown} {
		c := rawClient(t, clientTLS(key))
		for _, path := range append(reads, "/no/such/path") {
			status, said, err := askFor(c, "GET", here+path, nil)
			other, saidThere, err2 := askFor(c, "GET", nowhere+path, nil)
			if err != nil || err2 != nil || status != 403 || other != 403 || said != saidThere {
				t.Errorf("%s, %s: %d %q here, %d %q nowhere: %v %v", what, path, status, said, other, saidThere, err, err2)
			}
		}
	}
	recovery := rawClient(t, clientTLS(recoveryKey(t, s)))
	agent := rawClient(t, clientTLS(x.key))
	writes := []string{"/objects/" + fmt.Sprintf("%064d", 1), fmt.Sprintf("/records/head/%s/9", x.record.ID), "/charter"}
	for _, path := range reads {
		for who, c := range map[string]*http.Client{"the recovery key": recovery, "the agent": agent} {
			if status, err := ask(c, "GET", here+path, nil); err != nil || status != 200 {
				t.Errorf("%s may not read %s: %d %v", who, path, status, err)
			}
		}
	}
	for _, path := range writes {
		if status, err := ask(recovery, "PUT", here+path, []byte("x")); err != nil || status != 403 {
			t.Errorf("the recovery key may write %s: %d %v", path, status, err)
		}
		if status, err := ask(agent, "PUT", here+path, []byte("x")); err != nil || status == 403 {
			t.Errorf("control: the agent may not write %s: %d %v", path, status, err)
		}
	}
}

// recoveryKey is what the custodians' shares make.
func recoveryKey(t *testing.T, s *state) ed25519.PrivateKey {
	t.Helper()
	ch, err := charter.Parse(readFile(t, filepath.Join(s.home, "charter.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	commitments, err := home.Commitments(ch)
	if err != nil {
		t.Fatal(err)
	}
	var shares []custody.Share
	for _, n := range s.people[:2] {
		kit, err := os.ReadFile(filepath.Join(s.home, "kits", n, custody.KitShare))
		if err != nil {
			t.Fatal(err)
		}
		share, err := custody.OpenShare(kit, string(readFile(t, s.in(n+".key"))))
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, share)
	}
	seed, err := custody.Combine(shares, commitments)
	if err != nil {
		t.Fatal(err)
	}
	return custody.DeriveAccessKey(seed)
}
