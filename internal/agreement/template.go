package agreement

import (
	"slices"

	"chancery.dev/chancery/internal/charter"
)

// Templates are the names by which [Draft] knows its templates: how much of a building the state has.
var templates = []string{"room", "rack", "partition", "building"}

// Templates lists the names of the templates.
func Templates() []string { return slices.Clone(templates) }

// Parties are what is known before anybody negotiates.
type Parties struct {
	Template string // one of [Templates]
	State    State
	// HostName may be empty: it is open then. HostCode may not.
	HostName, HostCode string
	Embassy            Embassy
	Need               int // of the signatories; 0: all of them, and 1 where none is named yet
	Signatories        []Signatory
	From               charter.Date
}

// Draft writes the first draft of an agreement: articles in the manner of those that states have, with values to start
// from, and [Open] where nobody else can know. It is a document for [ParseDraft].
func Draft(p Parties) ([]byte, error) {
	place, ok := placeOf(p.Template)
	if !ok {
		return nil, invalid("template %q: want one of %v", p.Template, templates)
	}
	if !p.From.Valid() {
		return nil, invalid("in_force.from %q: want a day such as 2026-01-31", p.From)
	}
	a := usual(p.From)
	a.Premises = place
	a.State, a.Embassy = p.State, p.Embassy
	a.Host = Host{Name: p.HostName, Code: p.HostCode, Need: p.Need, Signatories: slices.Clone(p.Signatories)}
	if a.Host.Name == "" {
		a.Host.Name = Open
	}
	if a.Host.Need == 0 {
		a.Host.Need = max(1, len(p.Signatories))
	}
	for i := range a.Host.Signatories {
		if a.Host.Signatories[i].Office == "" {
			a.Host.Signatories[i].Office = Open
		}
	}
	if err := a.validateDraft(); err != nil {
		return nil, err
	}
	doc, err := a.write()
	if err != nil {
		return nil, err
	}
	_, err = ParseDraft(doc)
	return doc, err
}

func placeOf(template string) (Premises, bool) {
	p := Premises{Place: Open, Boundary: template, Shared: "yes", Others: []string{Open}}
	switch template {
	case "room":
		p.Extent = "The computer room of the embassy: its walls, floor, ceiling and door, and all that is inside. Not the building around it."
		p.Marks = "A sign at the door in the languages of both states: premises of the state, inviolable."
	case "rack":
		p.Extent = "The racks of the embassy, closed on all sides, and all that is inside up to the first patch panel. Not the room around them."
		p.Marks = "Each rack bears the state's emblem, a number and seals whose numbers are in the inventory."
	case "partition":
		p.Extent = "An isolated and clearly demarcated part of the data centre, caged from floor to ceiling, and all that is inside."
		p.Marks = "A line on the floor and a sign on each side of the cage: premises of the state, inviolable."
	case "building":
		p.Extent = "The whole building and the ground within its fence."
		p.Marks = "The state's emblem at the gate and at each entrance."
		p.Shared, p.Others = "no", nil
	default:
		return p, false
	}
	return p, true
}

// usual is a first text of all that does not depend on who the parties are.
func usual(from charter.Date) *Agreement {
	start := from.Start()
	return &Agreement{
		Version: Version, Number: 1,
		InForce: Term{
			From: from, Until: charter.DateOf(start.AddDate(5, 0, -1)), Renewal: "amendment", Notice: "180d",
		},
		Inviolability: Inviolability{
			Covers: []string{"premises", "equipment", "archives", "data", "licences", "transit", "bag"},
			Exempt: []string{"search", "requisition", "attachment", "execution"},
			Basis: "This agreement, in the spirit of the Vienna Convention on Diplomatic Relations of 1961, which by itself does not suffice " +
				"for hosting data: archives are inviolable at any time and wherever they are.",
		},
		Entry: Entry{
			Consent: "representative", Exceptions: []Exception{{Case: "fire", Report: "24h"}, {Case: "danger-to-life", Report: "24h"}},
			Judiciary: "no",
			Refused:   "No administrative, judicial, military or police person of the host enters without consent.",
		},
		Access: Access{
			Roles: []string{"representative"}, Clearance: "Only persons whom the state has cleared.", Notice: "24h", Escort: "none",
		},
		Law: Law{
			Applicable: "International law; the law of the host where this agreement is silent and the premises' inviolability is not touched.",
			Data:       "The law of the state alone governs the data and what is done with them.",
			Courts:     "The courts of the state judge on the data; disputes between the parties go by the last article.",
		},
		Duties: Duties{
			Power: "Two independent feeds, each able to carry the whole, with uninterruptible supply and generators.", Cooling: "Two independent systems, each able to carry the whole.",
			Links: 2, Independent: 2, LinksAre: "Two links to the internet that share neither provider, nor duct, nor maker of routers.",
			Tier: Open, UptimePPM: 999950, UptimeOver: "365d", MeasuredBy: []string{"embassies", "home"},
			NotCounted: []string{"maintenance", "force-majeure", "state"}, Maintenance: "14d", Windows: "24h",
		},
		Notices: []Notice{
			{"maintenance", "host", "before", "14d"},
			{"outage", "host", "after", "1h"},
			{"entry", "host", "after", "24h"},
			{"intrusion", "both", "after", "1h"},
			{"legal-process", "host", "after", "24h"},
			{"seizure", "host", "after", "1h"},
			{"representatives", "state", "before", "7d"},
		},
		Process: Process{
			Refusal: "The premises, archives and data of the embassy are inviolable under an agreement between our states. We have no key to " +
				"them and may not hand them out. Please turn to the state through diplomatic channels.",
			Notice: "24h",
		},
		Cost:      Cost{Basis: "use", Currency: "EUR", PricePerTBMonth: 4000, Period: "quarter"},
		Limits:    Limits{QuotaBytes: 10_000_000_000_000, RequestsPerSecond: 500},
		Retention: Retention{Minimum: "90d", Cooling: "72h", Lowers: "no", Law: "The state's own law on archives and on the protection of persons governs how long data are kept and when they are erased."},
		Suspension: Suspension{
			By: "both", Notice: "72h",
			Effect: "A suspended representative enters no more and signs nothing that counts. The host gives no reason; the state names another.",
		},
		Review:      Review{Every: "365d", Next: charter.DateOf(start.AddDate(1, 0, 0))},
		Termination: leaving(),
		Disputes: Disputes{
			Manner: "Negotiation; after six months without result, at the demand of either party, arbitration by one arbitrator whom both name.",
			Forum:  Open,
		},
	}
}

func leaving() Termination {
	return Termination{
		Notice: "365d", Return: "180d",
		Protection: "Also after a break of relations or in armed conflict the host respects and protects premises, equipment and archives.",
		Erasure: "After the return period the state erases its keys and hands the host a certificate; the host destroys the media in the presence " +
			"of a representative and signs a list of their serial numbers.",
	}
}
