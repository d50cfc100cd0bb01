package cluster_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/cluster"
)

// changesOf is what a server sends in place of a file, without the blocks.
func changesOf(magic, length uint32, blocks ...uint32) []byte {
	out := binary.LittleEndian.AppendUint32(nil, magic)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(blocks)))
	out = binary.LittleEndian.AppendUint32(out, length)
	for _, b := range blocks {
		out = binary.LittleEndian.AppendUint32(out, b)
	}
	if len(blocks) > 0 {
		out = append(out, make([]byte, 8192-len(out)%8192)...)
	}
	return out
}

const changesMagic = 0xd3ae1f0d

// What a server sends of a file that changed is read in the one form that is known; all else is told apart from damage
// of the connection, so that everything can be asked for.
func TestReadChanges(t *testing.T) {
	t.Parallel()
	stray := changesOf(changesMagic, 9, 1, 2)
	stray[8000] = 1
	many := changesOf(changesMagic, 9)
	binary.LittleEndian.PutUint32(many[4:], 1<<31)
	for name, c := range map[string]struct {
		data   []byte
		more   int64
		blocks []uint32
		length uint32
		fails  bool
	}{
		"nothing changed":                 {data: changesOf(changesMagic, 9), length: 9},
		"two blocks":                      {data: changesOf(changesMagic, 9, 1, 8), more: 2 * 8192, blocks: []uint32{1, 8}, length: 9},
		"a block behind the length":       {data: changesOf(changesMagic, 9, 1, 11), more: 2 * 8192, blocks: []uint32{1, 11}, length: 12},
		"of a machine of the other order": {data: changesOf(0x0d1faed3, 9), fails: true},
		"blocks that are not sent":        {data: changesOf(changesMagic, 9, 1, 8), more: 8192, fails: true},
		"more than is said":               {data: changesOf(changesMagic, 9), more: 1, fails: true},
		"a block twice":                   {data: changesOf(changesMagic, 9, 3, 3), more: 2 * 8192, fails: true},
		"blocks out of order":             {data: changesOf(changesMagic, 9, 3, 2), more: 2 * 8192, fails: true},
		"a block beyond any file":         {data: changesOf(changesMagic, 9, 1<<20), more: 8192, fails: true},
		"a length beyond any file":        {data: changesOf(changesMagic, 1<<20+1), fails: true},
		"more blocks than any file has":   {data: many, more: 8192 << 31, fails: true},
		"something after the numbers":     {data: stray, more: 2 * 8192, fails: true},
	} {
		got, err := cluster.ReadChanges(bytes.NewReader(c.data), int64(len(c.data))+c.more, 8192)
		if c.fails {
			if !errors.Is(err, cluster.ErrUnchanging) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			continue
		}
		if err != nil || !slices.Equal(got.Blocks, c.blocks) || got.Length != c.length {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := cluster.ReadChanges(bytes.NewReader(nil), 12, 8192); err == nil || errors.Is(err, cluster.ErrUnchanging) {
		t.Errorf("a connection that ended: %v", err)
	}
}

func TestChangedName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"base/5/INCREMENTAL.1259": "base/5/1259", "INCREMENTAL.x": "x", "base/5/1259": "", "INCREMENTAL./x": "", "base/5/INCREMENTAL.": "",
	} {
		if of, ok := cluster.ChangedName(name); ok != (want != "") || ok && of != want {
			t.Errorf("%s: %s, %v", name, of, ok)
		}
	}
}

func FuzzReadChanges(f *testing.F) {
	f.Add(changesOf(changesMagic, 9, 1, 8), int64(2*8192))
	f.Add(changesOf(changesMagic, 9), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, more int64) {
		in := bytes.NewReader(data)
		c, err := cluster.ReadChanges(in, int64(len(data))+more, 8192)
		if err != nil {
			return
		}
		begin := changesOf(changesMagic, binary.LittleEndian.Uint32(data[8:]), c.Blocks...)
		if read := data[:len(data)-in.Len()]; !bytes.Equal(begin, read) || more+int64(in.Len()) != int64(len(c.Blocks))*8192 {
			t.Errorf("%d bytes are read as %v", len(read), c)
		}
	})
}
