package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
)

func TestAgreementsReviewsAndOrdersRunOutToo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	soon := now.Add(time.Hour)
	all := agreementExpiries("lu", &embassy.AgreementStatus{Until: "2026-07-31", Review: "2026-05-31"})
	all = append(all, agreementExpiries("is", nil)...)
	all = append(all, agreementExpiries("pt", &embassy.AgreementStatus{Phase: "none"})...)
	hash := strings.Repeat("0", 64)
	all = append(all, orderExpiries([]orderAtJSON{
		{Hash: hash, Kind: "hold", Expires: &soon, Embassies: []orderStandingJSON{{Embassy: "lu", Status: "done"}, {Embassy: "is", Status: "waiting"}}},
		{Hash: hash, Kind: "erase", Expires: &soon, Embassies: []orderStandingJSON{{Embassy: "lu", Status: "done"}}},
	})...)
	var got []string
	for _, e := range within(all, now) {
		got = append(got, e.What+" "+strings.Fields(e.Name)[0])
	}
	if want := "review lu, order hold, agreement lu"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", strings.Join(got, ", "), want)
	}
}

func TestWhatRunsOutIsToldInTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	c := &charter.Charter{
		Version: 3,
		People: []charter.Person{
			{Name: "long", From: "2026-01-01", Until: "2027-01-01"},
			{Name: "soon", From: "2026-01-01", Until: "2026-08-01"},
			{Name: "today", From: "2026-01-01", Until: "2026-06-01"},
			{Name: "gone", From: "2026-01-01", Until: "2026-05-31"},
			{Name: "ever", From: "2026-01-01"},
		},
		Roles:  []charter.Role{{Name: "representative", People: []string{"gone", "today", "ever"}}},
		Agents: []charter.Agent{{Name: "home", Until: "2026-06-30"}},
		Acts: []charter.Act{
			{Act: charter.ActCharter, Role: "representative", Need: 3},
			{Act: charter.ActHold, Role: "representative", Need: 2},
		},
		Succession: charter.Succession{Role: "elder", Need: 2, After: "14d", StoppedBy: "representative"},
	}
	var got []string
	list := within(charterExpiries(c, now), now)
	for _, e := range list {
		word := e.What + " " + e.Name
		if e.Past {
			word += " past"
		}
		got = append(got, word)
	}
	if want := "person gone past, person today, agent home, person soon"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", strings.Join(got, ", "), want)
	}
	lost := shortHanded(c, now)
	if len(lost) != 1 || !strings.Contains(lost[0], "act charter: 2 of role representative serve today, 3 must sign; 2 of role elder may give") {
		t.Errorf("%q", lost)
	}
	if lost := shortHanded(c, now.AddDate(0, 0, -2)); len(lost) != 0 { // the control: while all serve
		t.Errorf("two days before: %q", lost)
	}
	if lost := shortHanded(c, now.AddDate(0, 0, -2), "ever"); len(lost) != 1 {
		t.Errorf("with one who is suspended: %q", lost)
	}
	var out bytes.Buffer
	printExpiries(&out, list, now)
	if !strings.Contains(out.String(), "OVER for 12h") {
		t.Error(out.String())
	}
}
