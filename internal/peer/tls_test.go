package peer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

var errStranger = errors.New("a stranger")

// meet has a client, own nil for one without a key, look for the holder of pin at a server, and returns the keys that
// each end was shown.
func meet(t *testing.T, server *tls.Config, own *tls.Certificate, pin ed25519.PublicKey, change func(client *tls.Config)) (asked, answered ed25519.PublicKey, err error) {
	t.Helper()
	client := Config(own)
	Pin(client, func(key ed25519.PublicKey, _ tls.ConnectionState) error {
		answered = key
		if !key.Equal(pin) {
			return errStranger
		}
		return nil
	})
	if change != nil {
		change(client)
	}
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	for _, end := range []net.Conn{near, far} {
		if err := end.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan ed25519.PublicKey, 1)
	go func() {
		conn := tls.Server(far, server)
		if conn.Handshake() != nil {
			far.Close()
		}
		cs := conn.ConnectionState()
		served <- Key(&cs)
	}()
	err = tls.Client(near, client).Handshake()
	if err != nil {
		near.Close()
	}
	return <-served, answered, err
}

func certificateOf(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	cert, err := Certificate(keyOf(name))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func serverOf(t *testing.T, name string) *tls.Config {
	cfg := Config(certificateOf(t, name))
	cfg.ClientAuth = tls.RequestClientCert
	cfg.SessionTicketsDisabled = true // nobody reads them from the pipe
	return cfg
}

func TestBothEndsLearnTheKeyThatWasProven(t *testing.T) {
	asked, answered, err := meet(t, serverOf(t, "lux"), certificateOf(t, "agent"), publicOf(keyOf("lux")), nil)
	if err != nil || !asked.Equal(publicOf(keyOf("agent"))) || !answered.Equal(publicOf(keyOf("lux"))) {
		t.Errorf("%x, %x, %v", asked, answered, err)
	}
	asked, _, err = meet(t, serverOf(t, "lux"), nil, publicOf(keyOf("lux")), nil)
	if err != nil || asked != nil {
		t.Errorf("without a certificate: %x, %v", asked, err)
	}
	if Key(nil) != nil {
		t.Error("a key without TLS")
	}
}

func TestAnotherKeyIsNotTalkedTo(t *testing.T) {
	if _, _, err := meet(t, serverOf(t, "liar"), nil, publicOf(keyOf("lux")), nil); !errors.Is(err, errStranger) {
		t.Error(err)
	}
	// One that shows the right certificate and cannot sign for it.
	stolen := certificateOf(t, "lux")
	stolen.PrivateKey = keyOf("liar")
	thief := Config(stolen)
	if _, answered, err := meet(t, thief, nil, publicOf(keyOf("lux")), nil); err == nil || errors.Is(err, errStranger) {
		t.Errorf("%x, %v", answered, err)
	}
	// One of another algorithm, which is nobody's key.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	other := Config(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	if _, answered, err := meet(t, other, nil, publicOf(keyOf("lux")), nil); !errors.Is(err, errStranger) || answered != nil {
		t.Errorf("%x, %v", answered, err)
	}
}

func TestOnlyTLS13IsSpoken(t *testing.T) {
	old := func(client *tls.Config) { client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }
	if _, _, err := meet(t, serverOf(t, "lux"), nil, publicOf(keyOf("lux")), old); err == nil {
		t.Error("a server speaks TLS 1.2")
	}
	server := serverOf(t, "lux")
	server.MinVersion, server.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err := meet(t, server, nil, publicOf(keyOf("lux")), nil); err == nil {
		t.Error("a client speaks TLS 1.2")
	}
	if _, _, err := meet(t, server, nil, publicOf(keyOf("lux")), old); err != nil { // the control
		t.Error(err)
	}
}

func TestHalfAKeyMakesNoCertificate(t *testing.T) {
	for _, n := range []int{0, 32, 63} {
		if _, err := Certificate(keyOf("lux")[:n]); err == nil {
			t.Errorf("%d bytes", n)
		}
	}
}
