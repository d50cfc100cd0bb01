package evidence

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// Bundle is the receipts of one snapshot, for ever: C2SP tlog-proofs of its head, of what the agent had each embassy
// store for it, and of every object of that, each under a checkpoint that witnesses cosigned. In every proof the extra
// data is the leaf.
type Bundle struct {
	Head  []byte // the head's document
	Sites []Site
	// Before are the same of the snapshots before it, rising without a gap, with nothing before them: what a snapshot
	// shares with earlier ones was stored with those. Objects of theirs that are not held any more have no proof.
	Before []Bundle
}

// Site is what a bundle shows of one embassy.
type Site struct {
	Embassy    string // its name in the charter
	Head       ledger.Proof
	Deliveries []Delivery     // by part
	Objects    []ledger.Proof // of each object that a delivery names
}

// Delivery is the document of a delivery and the proof that the embassy took it.
type Delivery struct {
	Document []byte
	Proof    ledger.Proof
}

// Names of files in a bundle.
const (
	headFile      = "head.cbor"
	headProof     = "head.tlog-proof"
	beforeFolder  = "%020d/" // of an earlier snapshot; names of embassies begin with a letter
	deliveryFile  = "deliveries/%05d.cbor"
	deliveryProof = "deliveries/%05d.tlog-proof"
	objectProof   = "objects/%x.tlog-proof"
)

// WriteBundle writes the bundle as one file. It fails with ErrFormat where an object's proof carries no leaf.
func WriteBundle(w io.Writer, b *Bundle) error {
	out := &packer{w: w}
	for i := range b.Before {
		h, err := snapshot.ParseHead(b.Before[i].Head)
		if err != nil {
			return fmt.Errorf("evidence: an earlier head: %w: %w", ErrFormat, err)
		}
		if err := b.Before[i].write(out, fmt.Sprintf(beforeFolder, h.Sequence)); err != nil {
			return err
		}
	}
	if err := b.write(out, ""); err != nil {
		return err
	}
	return out.close()
}

// write writes one snapshot's files into a folder.
func (b *Bundle) write(out *packer, folder string) error {
	sites := slices.Clone(b.Sites)
	slices.SortFunc(sites, func(x, y Site) int { return cmp.Compare(x.Embassy, y.Embassy) })
	headWritten := false
	for i := range sites {
		if !headWritten && sites[i].Embassy+"/" > headFile {
			headWritten = true
			if err := out.add(folder+headFile, b.Head); err != nil {
				return err
			}
		}
		if err := sites[i].write(out, folder); err != nil {
			return fmt.Errorf("embassy %s: %w", sites[i].Embassy, err)
		}
	}
	if !headWritten {
		return out.add(folder+headFile, b.Head)
	}
	return nil
}

func (s *Site) write(out *packer, folder string) error {
	dir := folder + s.Embassy + "/"
	for i, d := range s.Deliveries {
		if err := out.add(dir+fmt.Sprintf(deliveryFile, i+1), d.Document); err != nil {
			return err
		}
		if err := out.add(dir+fmt.Sprintf(deliveryProof, i+1), d.Proof.Bytes()); err != nil {
			return err
		}
	}
	if err := out.add(dir+headProof, s.Head.Bytes()); err != nil {
		return err
	}
	type object struct {
		name  string
		proof *ledger.Proof
	}
	objects := make([]object, len(s.Objects))
	for i := range s.Objects {
		leaf, err := ledger.ParseLeaf(s.Objects[i].Extra)
		if err != nil {
			return fmt.Errorf("evidence: proof of an object: %w: %w", ErrFormat, err)
		}
		objects[i] = object{fmt.Sprintf(objectProof, leaf.Name), &s.Objects[i]}
	}
	slices.SortFunc(objects, func(a, b object) int { return cmp.Compare(a.name, b.name) })
	for _, o := range objects {
		if err := out.add(dir+o.name, o.proof.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// splitSite takes a name in a bundle apart.
func splitSite(name string) (site, rest string) {
	site, rest, _ = strings.Cut(name, "/")
	return site, rest
}
