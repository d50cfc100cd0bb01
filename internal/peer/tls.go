package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Certificate wraps a key in the self-signed certificate that TLS wants. Nothing in it but the key is ever looked at.
func Certificate(key ed25519.PrivateKey) (*tls.Certificate, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("certificate: not an Ed25519 key")
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0).UTC(),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Config is what both ends begin with: TLS 1.3 only, and the certificate that is shown, nil for none. A client needs
// [Pin] too.
func Config(cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return cfg
}

// Pin makes a client's configuration believe no certificate, and ask accept instead about whoever answers: key is the
// one that it shows, nil where that is no Ed25519 key. That it holds the key is not proven yet; the handshake fails after
// accept where it does not. The two are set together, so that checking cannot be turned off alone.
func Pin(cfg *tls.Config, accept func(key ed25519.PublicKey, cs tls.ConnectionState) error) {
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return accept(Key(&cs), cs) }
}

// Key is the Ed25519 key that the peer shows, or nil. When the handshake is over, the peer has proven that it holds it.
func Key(cs *tls.ConnectionState) ed25519.PublicKey {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return nil
	}
	key, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil
	}
	return key
}
