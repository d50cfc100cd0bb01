package agreement

import (
	"reflect"
	"slices"
	"strings"
)

// Article is one article of every agreement, and what becomes of it. docs/agreement.md holds the same table, and a
// test keeps the two equal.
type Article struct {
	Number int
	Title  string
	// Keys are the parts of the document that it is made of.
	Keys []string
	// Enforced is what the software does, whatever anyone wants; Recorded is what both sides can later show; Beyond is
	// what no software can do here. Enforced and Recorded are empty where there is nothing.
	Enforced, Recorded, Beyond string
	// Tests show what is enforced, each as PACKAGE.TEST.
	Tests []string
}

// Articles are the articles in their order.
func Articles() []Article { return slices.Clone(articles) }

// Terms are the values of an article as they stand in the document, line by line, without comments.
func (a *Agreement) Terms(x Article) []string {
	w := writer{}
	w.Bare = true
	v := reflect.ValueOf(a).Elem()
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); slices.Contains(x.Keys, key) {
			w.field("", key, key, v.Field(i))
		}
	}
	return strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
}

// clause is what is on record of every article, and of many only this.
const clause = "The clause, in the document that both signed."

var articles = []Article{
	{
		Number: 1, Title: "Parties", Keys: []string{"state", "host", "embassy"},
		Enforced: "It counts only when the people of the state's charter and the host's signatories signed these very bytes, as many as each " +
			"side needs: distinct people, distinct keys, no key on both sides. An amendment needs those whom the one before names, too. The embassy takes only an agreement about " +
			"its own key, name and country, and serves the state under one and not otherwise.",
		Recorded: "Document and signatures, which the embassy's ledger keeps: neither side can deny or change them.",
		Beyond:   "Know whether a signatory has the power to bind the host: each side gives the other its keys in person.",
		Tests: []string{
			"agreement.TestBothSidesMustSign", "agreement.TestAmendments", "embassy.TestAdmissionIsRefused", "embassy.TestAnAgreementLetsAStateInAndIsObeyed",
		},
	},
	{
		Number: 2, Title: "In force, and renewal", Keys: []string{"in_force"},
		Enforced: "Before the first day and after the last the embassy stores nothing.",
		Tests:    []string{"embassy.TestAnAgreementEnds", "agreement.TestPhases"},
		Recorded: clause,
		Beyond:   "Renew by itself: a later end is an amendment that both sign.",
	},
	{
		Number: 3, Title: "Premises", Keys: []string{"premises"},
		Recorded: clause,
		Beyond:   "See walls, marks and neighbours: people walk the boundary and compare.",
	},
	{
		Number: 4, Title: "Inviolability", Keys: []string{"inviolability"},
		Enforced: "What is stored is sealed and masked: who searches, seizes or copies the machine reads nothing, and alters nothing unnoticed.",
		Recorded: "What was stored, in a ledger that witnesses in other states cosign: what is missing after a seizure is proven.",
		Beyond:   "Keep anyone from taking a machine away. The other embassies then hold the data.",
		Tests:    []string{"attack.TestCanariesAreSeenNowhereAbroad", "attack.TestEveryFlippedByteIsMadeGood"},
	},
	{
		Number: 5, Title: "Entry", Keys: []string{"entry"},
		Recorded: clause + " At this release a log of entries is kept by people.",
		Beyond:   "Lock a door, or know who stands before the machine.",
	},
	{
		Number: 6, Title: "Access of representatives", Keys: []string{"access"},
		Recorded: clause + " Who is in which role stands in the state's charter.",
		Beyond:   "Check a face or a clearance at the door.",
	},
	{
		Number: 7, Title: "Law and courts", Keys: []string{"law"},
		Recorded: clause,
		Beyond:   "Decide which law applies.",
	},
	{
		Number: 8, Title: "Duties of the host", Keys: []string{"duties"},
		Recorded: clause + " Audits and cosigned checkpoints show when the embassy answered; minutes of uptime are not counted at this release.",
		Beyond:   "Supply power, cooling or links. The building's tier is the building's and says nothing of the service.",
	},
	{
		Number: 9, Title: "Notices", Keys: []string{"notices"},
		Recorded: clause,
		Beyond:   "Know what a party knew and did not tell. Deadlines are kept by people at this release.",
	},
	{
		Number: 10, Title: "Legal process", Keys: []string{"process"},
		Recorded: clause,
		Beyond:   "Answer a court. The host has the words to answer with; it has no key to hand over.",
		Tests:    []string{"attack.TestCanariesAreSeenNowhereAbroad"},
	},
	{
		Number: 11, Title: "Costs", Keys: []string{"cost"},
		Recorded: clause + " What was kept, taken in and removed in a month is computed out of the cosigned ledger, by home, host and auditors alike.",
		Beyond:   "Pay, or send a bill.",
	},
	{
		Number: 12, Title: "Limits", Keys: []string{"limits"},
		Enforced: "Beyond the quota nothing is stored, and beyond the rate requests are told to come again. An embassy admits no more quotas " +
			"than its disk has room for.",
		Recorded: clause,
		Beyond:   "Keep a disk from shrinking or failing.",
		Tests: []string{
			"embassy.TestAnAgreementLetsAStateInAndIsObeyed", "embassy.TestRequestsBeyondTheAgreedRateComeAgain", "embassy.TestAHouseIsAdmittedWhereItsStateListsIt",
		},
	},
	{
		Number: 13, Title: "Retention", Keys: []string{"retention"},
		Enforced: "An amendment that lowers the minimum or the cooling-off must say so, or is refused. The embassy deletes nothing by itself: only by an order of the state's quorum, of what is older than the " +
			"minimum and after the cooling-off, both by witnessed time.",
		Recorded: clause + " Orders, vetoes, results and every removal are entries of the ledger.",
		Beyond:   "Keep the host from destroying its own disks: audits find it, and other embassies hold the data.",
		Tests: []string{
			"agreement.TestRetentionIsLoweredInTheOpenOnly", "embassy.TestTheAgreementsRetentionIsKept", "embassy.TestAReleaseRemovesExactlyWhatItLists",
		},
	},
	{
		Number: 14, Title: "Suspension of representatives", Keys: []string{"suspension"},
		Enforced: "Whom the state's quorum suspends by an order signs nothing that counts from then on, and a suspended agent is a stranger.",
		Tests:    []string{"embassy.TestHoldsAndSuspensionsAreHeeded"},
		Recorded: clause,
		Beyond:   "Keep a person out of the building.",
	},
	{
		Number: 15, Title: "Review", Keys: []string{"review"},
		Recorded: clause,
		Beyond:   "Hold the review.",
	},
	{
		Number: 16, Title: "Termination, and return of data", Keys: []string{"termination"},
		Enforced: "In the return period the state reads and exports everything and stores nothing; after it the embassy shows its ledger alone.",
		Tests:    []string{"embassy.TestAnAgreementEnds"},
		Recorded: clause,
		Beyond: "Make the host keep the machine running in the return period, or destroy every copy after it: what it keeps stays closed. " +
			"A denunciation by one side alone is not known to the software until an amendment says the new last day.",
	},
	{
		Number: 17, Title: "Disputes", Keys: []string{"disputes"},
		Recorded: clause + " Evidence files prove offline what was stored, altered or withheld, and by whom.",
		Beyond:   "Settle a dispute.",
		Tests:    []string{"evidence.TestHonestPartiesAreNeverBlamed", "evidence.TestTwoHistoriesConvictTheEmbassy"},
	},
}
