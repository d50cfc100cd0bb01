package agreement

// notes are the comments that [Agreement.Marshal] writes before a part or field, by its path in the document.
var notes = map[string]string{
	"number":           "The agreement is number 1. An amendment is a whole new document with the next number and the hash of the one before.",
	"state.id":         "As the state's charter has it.",
	"host.need":        "How many of the host's signatories must sign.",
	"host.signatories": "Each: `- name: \"anne\"`, `office: \"…\"` and `key: \"ssh-ed25519 AAAA…\"` on lines of their own, indented as lists below.",
	"embassy":          "The key is what embassy init printed; the country is the one in which it stands.",
	"in_force":         "Both days belong to it, in UTC. No last day: \"\". renewal is none, or amendment: the parties want to renew, and the\nend moves when both have signed an amendment; renewal_notice is how long before the end they begin to talk.",
	"premises":         "boundary is building, room, rack or partition (an isolated, clearly marked part). extent says exactly where it ends.",
	"inviolability":    "covers: of premises, equipment, archives, data, licences, transit (what crosses the wall), bag (sealed media).\nexempt_from: of search, requisition, attachment, execution.",
	"entry":            "Nobody of the host enters without the consent of a person of this role of the state's charter, but in these cases,\nof which the host reports within the time named.",
	"entry.judiciary":  "Whether the state's own judiciary is admitted.",
	"access":           "The state's own people: roles of its charter. escort is none, host or state.",
	"law":              "Which law governs the agreement, which the data and what is done with them, and whose courts judge.",
	"duties":           "uptime_ppm is in millionths: 999950 is 99.995 %, 26.3 minutes a year. measured_by: of embassies (the state's others),\nhome, host, auditors. not_counted: of maintenance, force-majeure, state (what the state caused itself).\nlinks_independent: how many share neither provider nor maker of routers. The tier is the building's, not the service's.",
	"notices":          "What each party tells the other: so long before it happens, or at the latest so long after.",
	"process":          "What the host answers to a court or an authority that wants something of the embassy, and how soon it tells the state.",
	"cost":             "basis is use (by what the ledger shows as stored) or fixed. Prices are in the currency's smallest unit; a TB is 10^12\nbytes, a month 30 days.",
	"limits":           "What the embassy grants the state: enforced.",
	"retention":        "Nothing is deleted but by an order, and nothing younger than the minimum (in witnessed time). cooling_off is how long\na deletion waits at the least, whatever the charter says. lowers is yes in an amendment that lowers one of them, which\nthen applies to what is stored already, and no otherwise.",
	"suspension":       "by is state, host or both: who may suspend a representative. notice is what the host owes the state before.",
	"termination":      "notice is what a party owes that wants to end it; the last day then stands in an amendment. For the time of return\nthe state may still read and take back everything, and write nothing. custodian is a third state that may take the\narchives into its care, or \"\".",
}
