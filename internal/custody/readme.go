package custody

import (
	"bytes"
	"fmt"
	"text/tabwriter"
)

// readme writes the page for a person who may never have used the program.
func (k *Kit) readme() []byte {
	var w bytes.Buffer
	k.introduce(&w)
	k.howToRecover(&w)
	k.howToRelease(&w)
	k.howToCheck(&w)
	k.listEmbassies(&w)
	return w.Bytes()
}

// introduce says whose kit this is, what it is for and how to keep it.
func (k *Kit) introduce(w *bytes.Buffer) {
	hash := k.CharterHash()
	fmt.Fprintf(w, `CUSTODIAN'S KIT

State:      %s
Custodian:  %s
Share:      %d of %d; any %d of them open
Key:        generation %d
Charter:    SHA-256 %x


WHAT THIS IS

You are one of the %d custodians of
%s.
Its registers are kept abroad, in data embassies, sealed so that nobody there can
read them. The key that opens them is kept nowhere: there are only %d shares of
it, and you hold one. Any %d custodians together bring the key back; fewer can do
nothing.

This folder holds your share in a locked file. Your private key unlocks it. The
private key is NOT in this folder and must never be: keep it somewhere else, in
your hands alone.


WHAT TO DO NOW

1. Keep this folder safe and keep a copy of it. It is not secret by itself.
2. Keep your private key apart from it, with a copy, under lock.
3. Once a year, and now, check that the two still belong together:

       chancery custodian kit --kit KIT --identity KEY

   KIT is this folder, KEY your private key file. It says that the share opens
   and is the right one, or what is wrong. Nothing leaves your machine.
4. If you lose either one, or believe somebody has seen your private key, tell
   the people who sign the charter at once.
5. When you get a newer kit, keep the old one until you are told otherwise.


`, k.StateName, k.Custodian, k.X, k.Total, k.Threshold, k.Generation, hash[:],
		k.Total, k.StateName, k.Total, k.Threshold)
}

// howToRecover says what the custodians do together when home is lost.
func (k *Kit) howToRecover(w *bytes.Buffer) {
	fmt.Fprintf(w, `WHEN HOME IS LOST: RECOVER EVERYTHING

Meet, in person or by messenger, until %d custodians' kits and private keys are
at one machine that you trust. Put the public chancery program on it. It needs a
way to reach the embassies and an empty folder, nothing else. Run, with one
--kit and one --identity for each custodian:

`, k.Threshold)
	k.recoverCommand(w)
	w.WriteString(`
KIT is a custodian's folder like this one, KEY that custodian's private key file,
DIR an empty folder that everything is written to. A share that is wrong is named
and not used: leave that kit out and take another custodian's. If an embassy has
moved since this kit was made, add --embassy NAME=https://HOST:PORT.


`)
}

// howToRelease says what one custodian does on a request.
func (k *Kit) howToRelease(w *bytes.Buffer) {
	w.WriteString(`WHEN SOMEBODY ASKS FOR YOUR SHARE

When custodians cannot meet, the machine that recovers sends you a request: a
short text file. Nobody needs your private key or this folder for that, so give
neither away. Read the request. Call the people who ask, on a number you had
before, and have them read its fingerprint to you: eight groups of four. Only if
all of it is right, with what they read between quotes:

    chancery custodian release --kit KIT --identity KEY --request request.txt \
        --fingerprint "FINGERPRINT" --out NAME.share

Without --fingerprint it shows the request and releases nothing; with another
than the request's it refuses. What it writes is locked to that one machine, for
that one request. Send them that file. If in doubt, refuse.


`)
}

// howToCheck says how to see, without this program, that the charter is what the kit says.
func (k *Kit) howToCheck(w *bytes.Buffer) {
	w.WriteString(`HOW TO CHECK THE CHARTER

charter.yaml is the state's signed policy and charter.yaml.sig its signatures.
These print the number above, and the key that made the first signature:

    sha256sum charter.yaml
    ssh-keygen -Y check-novalidate -n charter@chancery -s charter.yaml.sig < charter.yaml

The file holds one signature after the other, and ssh-keygen looks at the first
alone. To look at another, copy it, from BEGIN to END, to a file of its own.


`)
}

// listEmbassies says where the embassies are.
func (k *Kit) listEmbassies(w *bytes.Buffer) {
	w.WriteString("THE EMBASSIES\n\n")
	if len(k.Embassies) == 0 {
		w.WriteString("None when this kit was made. Ask for a newer one.\n")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range k.Embassies {
		fmt.Fprintf(t, "%s\t%s\t%s\n", e.Name, e.Country, keyFingerprint(e.Key))
		for _, u := range e.URLs {
			fmt.Fprintf(t, "\t\t%s\n", u)
		}
	}
	t.Flush()
}

// recoverCommand writes the whole command for as many custodians as it takes.
func (k *Kit) recoverCommand(w *bytes.Buffer) {
	w.WriteString("    chancery recover --to DIR")
	for i := range int(k.Threshold) {
		if k.Threshold == 1 {
			w.WriteString(" --kit KIT --identity KEY")
			continue
		}
		fmt.Fprintf(w, " \\\n        --kit KIT%d --identity KEY%d", i+1, i+1)
	}
	w.WriteString("\n")
}
