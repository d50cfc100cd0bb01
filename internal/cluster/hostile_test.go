package cluster

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/wal"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A server of the test's own, which says what no real one does.
func hostile(t testing.TB, messages ...pgproto3.BackendMessage) (*Conn, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	go func() {
		for _, m := range messages {
			b, err := m.Encode(nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := theirs.Write(b); err != nil {
				return
			}
		}
	}()
	front := pgproto3.NewFrontend(bufio.NewReader(ours), ours)
	front.SetMaxBodyLen(maxMessage)
	return &Conn{net: ours, front: front, beat: time.Hour, silence: 10 * time.Second}, theirs
}

func data(kind byte, parts ...any) *pgproto3.CopyData {
	b := []byte{kind}
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case wal.LSN:
			b = binary.BigEndian.AppendUint64(b, uint64(p))
		case int:
			b = append(b, byte(p))
		}
	}
	return &pgproto3.CopyData{Data: b}
}

// talking is a server of the test's own that answers each command with one row.
func talking(t testing.TB, answer func(command string) (columns, values []string)) *Conn {
	t.Helper()
	c, theirs := hostile(t)
	back := pgproto3.NewBackend(theirs, theirs)
	go func() {
		for {
			m, err := back.Receive()
			if err != nil {
				return
			}
			q, ok := m.(*pgproto3.Query)
			if !ok {
				return
			}
			columns, values := answer(q.String)
			var d pgproto3.RowDescription
			var r pgproto3.DataRow
			for i, name := range columns {
				d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte(name)})
				r.Values = append(r.Values, []byte(values[i]))
			}
			for _, m := range []pgproto3.BackendMessage{
				&d, &r, &pgproto3.CommandComplete{CommandTag: []byte("OK")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
			} {
				back.Send(m)
			}
			if back.Flush() != nil {
				return
			}
		}
	}()
	return c
}

// A standby that is promoted while it is asked is one primary, on its new timeline, and not a primary at the place where it
// was a standby: who goes by that takes it for an older copy.
func TestPromotedWhileAsked(t *testing.T) {
	asked := 0
	c := talking(t, func(command string) (columns, values []string) {
		name := strings.TrimPrefix(command, "SHOW ")
		if command == "IDENTIFY_SYSTEM" {
			asked++
			columns = []string{"systemid", "timeline", "xlogpos"}
			if asked == 1 {
				return columns, []string{"7", "1", "0/100"}
			}
			return columns, []string{"7", "2", "0/200"}
		}
		known := map[string]string{
			"server_version_num": "180004", "server_version": "18.4", "block_size": "8192", "wal_block_size": "8192",
			"wal_segment_size": "16MB", "in_hot_standby": "off",
		}
		value, ok := known[name]
		if !ok {
			value = "on"
		}
		return []string{name}, []string{value}
	})
	id, err := c.Identify(t.Context())
	if err != nil || id.Standby || id.Timeline != 2 || id.WriteLSN != 0x200 {
		t.Errorf("%+v, %v", id, err)
	}
}

// What no server says, a stream does not take: neither log that does not join, nor words of another form.
func TestHostileStream(t *testing.T) {
	t.Parallel()
	const at = wal.LSN(0x3000000)
	log := func(from wal.LSN) *pgproto3.CopyData { return data('w', from, from+4, wal.LSN(0), "four") }
	for what, v := range map[string]struct {
		messages []pgproto3.BackendMessage
		want     error
	}{
		"a gap":           {[]pgproto3.BackendMessage{log(at), log(at + 5)}, ErrGap},
		"an overlap":      {[]pgproto3.BackendMessage{log(at), log(at + 3)}, ErrGap},
		"the past":        {[]pgproto3.BackendMessage{log(at - 4)}, ErrGap},
		"cut off":         {[]pgproto3.BackendMessage{data('w', at)}, ErrProtocol},
		"empty":           {[]pgproto3.BackendMessage{&pgproto3.CopyData{}}, ErrProtocol},
		"unknown":         {[]pgproto3.BackendMessage{data('x', "something")}, ErrProtocol},
		"a short k":       {[]pgproto3.BackendMessage{data('k', at, at)}, ErrProtocol},
		"rows":            {[]pgproto3.BackendMessage{&pgproto3.DataRow{}}, ErrProtocol},
		"a shutdown":      {[]pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}}, ErrConnection},
		"a fatal error":   {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "FATAL", Code: "XX000"}}, ErrConnection},
		"removed":         {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "58P01"}, &pgproto3.ReadyForQuery{TxStatus: 'I'}}, ErrWALRemoved},
		"an unready mind": {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "58P01"}, &pgproto3.CopyDone{}}, ErrWALRemoved},
	} {
		t.Run(what, func(t *testing.T) {
			c, theirs := hostile(t, v.messages...)
			time.AfterFunc(time.Second, func() { _ = theirs.Close() })
			s := newStream(c, at, 1)
			var err error
			for n := 0; err == nil && n < 10; n++ {
				_, err = s.Receive(t.Context())
			}
			if !errors.Is(err, v.want) {
				t.Error(err)
			}
		})
	}
}

// Asked for a reply, the stream answers before Receive returns, with what was acknowledged last, and with nothing more.
func TestReplyIsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	const at = wal.LSN(0x3000000)
	c, theirs := hostile(t, data('w', at, at+4, wal.LSN(0), "four"), data('k', at+4, wal.LSN(0), 1))
	replies := make(chan []wal.LSN, 10)
	go func() {
		back := pgproto3.NewBackend(theirs, theirs)
		_ = back.SetAuthType(pgproto3.AuthTypeOk)
		for {
			m, err := back.Receive()
			if err != nil {
				return
			}
			if d, ok := m.(*pgproto3.CopyData); ok && len(d.Data) == 34 && d.Data[0] == 'r' {
				replies <- []wal.LSN{lsn(d.Data[1:]), lsn(d.Data[9:]), lsn(d.Data[17:]), wal.LSN(d.Data[33])}
			}
		}
	}()
	s := newStream(c, at, 1)
	if m, err := s.Receive(t.Context()); err != nil || string(m.Data) != "four" || m.Start != at {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := s.Acknowledge(at+4, at+2, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Acknowledge(at+1, 0, 0); err != nil { // backwards
		t.Fatal(err)
	}
	if m, err := s.Receive(t.Context()); err != nil || m.Kind != Keepalive || !m.ReplyRequested {
		t.Fatalf("%+v, %v", m, err)
	}
	for range 3 {
		select {
		case got := <-replies:
			if want := []wal.LSN{at + 4, at + 2, 0, 0}; !slices.Equal(got, want) {
				t.Errorf("%v, not %v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no reply")
		}
	}
}

// A server that says nothing is given up.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	c, _ := hostile(t)
	c.silence = 50 * time.Millisecond
	if _, err := newStream(c, 0x3000000, 1).Receive(t.Context()); !errors.Is(err, ErrConnection) {
		t.Error(err)
	}
}

func archive(t testing.TB, headers ...*tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func named4(name string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 4, Mode: 0o600}
}

// endless is an archive of a sparse file: 512 bytes that read as exabytes of zeros.
func endless(t testing.TB) string {
	t.Helper()
	const records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n23 GNU.sparse.name=abc\n43 GNU.sparse.realsize=4611686018427387904\n"
	extended := archive(t, &tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: int64(len(records))})
	extended = extended[:512] + records + extended[512+len(records):1024]
	header := []byte(extended[:512])
	header[156] = 'x'
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	sparse := archive(t, &tar.Header{Name: "abc", Typeflag: tar.TypeReg, Size: 512})
	body := append([]byte("0\n"), make([]byte, 510)...) // no pieces: all of it is a hole
	return string(header) + extended[512:1024] + sparse[:512] + string(body) + archive(t, named4("global/pg_control"))
}

// A receiver that reads everything and checks only that it gets what was promised.
type drain struct{ names []string }

func (d *drain) Begin(BackupStart) error { return nil }

func (d *drain) Entry(_ Space, e Entry, r io.Reader) error {
	d.names = append(d.names, e.Name)
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != e.Size {
		return fmt.Errorf("%s: %d bytes of %d", e.Name, n, e.Size)
	}
	return err
}

func (d *drain) Manifest(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func transferOf(t testing.TB, messages ...pgproto3.BackendMessage) ([]string, error) {
	c, theirs := hostile(t, append([]pgproto3.BackendMessage{&pgproto3.CopyOutResponse{}}, messages...)...)
	time.AfterFunc(time.Second, func() { _ = theirs.Close() })
	d := &drain{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	x := &transfer{conn: c, ctx: ctx, spaces: []Space{{OID: 16384, Location: "/srv/far"}, {}}}
	return d.names, x.run(d)
}

// Archives that no server sends are refused: other ones than were announced, names that lead out, links of another kind.
func TestHostileBackup(t *testing.T) {
	t.Parallel()
	far, base := data('n', "16384.tar\x00/srv/far\x00"), data('n', "base.tar\x00\x00")
	space := data('d', archive(t, named4("PG_15_202209061/1")))
	own := data('d', archive(t, named4("backup_label"), named4("global/pg_control")))
	manifest, done := data('m'), &pgproto3.CopyDone{}
	whole := []pgproto3.BackendMessage{far, space, base, own, manifest, data('d', "{}"), data('p', wal.LSN(7)), done}
	if _, err := transferOf(t, whole...); err != nil {
		t.Fatal(err)
	}
	with := func(i int, m ...pgproto3.BackendMessage) []pgproto3.BackendMessage {
		return slices.Replace(slices.Clone(whole), i, i+1, m...)
	}
	entry := func(h *tar.Header) []pgproto3.BackendMessage {
		return with(3, data('d', archive(t, h, named4("global/pg_control"))))
	}
	for what, messages := range map[string][]pgproto3.BackendMessage{
		"no archives":           {done},
		"one less":              slices.Delete(slices.Clone(whole), 0, 2),
		"one more":              with(4, base, own, manifest),
		"another oid":           with(0, data('n', "16385.tar\x00/srv/far\x00")),
		"another place":         with(0, data('n', "16384.tar\x00/srv/near\x00")),
		"a name cut off":        with(2, data('n', "base.tar")),
		"no manifest":           with(4),
		"after the manifest":    with(7, base, own, done),
		"bytes of nothing":      with(0, data('d', "bytes"), far),
		"an unknown message":    with(5, data('z', "bytes")),
		"an empty message":      with(5, &pgproto3.CopyData{}),
		"rows amid the bytes":   with(5, &pgproto3.DataRow{}),
		"no control file":       with(3, data('d', archive(t, named4("backup_label")))),
		"cut amid a file":       with(3, data('d', own.Data[1:900])),
		"cut amid a header":     with(3, data('d', string(own.Data[1:200]))),
		"noise":                 with(3, data('d', strings.Repeat("noise", 1000))),
		"a name that leads out": entry(named4("../outside")),
		"an absolute name":      entry(named4("/etc/passwd")),
		"a crooked name":        entry(named4("base//1")),
		"a way around":          entry(named4("base/../1")),
		"a hard link":           entry(&tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "backup_label"}),
		"extended headers":      entry(&tar.Header{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}),
		"an endless file":       with(3, data('d', endless(t))),
		"a device":              entry(&tar.Header{Name: "x", Typeflag: tar.TypeChar}),
	} {
		if names, err := transferOf(t, messages...); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, %v", what, names, err)
		}
	}
}

func FuzzTransfer(f *testing.F) {
	f.Add(append([]byte{'d'}, archive(f, named4("backup_label"), named4("global/pg_control"))...), []byte("p1234567"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		transferOf(t, data('n', "16384.tar\x00/srv/far\x00"), data('n', "base.tar\x00\x00"),
			&pgproto3.CopyData{Data: first}, &pgproto3.CopyData{Data: second}, data('m'), &pgproto3.CopyDone{})
	})
}

func FuzzStream(f *testing.F) {
	f.Add(data('w', wal.LSN(0x3000000), wal.LSN(0), wal.LSN(0), "log").Data)
	f.Add(data('k', wal.LSN(0x3000000), wal.LSN(0), 0).Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, theirs := hostile(t)
		_ = theirs.Close()
		s := newStream(c, 0x3000000, 1)
		m, err := s.decode(b)
		if err == nil && m.Kind == WAL && s.at != m.Start+wal.LSN(len(m.Data)) {
			t.Errorf("%+v", m)
		}
	})
}
