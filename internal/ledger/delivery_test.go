package ledger

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
)

func deliveryOf(t testing.TB, n int) Delivery {
	t.Helper()
	d := NewDelivery()
	d.State, d.Register, d.Embassy, d.Salt = [16]byte{1}, [16]byte{2}, [16]byte{3}, [32]byte{4}
	d.Head, d.Part, d.Parts = 7, 1, 3
	if n == 0 {
		d.Part, d.Parts = 0, 1
	}
	for i := range n {
		d.Objects = append(d.Objects, [32]byte{byte(i >> 8), byte(i), 9})
	}
	if err := d.Sign(keyOf("agent")); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDeliveriesAreReadAsWritten(t *testing.T) {
	for _, n := range []int{0, 1, 500, MaxDelivered} {
		d := deliveryOf(t, n)
		data, err := d.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseDelivery(data)
		if err != nil || !slices.Equal(got.Objects, d.Objects) || got.Signature != d.Signature || got.Verify() != nil {
			t.Fatalf("%d objects: %v", n, err)
		}
		if again, err := got.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%d objects: written otherwise, %v", n, err)
		}
		if len(data) > MaxRecord {
			t.Errorf("%d objects are %d bytes: no record", n, len(data))
		}
	}
}

func TestADeliverySaysWhatItsAgentSigned(t *testing.T) {
	for name, change := range map[string]func(*Delivery){
		"state": func(d *Delivery) { d.State[0] ^= 1 }, "register": func(d *Delivery) { d.Register[0] ^= 1 }, "head": func(d *Delivery) { d.Head++ },
		"embassy": func(d *Delivery) { d.Embassy[0] ^= 1 }, "part": func(d *Delivery) { d.Part++ }, "parts": func(d *Delivery) { d.Parts++ },
		"salt": func(d *Delivery) { d.Salt[0] ^= 1 }, "objects": func(d *Delivery) { d.Objects = d.Objects[1:] },
		"agent": func(d *Delivery) { d.Agent = [32]byte(publicOf(keyOf("b"))) }, "signature": func(d *Delivery) { d.Signature[9] ^= 1 },
		"the purpose": func(d *Delivery) {
			u := *d
			u.Signature = [64]byte{}
			b, err := u.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			d.Signature = [64]byte(ed25519.Sign(keyOf("agent"), b))
		},
	} {
		d := deliveryOf(t, 5)
		if err := d.Verify(); err != nil {
			t.Fatalf("control: %v", err)
		}
		change(&d)
		if err := d.Verify(); !errors.Is(err, ErrSignature) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	d := deliveryOf(t, 1)
	if err := d.Sign(nil); !errors.Is(err, ErrSignature) {
		t.Errorf("signed without a key: %v", err)
	}
}

func TestDeliveriesThatCannotBeAreRefused(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*Delivery)
		want   error
	}{
		"control":        {func(*Delivery) {}, nil},
		"version 2":      {func(d *Delivery) { d.Version = 2 }, ErrUnknown},
		"head 0":         {func(d *Delivery) { d.Head = 0 }, ErrFormat},
		"head 2^48":      {func(d *Delivery) { d.Head = 1 << 48 }, ErrFormat},
		"part 3 of 3":    {func(d *Delivery) { d.Part = 3 }, ErrFormat},
		"65,536 parts":   {func(d *Delivery) { d.Parts = 1 << 16 }, ErrFormat},
		"an empty part":  {func(d *Delivery) { d.Objects = [][32]byte{} }, ErrFormat},
		"of nothing":     {func(d *Delivery) { d.Objects, d.Part, d.Parts = nil, 0, 1 }, nil},
		"out of order":   {func(d *Delivery) { d.Objects[0], d.Objects[1] = d.Objects[1], d.Objects[0] }, ErrFormat},
		"one twice":      {func(d *Delivery) { d.Objects[1] = d.Objects[0] }, ErrFormat},
		"16,385 objects": {func(d *Delivery) { d.Objects = deliveryMany() }, ErrFormat},
	} {
		d := deliveryOf(t, 5)
		x.change(&d)
		data, err := encode(&d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseDelivery(data); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Bytes(); !errors.Is(err, x.want) {
			t.Errorf("%s is written: %v", name, err)
		}
		if name == "of nothing" { // the list as null: it is the byte 80 otherwise
			for i := range data {
				if data[i] == 0x80 {
					null := slices.Concat(data[:i], []byte{0xf6}, data[i+1:])
					if _, err := ParseDelivery(null); !errors.Is(err, ErrFormat) {
						t.Errorf("null at byte %d: %v", i, err)
					}
				}
			}
		}
	}
	d := deliveryOf(t, 5)
	data, err := d.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, data[:len(data)-1], append(bytes.Clone(data), 0), make([]byte, MaxRecord+1)} {
		if _, err := ParseDelivery(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func deliveryMany() [][32]byte {
	many := make([][32]byte, MaxDelivered+1)
	for i := range many {
		many[i] = [32]byte{byte(i >> 8), byte(i)}
	}
	return many
}

func TestDeliverySlotsDoNotMeet(t *testing.T) {
	r := [16]byte{5}
	seen := map[Slot]bool{}
	for _, head := range []uint64{1, 2, 1 << 20, maxHeadNo} {
		for _, part := range []uint32{0, 1, MaxParts - 1} {
			s := DeliverySlot(r, head, part)
			if seen[s] || s.Sequence != head<<16|uint64(part+1) || s.Kind != DeliveryRecord || s.Register != r {
				t.Errorf("head %d part %d: %+v", head, part, s)
			}
			seen[s] = true
		}
	}
	if d := deliveryOf(t, 1); d.Slot() != DeliverySlot(d.Register, 7, 1) {
		t.Error(d.Slot())
	}
}

func TestRecordKindsHaveWordsAndLeaves(t *testing.T) {
	for kind, word := range map[RecordKind]string{
		Head: "head", Register: "register", Charter: "charter", DeliveryRecord: "delivery", Audit: "audit", Scrub: "scrub",
		OrderRecord: "order", VetoRecord: "veto", ResultRecord: "result", AgreementRecord: "agreement", AttestationRecord: "attestation",
		StretchRecord: "stretch", GatheringRecord: "gathering", ProofRecord: "proof",
	} {
		if got, err := ParseRecordKind(word); err != nil || got != kind || kind.String() != word {
			t.Errorf("%s: %v, %v", word, got, err)
		}
		l := objectLeaf(1)
		l.Kind, l.Slot = RecordStored, Slot{Kind: kind, Register: [16]byte{1}, Sequence: 1}
		if got, err := ParseLeaf(mustBytes(t, &l)); err != nil || got != l {
			t.Errorf("%s: %v", word, err)
		}
	}
	l := objectLeaf(1)
	l.Kind, l.Slot = RecordStored, Slot{Kind: lastRecord + 1, Sequence: 1}
	if _, err := l.Bytes(); !errors.Is(err, ErrFormat) {
		t.Errorf("a kind more: %v", err)
	}
	if _, err := ParseRecordKind((lastRecord + 1).String()); !errors.Is(err, ErrUnknown) {
		t.Errorf("a kind more: %v", err)
	}
}
