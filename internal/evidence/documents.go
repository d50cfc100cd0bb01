package evidence

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// documents are the signed documents in the file, by what they are of. Each is signed by a key that the charters name
// as what it must be; the others are passed over.
type documents struct {
	heads      map[ledger.Slot][]headDoc
	deliveries map[ledger.Slot][]deliveryDoc
	reports    []report
	scrubs     []scrubDoc
	registers  [][16]byte    // that have heads, in order
	places     []ledger.Slot // of heads, in order
	orderDocs
	agreements   map[[32]byte]agreementDoc
	attestations []attestDoc
	records      []registerDoc
	held         map[[32]byte]ledger.RecordKind
	named        map[[32]byte][]Place // by leaves
}

type headDoc struct {
	*snapshot.Head
	hash  [32]byte
	agent string
}

type deliveryDoc struct {
	ledger.Delivery
	hash  [32]byte
	agent string
}

type report struct {
	*audit.Report
	hash    [32]byte
	auditor string // in words
	known   bool   // the charters name the auditor
}

type scrubDoc struct {
	*audit.ScrubRecord
	hash [32]byte
}

func (j *judge) readDocuments() {
	d := &j.docs
	d.heads, d.deliveries = map[ledger.Slot][]headDoc{}, map[ledger.Slot][]deliveryDoc{}
	d.init(j.p)
	d.agreements = map[[32]byte]agreementDoc{}
	d.held, d.named = map[[32]byte]ledger.RecordKind{}, map[[32]byte][]Place{}
	for _, h := range j.histories {
		for _, at := range h.slots {
			d.named[at.name] = append(d.named[at.name], Place{h.name, at.index})
		}
	}
	for _, r := range j.p.Records {
		hash := sha256.Sum256(r.Data)
		d.held[hash] = r.Kind
		why := ""
		switch r.Kind {
		case ledger.Head:
			why = j.readHead(r.Data, hash)
		case ledger.DeliveryRecord:
			why = j.readDelivery(r.Data, hash)
		case ledger.Audit:
			why = j.readReport(r.Data, hash)
		case ledger.Scrub:
			why = j.readScrub(r.Data, hash)
		case ledger.OrderRecord:
			why = j.readOrder(r.Data, hash)
		case ledger.VetoRecord:
			why = j.readVeto(r.Data, hash)
		case ledger.ResultRecord:
			why = j.readResult(r.Data, hash)
		case ledger.AgreementRecord:
			why = j.readAgreement(r.Data, hash)
		case ledger.AttestationRecord:
			why = j.readAttestation(r.Data, hash)
		case ledger.Register:
			why = j.readRegister(r.Data, hash)
		}
		if why != "" {
			j.problems = append(j.problems, r.Kind.String()+" "+hexOf(hash[:8])+"… counts for nothing: "+why)
		}
	}
	for place := range d.heads {
		d.places = append(d.places, place)
		if !slices.Contains(d.registers, place.Register) {
			d.registers = append(d.registers, place.Register)
		}
	}
	slices.SortFunc(d.registers, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	slices.SortFunc(d.places, func(a, b ledger.Slot) int {
		return cmp.Or(bytes.Compare(a.Register[:], b.Register[:]), cmp.Compare(a.Sequence, b.Sequence))
	})
}

func (j *judge) readHead(data []byte, hash [32]byte) (why string) {
	h, err := snapshot.ParseHead(data)
	if err == nil {
		err = h.Verify()
	}
	if err != nil {
		return err.Error()
	}
	agent, ok := j.t.agent(h.Agent)
	if !ok || h.State != [16]byte(j.p.State) {
		return "it is signed by a key that the charters name as no agent of this state"
	}
	place := headSlot(h.Register, h.Sequence)
	j.docs.heads[place] = append(j.docs.heads[place], headDoc{h, hash, agent})
	return ""
}

func (j *judge) readDelivery(data []byte, hash [32]byte) (why string) {
	d, err := ledger.ParseDelivery(data)
	if err == nil {
		err = d.Verify()
	}
	if err != nil {
		return err.Error()
	}
	agent, ok := j.t.agent(d.Agent)
	if !ok || d.State != [16]byte(j.p.State) {
		return "it is signed by a key that the charters name as no agent of this state"
	}
	j.docs.deliveries[d.Slot()] = append(j.docs.deliveries[d.Slot()], deliveryDoc{d, hash, agent})
	return ""
}

// readReport keeps reports of any auditor: what an embassy signed in one convicts it, whoever asked.
func (j *judge) readReport(data []byte, hash [32]byte) (why string) {
	r, err := audit.ParseReport(data)
	if err == nil && r.State != [16]byte(j.p.State) {
		return "it is of another state"
	}
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		return err.Error()
	}
	who, known := j.t.inspector(r.Auditor)
	j.docs.reports = append(j.docs.reports, report{r, hash, who, known})
	return ""
}

// readScrub keeps what embassies of the charters signed about their own disks.
func (j *judge) readScrub(data []byte, hash [32]byte) (why string) {
	r, err := audit.ParseScrubRecord(data)
	if err == nil {
		err = r.Verify(r.Key[:])
	}
	if err != nil {
		return err.Error()
	}
	if _, ok := j.t.embassy(r.Key[:]); !ok || r.State != [16]byte(j.p.State) {
		return "it is signed by a key that the charters name as no embassy of this state"
	}
	j.docs.scrubs = append(j.docs.scrubs, scrubDoc{r, hash})
	return ""
}

// leavesOf are the leaves that name a document.
func (j *judge) leavesOf(hash [32]byte) []Place { return j.docs.named[hash] }

// wasGiven tells whether an agent's delivery has this embassy store this object.
func (j *judge) wasGiven(embassy [16]byte, object [32]byte) (doc deliveryDoc, ok bool) {
	for _, list := range j.docs.deliveries {
		for _, d := range list {
			if d.Embassy == embassy && d.names(object) && (!ok || bytes.Compare(d.hash[:], doc.hash[:]) < 0) {
				doc, ok = d, true
			}
		}
	}
	return doc, ok
}

func (d *deliveryDoc) names(object [32]byte) bool {
	_, ok := slices.BinarySearchFunc(d.Objects, object, compareHashes)
	return ok
}
