package witness

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"chancery.dev/chancery/internal/peer"
)

// ServerTLS is the configuration with which a witness serves HTTPS by its own key. TLS 1.3 only.
func ServerTLS(key ed25519.PrivateKey) (*tls.Config, error) {
	cert, err := peer.Certificate(key)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	return peer.Config(cert), nil
}

// NewClient returns a client for a witness elsewhere. Over HTTPS (TLS 1.3 only) it talks to whoever holds the Ed25519
// key pin, or, as witnesses of others do, a certificate that this system trusts for the address. own is shown as the
// client's key where it is not nil.
func NewClient(pin ed25519.PublicKey, own ed25519.PrivateKey) (*http.Client, error) {
	var cert *tls.Certificate
	if own != nil {
		var err error
		if cert, err = peer.Certificate(own); err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
	}
	cfg := peer.Config(cert)
	peer.Pin(cfg, func(key ed25519.PublicKey, cs tls.ConnectionState) error { return checkPeer(key, &cs, pin) })
	return &http.Client{
		Timeout: remoteTime,
		Transport: &http.Transport{
			TLSClientConfig: cfg, ForceAttemptHTTP2: true, DisableCompression: true, TLSHandshakeTimeout: 10 * time.Second,
			ResponseHeaderTimeout: remoteTime, MaxResponseHeaderBytes: 16 << 10, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2,
		},
	}, nil
}

// checkPeer judges who answered: key is the one that it shows, nil where that is not of Ed25519. The handshake fails
// after this where it does not hold what it shows.
func checkPeer(key ed25519.PublicKey, cs *tls.ConnectionState, pin ed25519.PublicKey) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("witness: TLS: no certificate")
	}
	if len(pin) == ed25519.PublicKeySize && key.Equal(pin) {
		return nil
	}
	leaf := cs.PeerCertificates[0]
	if cs.ServerName == "" { // an address without a name, for which a certificate of anybody's name would pass
		return errors.New("witness: TLS: not the witness's key")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: cs.ServerName, Intermediates: between}); err != nil {
		return fmt.Errorf("witness: TLS: neither the witness's key nor a certificate for %s: %w", cs.ServerName, err)
	}
	return nil
}
