package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
)

// An authority signs certificates.
type authority struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	made int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.key, a.cert = a.sign(t, "ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign makes a key and its certificate, and writes both into the authority's folder.
func (a *authority) sign(t *testing.T, file string, c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.made++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(a.made), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.file(file+name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, made
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

const secret = "tower key" // the password of keeper

// overTLS starts a server that lets keeper in with a password and certified with a certificate, over TLS alone. Its
// certificate is for localhost.
func overTLS(t *testing.T, major int, a *authority) (s *pgtest.Server, port int) {
	t.Helper()
	s = pgtest.Start(t, major, pgtest.Options{})
	a.sign(t, "server", &x509.Certificate{Subject: pkix.Name{CommonName: "db"}, DNSNames: []string{"localhost"}})
	for _, name := range []string{"server.crt", "server.key", "ca.crt"} {
		b, err := os.ReadFile(a.file(name))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.Data, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hba := "local all postgres trust\nlocal replication postgres trust\n" +
		"hostssl all,replication keeper 127.0.0.1/32 scram-sha-256\nhostssl all,replication certified 127.0.0.1/32 cert\n"
	if err := os.WriteFile(filepath.Join(s.Data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Give(t, s.Data)
	s.Set(map[string]string{"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key", "ssl_ca_file": "ca.crt"})
	port = s.Listen()
	s.Exec("CREATE ROLE keeper LOGIN REPLICATION PASSWORD '" + secret + "'; CREATE ROLE certified LOGIN REPLICATION")
	s.Exec("GRANT pg_monitor, pg_read_all_settings TO keeper, certified")
	return s, port
}

// passwords is a file as passfile= names it.
func passwords(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(path, []byte("*:*:*:keeper:"+password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Over TLS, with the server's certificate held against an authority and a name, everything goes as it does on a socket:
// identity, base backup, stream, and what is asked in SQL; with a password bound to the connection, or with a certificate
// of our own.
func TestTheServerIsReachedOverTLS(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		a := newAuthority(t, "right")
		a.sign(t, "certified", &x509.Certificate{Subject: pkix.Name{CommonName: "certified"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		s, port := overTLS(t, major, a)
		base := fmt.Sprintf("host=localhost port=%d sslmode=verify-full sslrootcert=%s ", port, a.file("ca.crt"))
		for how, conninfo := range map[string]string{
			"password":    base + "user=keeper channel_binding=require passfile=" + passwords(t, secret),
			"certificate": base + "user=certified sslcert=" + a.file("certified.crt") + " sslkey=" + a.file("certified.key"),
		} {
			c, err := cluster.Open(deadline(t), conninfo)
			if err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			defer c.Close()
			f := followOn(t, c, "stream_"+how)
			s.Exec("CREATE TABLE IF NOT EXISTS numbered AS SELECT generate_series(1, 1000) AS n; SELECT pg_switch_wal()")
			f.until(t, written(t, s))
			if got := s.Exec("SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl"); got != "1" {
				t.Errorf("%s: %s streams over TLS", how, got)
			}
			b, err := cluster.Open(deadline(t), conninfo)
			if err != nil {
				t.Fatal(err)
			}
			copied := pgtest.NewCopy(t)
			if _, err := b.BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, copied); err != nil {
				t.Errorf("%s: %v", how, err)
			}
			if err := errors.Join(b.Close(), c.Close()); err != nil {
				t.Error(err)
			}
			if _, err := cluster.Inspect(deadline(t), conninfo); err != nil {
				t.Errorf("%s: %v", how, err)
			}
			s.Await("SELECT count(*) FROM pg_stat_replication", "0")
		}
		refusals(t, a, port)
	})
}

// refusals wants each connection that may not be made to be refused for its reason, and no password in the words.
func refusals(t *testing.T, a *authority, port int) {
	t.Helper()
	wrong := newAuthority(t, "wrong")
	wrong.sign(t, "certified", &x509.Certificate{Subject: pkix.Name{CommonName: "certified"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	pass := " passfile=" + passwords(t, secret)
	at := func(host, authority, user string) string {
		return fmt.Sprintf("host=%s port=%d sslmode=verify-full sslrootcert=%s user=%s", host, port, authority, user)
	}
	for what, v := range map[string]struct {
		conninfo string
		want     error
		words    string
	}{
		"another authority":     {at("localhost", wrong.file("ca.crt"), "keeper") + pass, cluster.ErrConnection, "signed by unknown authority"},
		"another name":          {at("127.0.0.1", a.file("ca.crt"), "keeper") + pass, cluster.ErrConnection, "x509: "},
		"no authority's file":   {at("localhost", a.file("none.crt"), "keeper") + pass, cluster.ErrConninfo, "none.crt: no such file"},
		"no TLS":                {fmt.Sprintf("host=localhost port=%d sslmode=disable user=keeper", port) + pass, cluster.ErrLogin, "pg_hba.conf"},
		"a wrong password":      {at("localhost", a.file("ca.crt"), "keeper") + " passfile=" + passwords(t, "tower kex"), cluster.ErrLogin, "password authentication failed"},
		"no certificate":        {at("localhost", a.file("ca.crt"), "certified"), cluster.ErrLogin, "certificate"},
		"another's certificate": {at("localhost", a.file("ca.crt"), "certified") + " sslcert=" + wrong.file("certified.crt") + " sslkey=" + wrong.file("certified.key"), cluster.ErrLogin, "certificate"},
	} {
		c, err := cluster.Open(deadline(t), v.conninfo)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, v.want) || !strings.Contains(fmt.Sprint(err), v.words) {
			t.Errorf("%s: %v", what, err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "tower") {
			t.Errorf("%s: the password is in %v", what, err)
		}
	}
}

// A server without TLS, and one whose certificate is another's, are sent the wish for TLS and nothing of ours: no name, no
// password, no database.
func TestNothingIsSentWithoutTLS(t *testing.T) {
	t.Parallel()
	right, wrong := newAuthority(t, "right"), newAuthority(t, "wrong")
	wrong.sign(t, "server", &x509.Certificate{Subject: pkix.Name{CommonName: "db"}, DNSNames: []string{"localhost"}})
	pair, err := tls.LoadX509KeyPair(wrong.file("server.crt"), wrong.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	for what, v := range map[string]struct {
		mode  string
		serve func(net.Conn) ([]byte, error) // what came after the wish
		words string
	}{
		"none": {"require", func(c net.Conn) ([]byte, error) {
			_, _ = c.Write([]byte{'N'})
			return io.ReadAll(c)
		}, "TLS"},
		"none, verified": {"verify-full", func(c net.Conn) ([]byte, error) {
			_, _ = c.Write([]byte{'N'})
			return io.ReadAll(c)
		}, "TLS"},
		"another's": {"verify-full", func(c net.Conn) ([]byte, error) {
			_, _ = c.Write([]byte{'S'})
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
			b, err := io.ReadAll(s)
			if err == nil {
				return b, errors.New("the handshake went well")
			}
			return b, nil
		}, "signed by unknown authority"},
	} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			seen := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					seen <- err
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				wish := make([]byte, 8)
				if _, err := io.ReadFull(c, wish); err != nil || string(wish) != "\x00\x00\x00\x08\x04\xd2\x16\x2f" {
					seen <- fmt.Errorf("%x, %w", wish, err)
					return
				}
				more, err := v.serve(c)
				if len(more) > 0 {
					err = fmt.Errorf("%d bytes more: %q", len(more), more)
				}
				seen <- err
			}()
			authority := ""
			if v.mode != "require" {
				authority = " sslrootcert=" + right.file("ca.crt")
			}
			conninfo := fmt.Sprintf("host=localhost port=%d user=keeper sslmode=%s passfile=%s", l.Addr().(*net.TCPAddr).Port, v.mode, passwords(t, secret)) + authority
			if _, err := cluster.Open(deadline(t), conninfo); !errors.Is(err, cluster.ErrConnection) || !strings.Contains(err.Error(), v.words) {
				t.Error(err)
			}
			if err := <-seen; err != nil {
				t.Error(err)
			}
		})
	}
}
