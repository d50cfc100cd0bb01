package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/snapshot"
)

func snapshotCommand(u *ui) *cobra.Command {
	return noun("snapshot", "List, show and compare snapshots", "  chancery snapshot list land --home HOME",
		snapshotList(u), snapshotShow(u), snapshotDiff(u), snapshotCut(u))
}

// headJSON is what a head says to everyone.
type headJSON struct {
	Snapshot    string    `json:"snapshot"`
	Time        time.Time `json:"time"`
	Hash        string    `json:"head"`
	Packs       uint64    `json:"packs"`
	Objects     uint64    `json:"objects"`
	StoredBytes uint64    `json:"stored_bytes"`
	Need        int       `json:"need"`
	Embassies   []string  `json:"embassies"`
	Missing     []string  `json:"embassies_missing,omitempty"`
	Agent       string    `json:"agent"`
	Charter     uint64    `json:"charter"`
	Released    string    `json:"released_by,omitempty"`
}

func (c *connection) headAnswer(h *snapshot.Head) headJSON {
	hash := h.Hash()
	a := headJSON{
		Snapshot: archive.SnapshotName(h.Sequence), Time: time.Unix(0, h.Time).UTC(), Hash: fmt.Sprintf("%x", hash),
		Packs: h.Packs, Objects: h.Objects, StoredBytes: h.Stored, Need: int(h.K), Charter: h.CharterVersion,
		Agent: fmt.Sprintf("%x", h.Agent),
	}
	name := func(id [16]byte) string {
		if e, ok := c.home.Charter.EmbassyByID(id); ok {
			return e.Name
		}
		return fmt.Sprintf("%x", id)
	}
	for _, id := range h.Members {
		a.Embassies = append(a.Embassies, name(id))
	}
	for _, id := range h.Missing {
		a.Missing = append(a.Missing, name(id))
	}
	return a
}

func snapshotList(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "list REGISTER", Short: "List the snapshots of a register", Args: cobra.ExactArgs(1),
		Long:    "Lists the snapshots of a register as embassies hold them. STORED is what each added, at all embassies together.",
		Example: "  chancery snapshot list land --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		_, reg, err := conn.register(args[0])
		if err != nil {
			return err
		}
		list := []headJSON{}
		released, err := archive.Released(c.Context(), reg)
		if err != nil {
			return err
		}
		err = archive.Snapshots(c.Context(), reg, conn.agent(), func(h *snapshot.Head) error {
			a := conn.headAnswer(h)
			a.Released = released[h.Sequence]
			list = append(list, a)
			return nil
		})
		if err != nil {
			return err
		}
		return u.answer(list, func(w io.Writer) {
			var rows [][]string
			for _, h := range list {
				at := strings.Join(h.Embassies, ",")
				if len(h.Missing) > 0 {
					at += " without " + strings.Join(h.Missing, ",")
				}
				if h.Released != "" {
					at = "released by " + h.Released
				}
				rows = append(rows, []string{h.Snapshot, h.Time.Local().Format("2006-01-02 15:04:05"), size(int64(h.StoredBytes)), fmt.Sprintf("%d of %s", h.Need, at)})
			}
			table(w, "SNAPSHOT TIME STORED KEPT", rows)
		})
	}
	return c
}

// splitName takes REGISTER[@SNAPSHOT] apart.
func splitName(arg string) (register, snapshot string) {
	register, snapshot, _ = strings.Cut(arg, "@")
	return register, snapshot
}

// openReader opens a register's snapshots with a reader's identity file. Close the connection after it.
func openReader(ctx context.Context, conn *connection, register, identity string) (*archive.Reader, error) {
	return openReaderIn(ctx, conn, register, identity, "")
}

// errWhichKey refuses to read where no reader's key is named.
var errWhichKey error = &failure{
	err: errors.New("which key? this machine can write the register and not read it"), code: exitUsage,
	hint: "name a reader's private key file: --identity READER.key",
}

// openReaderIn opens a reader whose local files are in a folder; without one, in the register's at home.
func openReaderIn(ctx context.Context, conn *connection, register, identity, dir string) (*archive.Reader, error) {
	if identity == "" {
		return nil, errWhichKey
	}
	_, reg, key, err := conn.registerFor(register, identity)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		reg.Dir = dir
	}
	reader, err := archive.OpenReader(ctx, reg, conn.agent(), key)
	if !errors.Is(err, durable.ErrLocked) {
		return reader, err
	}
	// A backup is at work on the local index. A restore cannot wait for it: it reads its own from the embassies.
	if reg.Dir, err = os.MkdirTemp("", "chancery-read-*"); err != nil {
		return nil, err
	}
	conn.later(func() { os.RemoveAll(reg.Dir) })
	return archive.OpenReader(ctx, reg, conn.agent(), key)
}

func snapshotShow(u *ui) *cobra.Command {
	var identity string
	var files bool
	c := &cobra.Command{
		Use: "show REGISTER[@SNAPSHOT]", Short: "Show a snapshot; with a reader's key also what is in it", Args: cobra.ExactArgs(1),
		Long:    "Shows a snapshot, by its number or \"latest\", which need not be said. What is in it takes a reader's key.",
		Example: "  chancery snapshot show land@latest --identity READER.key --files --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file")
	c.Flags().BoolVar(&files, "files", false, "list every file")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		register, name := splitName(args[0])
		if identity == "" && !files {
			return showHead(c.Context(), u, conn, register, name)
		}
		r, err := openReader(c.Context(), conn, register, identity)
		if err != nil {
			return err
		}
		defer r.Close()
		return showOpened(c.Context(), u, conn, r, name, files)
	}
	return c
}

func showHead(ctx context.Context, u *ui, conn *connection, register, name string) error {
	_, reg, err := conn.register(register)
	if err != nil {
		return err
	}
	h, err := archive.FindHead(ctx, reg, conn.agent(), name)
	if err != nil {
		return err
	}
	a := conn.headAnswer(h)
	return u.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "snapshot   %s of %s, %s\nhead       %s\nstored     %s in %s (new in this snapshot)\nkept at    %s; any %d are needed\n",
			a.Snapshot, register, a.Time.Local().Format(time.RFC3339), a.Hash, size(int64(a.StoredBytes)), plural(a.Objects, "object"),
			strings.Join(a.Embassies, ", "), a.Need)
		if len(a.Missing) > 0 {
			fmt.Fprintf(w, "without    %s\n", strings.Join(a.Missing, ", "))
		}
	})
}

// openedJSON is what a reader sees of a snapshot.
type openedJSON struct {
	headJSON
	Path     string            `json:"path"`
	Host     string            `json:"host"`
	Files    uint64            `json:"files"`
	Folders  uint64            `json:"folders"`
	Bytes    uint64            `json:"bytes"`
	Excluded uint64            `json:"excluded_count"`
	OtherFS  []string          `json:"other_file_systems,omitempty"`
	Problems []archive.Problem `json:"problems,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Entries  []entryJSON       `json:"entries,omitempty"`
}

type entryJSON struct {
	Path   string    `json:"path"`
	Kind   string    `json:"kind"`
	Mode   string    `json:"mode"`
	Size   uint64    `json:"size"`
	Time   time.Time `json:"time"`
	Target string    `json:"target,omitempty"`
}

func showOpened(ctx context.Context, u *ui, conn *connection, r *archive.Reader, name string, files bool) error {
	h, err := r.Find(name)
	if err != nil {
		return err
	}
	p, err := r.Payload(h)
	if err != nil {
		return err
	}
	problems, err := r.Problems(ctx, p)
	if err != nil {
		return err
	}
	a := openedJSON{
		headJSON: conn.headAnswer(h), Path: p.Path, Host: p.Host, Files: p.Stats.Files, Folders: p.Stats.Folders,
		Bytes: p.Stats.Bytes, Excluded: p.Excluded.Count, OtherFS: p.OtherFileSystems, Problems: problems, Tags: p.Tags,
	}
	if !u.json {
		fmt.Fprintf(u.out, "snapshot   %s, %s, of %s on %s\nholds      %s in %s and %s\n", a.Snapshot, a.Time.Local().Format(time.RFC3339),
			printable(a.Path), printable(a.Host), size(int64(a.Bytes)), plural(a.Files, "file"), plural(a.Folders, "folder"))
		for _, x := range problems {
			fmt.Fprintf(u.out, "incomplete %s: %s\n", printable(x.Path), printable(x.What))
		}
	}
	if files {
		err = r.Walk(ctx, h, func(path string, e *snapshot.Entry) error {
			line := entryAnswer(path, e)
			if u.json {
				a.Entries = append(a.Entries, line)
				return nil
			}
			_, err := fmt.Fprintf(u.out, "%s %12d  %s  %s\n", line.Mode, line.Size, line.Time.Local().Format("2006-01-02 15:04:05"), printable(path))
			return err
		})
		if err != nil {
			return err
		}
	}
	return u.answer(a, func(io.Writer) {})
}

func entryAnswer(path string, e *snapshot.Entry) entryJSON {
	letter := map[snapshot.Kind]string{
		snapshot.File: "-", snapshot.Dir: "d", snapshot.Symlink: "l", snapshot.FIFO: "p", snapshot.CharDevice: "c", snapshot.BlockDevice: "b", snapshot.Socket: "s",
	}[e.Kind]
	mode := os.FileMode(e.Mode & 0o777).String()[1:]
	return entryJSON{Path: path, Kind: e.Kind.String(), Mode: letter + mode, Size: e.Size, Time: time.Unix(e.ModSec, int64(e.ModNsec)).UTC(), Target: e.Target}
}

// changeJSON is one difference between two snapshots.
type changeJSON struct {
	Path string `json:"path"`
	What string `json:"what"` // added, removed, changed, attributes
}

func snapshotDiff(u *ui) *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "diff REGISTER@A B", Short: "Compare two snapshots of a register", Args: cobra.ExactArgs(2),
		Long: "Compares two snapshots of a register: + is added, - removed, M changed in content, U changed in mode, time, owner\n" +
			"or attributes only. Folders that are the same in both are not read. It takes a reader's key.",
		Example: "  chancery snapshot diff land@1 latest --identity READER.key --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		register, a := splitName(args[0])
		b := args[1]
		if _, after, ok := strings.Cut(b, "@"); ok {
			b = after
		}
		r, err := openReader(c.Context(), conn, register, identity)
		if err != nil {
			return err
		}
		defer r.Close()
		from, err := r.Find(a)
		if err != nil {
			return err
		}
		to, err := r.Find(b)
		if err != nil {
			return err
		}
		list := []changeJSON{}
		sign := map[string]string{"added": "+", "removed": "-", "changed": "M", "attributes": "U"}
		err = r.Diff(c.Context(), from, to, func(path, what string) error {
			if u.json {
				list = append(list, changeJSON{path, what})
				return nil
			}
			_, err := fmt.Fprintf(u.out, "%s  %s\n", sign[what], printable(path))
			return err
		})
		if err != nil || !u.json {
			return err
		}
		return u.answer(list, nil)
	}
	return c
}
