package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"chancery.dev/chancery/internal/chunk"
)

// Caps of one entry. They are checked before anything is allocated.
const (
	MaxName      = 4095     // bytes of a name
	MaxTarget    = 4095     // bytes of a symbolic link's target
	MaxXattrs    = 4096     // extended attributes of one entry
	MaxXattrName = 255      // bytes of an attribute's name
	MaxXattr     = 64 << 10 // bytes of one attribute's value
	MaxXattrSum  = 1 << 20  // bytes of all names and values of one entry's attributes
	MaxExtents   = 1 << 18  // extents of one entry, or of one piece of an extent list
)

// ErrEntry is wrapped by every refusal of an entry, a listing piece or an extent list.
var ErrEntry = errors.New("not a canonical entry")

// Kind says what an entry is. The numbers are part of the format.
type Kind uint8

// The kinds of entries.
const (
	File Kind = 1 + iota
	Dir
	Symlink
	FIFO
	CharDevice
	BlockDevice
	Socket
)

// String returns the kind in the words of the command line.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "folder"
	case Symlink:
		return "symbolic link"
	case FIFO:
		return "FIFO"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	case Socket:
		return "socket"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Bits of Entry.Flags.
const (
	// Partial marks a file that changed while it was read or could not be read to its end, and a
	// folder that could not be listed to its end.
	Partial uint8 = 1 << iota
	// Indirect marks a file with more extents than an entry should carry: its Extents address the
	// pieces of its extent list (AppendExtents), and those cover its Size bytes.
	Indirect

	knownFlags = Partial | Indirect
)

// Extent is one run of an entry's content: Length bytes at Offset of the plaintext of a chunk, or a
// hole of HoleLength zero bytes, in which case Chunk, Offset and Length are zero.
type Extent struct {
	Chunk      chunk.ID
	Offset     uint32
	Length     uint32
	Hole       bool
	HoleLength uint64
}

// Size returns the bytes that the extent stands for.
func (x *Extent) Size() uint64 {
	if x.Hole {
		return x.HoleLength
	}
	return uint64(x.Length)
}

// Xattr is one extended attribute. The name has its namespace ("user.note").
type Xattr struct {
	Name  string
	Value []byte
}

// Entry is one name in a folder, with everything that a restore needs.
type Entry struct {
	Name    string // any bytes but '/' and NUL; not empty, not ".", not ".."
	Kind    Kind
	Mode    uint32 // permission, set-id and sticky bits: 07777 and nothing else
	UID     uint32
	GID     uint32
	ModSec  int64  // modification time, seconds since 1970
	ModNsec uint32 // and nanoseconds, below 1e9

	Size      uint64   // file: its bytes; folder: the sum of file bytes below it; otherwise zero
	Files     uint64   // folder: the files below it; otherwise zero
	Extents   []Extent // file: its content; folder: the pieces of its listing; otherwise none
	Target    string   // symbolic link: where it points; otherwise empty
	Device    uint64   // device: its number as the kernel gives it; otherwise zero
	Xattrs    []Xattr  // strictly ascending by the bytes of the name
	LinkGroup uint64   // entries with one number other than zero are hard links of one inode; never a folder
	Flags     uint8    // Partial, Indirect
}

func (e *Entry) hasContent() bool { return e.Kind == File || e.Kind == Dir }

func (e *Entry) isDevice() bool { return e.Kind == CharDevice || e.Kind == BlockDevice }

// Check tells whether the entry can be written: every field within its cap and its kind, extents that
// cover exactly Size bytes of a file. The error wraps ErrEntry and names the entry.
func (e *Entry) Check() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	return e.checkNamed()
}

// checkNamed is Check but for the name, which the root of a tree does not have.
func (e *Entry) checkNamed() error {
	if what := e.flaw(); what != "" {
		return fmt.Errorf("entry %q: %s: %w", e.Name, what, ErrEntry)
	}
	if err := e.checkXattrs(); err != nil {
		return err
	}
	return e.checkExtents()
}

func checkName(name string) error {
	what := ""
	switch {
	case name == "":
		what = "the name is empty"
	case len(name) > MaxName:
		what = fmt.Sprintf("the name has %d bytes, the most is %d", len(name), MaxName)
		name = name[:32] + "..."
	case name == "." || name == "..":
		what = "the name means another folder"
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		what = "the name holds a slash or a NUL"
	default:
		return nil
	}
	return fmt.Errorf("entry %q: %s: %w", name, what, ErrEntry)
}

// flaw returns what is wrong with the fields of fixed size, or nothing.
func (e *Entry) flaw() string {
	switch {
	case e.Kind < File || e.Kind > Socket:
		return "unknown kind"
	case e.Mode > 0o7777:
		return "mode bits beyond 07777"
	case e.ModNsec >= 1e9:
		return "a second has no more than 999,999,999 nanoseconds"
	case e.Flags&^knownFlags != 0:
		return "unknown flags"
	case e.Flags != 0 && !e.hasContent():
		return "flags on an entry without content"
	case e.Flags&Indirect != 0 && e.Kind != File:
		return "an extent list on an entry that is no file"
	case e.LinkGroup != 0 && e.Kind == Dir:
		return "a folder with hard links"
	case e.Size != 0 && !e.hasContent():
		return "a size on an entry without content"
	case e.Files != 0 && e.Kind != Dir:
		return "a count of files on an entry that is no folder"
	case len(e.Extents) != 0 && !e.hasContent():
		return "extents on an entry without content"
	case len(e.Extents) > MaxExtents:
		return "too many extents"
	case (e.Target != "") != (e.Kind == Symlink):
		return "a target belongs to a symbolic link"
	case len(e.Target) > MaxTarget:
		return "the target is too long"
	case strings.IndexByte(e.Target, 0) >= 0:
		return "the target holds a NUL"
	case e.Device != 0 && !e.isDevice():
		return "a device number on an entry that is no device"
	}
	return ""
}

func (e *Entry) checkXattrs() error {
	if len(e.Xattrs) > MaxXattrs {
		return fmt.Errorf("entry %q: %d attributes, the most is %d: %w", e.Name, len(e.Xattrs), MaxXattrs, ErrEntry)
	}
	sum := 0
	for i := range e.Xattrs {
		x := &e.Xattrs[i]
		if x.Name == "" || len(x.Name) > MaxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("entry %q: attribute name %q: %w", e.Name, x.Name, ErrEntry)
		}
		if i > 0 && e.Xattrs[i-1].Name >= x.Name {
			return fmt.Errorf("entry %q: attribute %q: not in ascending order: %w", e.Name, x.Name, ErrEntry)
		}
		sum += len(x.Name) + len(x.Value)
		if len(x.Value) > MaxXattr || sum > MaxXattrSum {
			return fmt.Errorf("entry %q: attribute %q: too large: %w", e.Name, x.Name, ErrEntry)
		}
	}
	return nil
}

func (e *Entry) checkExtents() error {
	if e.Kind == File && e.Flags&Indirect == 0 {
		if err := CheckExtents(e.Size, e.Extents); err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		return nil
	}
	// The pieces of a listing or of an extent list: whole runs, never holes.
	for i := range e.Extents {
		if x := &e.Extents[i]; x.Hole || !x.valid() {
			return fmt.Errorf("entry %q: extent %d: %w", e.Name, i, ErrEntry)
		}
	}
	if e.Flags&Indirect != 0 && len(e.Extents) == 0 {
		return fmt.Errorf("entry %q: an extent list without pieces: %w", e.Name, ErrEntry)
	}
	return nil
}

// CheckExtents tells whether the extents cover exactly size bytes, none of them empty. It is how the
// extents behind an Indirect entry are checked once they are read.
func CheckExtents(size uint64, extents []Extent) error {
	left := size
	for i := range extents {
		x := &extents[i]
		if !x.valid() {
			return fmt.Errorf("extent %d: empty or malformed: %w", i, ErrEntry)
		}
		if x.Size() > left {
			return fmt.Errorf("extent %d: reaches beyond the file's %d bytes: %w", i, size, ErrEntry)
		}
		left -= x.Size()
	}
	if left != 0 {
		return fmt.Errorf("extents end %d bytes before the file does: %w", left, ErrEntry)
	}
	return nil
}

func (x *Extent) valid() bool {
	if x.Hole {
		return x.HoleLength > 0 && x.HoleLength <= maxHole && x.Length == 0 && x.Offset == 0 && x.Chunk == chunk.ID{}
	}
	return x.HoleLength == 0 && x.Length > 0 && uint64(x.Offset)+uint64(x.Length) <= 1<<32-1
}
