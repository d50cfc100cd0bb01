//go:build ignore

// Dataset writes the trees that the benchmarks back up. One seed always gives the same bytes.
//
//	go run bench/dataset.go [-seed N] [-scale F] registry|manyfiles DIR
//
// registry is a land register's week: 40,000 small records in three text forms, 2,000 scanned documents that do not
// compress, and 8 images of 64 MiB that repeat parts of each other; 2.2 GB. manyfiles is 200,000 files of at most
// 4 KiB in 1,024 folders; 0.4 GB. A scale of 0.01 makes one file where the whole tree has a hundred.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

func main() {
	seed := flag.Uint64("seed", 1, "the same seed gives the same bytes")
	scale := flag.Float64("scale", 1, "share of the files that is made")
	flag.Parse()
	makers := map[string]func(string, uint64, float64) error{"registry": registry, "manyfiles": manyfiles}
	makeTree := makers[flag.Arg(0)]
	if makeTree == nil || flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: dataset [-seed N] [-scale F] registry|manyfiles DIR")
		os.Exit(2)
	}
	if err := makeTree(flag.Arg(1), *seed, *scale); err != nil {
		fmt.Fprintln(os.Stderr, "dataset:", err)
		os.Exit(1)
	}
}

func registry(dir string, seed uint64, scale float64) error {
	w := newWriter(seed, 1)
	for i := range count(40_000, scale) {
		form := i % len(forms)
		name := fmt.Sprintf("%s/parcels/%03d/%06d%s", dir, i/200, i, forms[form].suffix)
		if err := write(name, w.record(form, 1<<10+w.IntN(19<<10)), i); err != nil {
			return err
		}
	}
	w = newWriter(seed, 2)
	for i := range count(2_000, scale) {
		scan := w.noise(200<<10 + w.IntN(824<<10))
		copy(scan, "%PDF-1.6\n")
		if err := write(fmt.Sprintf("%s/deeds/%02d/deed-%05d.pdf", dir, i/50, i), scan, i); err != nil {
			return err
		}
	}
	w = newWriter(seed, 3)
	common := w.mixed(24 << 20)
	for i := range count(8, scale) {
		if err := write(fmt.Sprintf("%s/images/map-%d.img", dir, i), w.image(64<<20, common), i); err != nil {
			return err
		}
	}
	return nil
}

func manyfiles(dir string, seed uint64, scale float64) error {
	w := newWriter(seed, 4)
	for i := range count(200_000, scale) {
		size := w.IntN(4097)
		var content []byte
		if i%4 == 3 {
			content = w.noise(size)
		} else {
			content = w.record(i%len(forms), size)[:size]
		}
		folder := i / 196 // 1,021 folders
		if err := write(fmt.Sprintf("%s/%02x/%02x/%06d", dir, folder/32, folder%32, i), content, i); err != nil {
			return err
		}
	}
	return nil
}

func count(n int, scale float64) int { return max(1, int(float64(n)*scale)) }

// write makes the file with a time that follows from its number.
func write(name string, content []byte, number int) error {
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, content, 0o644)
	}
	if err == nil {
		at := time.Unix(1_600_000_000+int64(number)*61, int64(number)*1_000_003%1e9)
		err = os.Chtimes(name, at, at)
	}
	return err
}

// A writer draws content: words by a Zipf law from a vocabulary that all writers of a seed share.
type writer struct {
	*rand.Rand
	source *rand.ChaCha8
	words  []string
	often  *rand.Zipf
}

func newWriter(seed, stream uint64) *writer {
	vocabulary := rand.New(rand.NewPCG(seed, 0))
	const consonants, vowels = "bdfghjklmnprstvz", "aeiou"
	words := make([]string, 8000)
	for i := range words {
		var word []byte
		for range 1 + vocabulary.IntN(4) {
			word = append(word, consonants[vocabulary.IntN(len(consonants))], vowels[vocabulary.IntN(len(vowels))])
		}
		words[i] = string(word)
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], stream)
	source := rand.NewChaCha8(key)
	r := rand.New(source)
	return &writer{r, source, words, rand.NewZipf(r, 1.2, 4, uint64(len(words)-1))}
}

func (w *writer) noise(n int) []byte {
	b := make([]byte, n)
	w.source.Read(b) // never fails
	return b
}

func (w *writer) phrase(words int) string {
	var b []byte
	for range words {
		b = append(append(b, w.words[w.often.Uint64()]...), ' ')
	}
	return string(bytes.TrimSpace(b))
}

func (w *writer) day() string {
	return time.Unix(1_100_000_000+w.Int64N(600_000_000), 0).UTC().Format(time.RFC3339)
}

var forms = []struct {
	suffix string
	line   func(w *writer) string
}{
	{".json", func(w *writer) string {
		return fmt.Sprintf("{\"parcel\":\"%08x\",\"owner\":%q,\"code\":%d,\"area_m2\":%d.%02d,\"since\":%q,\"remark\":%q}\n",
			w.Uint32(), w.phrase(2), w.IntN(1e9), w.IntN(1e6), w.IntN(100), w.day(), w.phrase(3+w.IntN(12)))
	}},
	{".xml", func(w *writer) string {
		return fmt.Sprintf("  <entry number=\"%d\" valid=%q><party code=\"%d\">%s</party><text>%s</text></entry>\n",
			w.IntN(1e7), w.day(), w.IntN(1e9), w.phrase(2), w.phrase(5+w.IntN(20)))
	}},
	{".txt", func(w *writer) string { return w.phrase(8+w.IntN(12)) + ".\n" }},
}

// record is text of at least n bytes.
func (w *writer) record(form, n int) []byte {
	b := fmt.Appendf(nil, "# %s %016x %s\n", forms[form].suffix, w.Uint64(), w.day())
	for len(b) < n {
		b = append(b, forms[form].line(w)...)
	}
	return b
}

// mixed is n bytes, text and noise in turns of 4 to 64 KiB.
func (w *writer) mixed(n int) []byte {
	b := make([]byte, 0, n+64<<10)
	for len(b) < n {
		turn := 4<<10 + w.IntN(60<<10)
		if w.IntN(2) == 0 {
			b = append(b, w.noise(turn)...)
		} else {
			b = append(b, w.record(w.IntN(len(forms)), turn)...)
		}
	}
	return b[:n]
}

// image is n bytes, three tenths of the pieces taken out of common at any byte.
func (w *writer) image(n int, common []byte) []byte {
	b := make([]byte, 0, n+4<<20)
	for len(b) < n {
		piece := 512<<10 + w.IntN(2_560<<10)
		if w.IntN(10) < 3 {
			at := w.IntN(len(common) - piece)
			b = append(b, common[at:at+piece]...)
		} else {
			b = append(b, w.mixed(piece)...)
		}
	}
	return b[:n]
}
