package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
)

// answerTypes are the types of which answers are made, by the title of their table in docs/json.md. A title that
// names several commands is compared with each.
func answerTypes() map[string]any {
	return map[string]any{
		"quickstart": quickstartJSON{}, "embassy sight": embassySightJSON{},
		"state init, state show":                     stateJSON{},
		"embassy accredit, embassy list":             embassyJSON{},
		"register add, register show, register list": registerJSON{},
		"register grant":                             grantJSON{},
		"register adopt":                             adoptedJSON{},
		"backup":                                     backupJSON{},
		"backed-up cluster":                          clusterJSON{},
		"restored cluster":                           restoredJSON{},
		"pg stream":                                  eventJSON{},
		"pg show":                                    pgShowJSON{},
		"reach of a base backup":                     reachJSON{},
		"gap":                                        gapJSON{},
		"snapshot list, snapshot show":               headJSON{},
		"snapshot show --identity":                   openedOnly{},
		"entry":                                      entryJSON{},
		"snapshot cut":                               cutJSON{}, "part of a cut": cutPartJSON{},
		"snapshot diff":                      changeJSON{},
		"retention show, retention propose":  retentionJSON{},
		"snapshot under rules":               keptJSON{},
		"release":                            archive.Release{},
		"release at an embassy":              archive.Listed{},
		"retention check":                    releaseCheckJSON{},
		"retention rewrite":                  rewriteJSON{},
		"restore":                            restoreJSON{},
		"recover":                            recoverJSON{},
		"custody refresh, custody replace":   refreshJSON{},
		"resealed record":                    recordJSON{},
		"erased":                             erasedJSON{},
		"custody attest check":               attestedJSON{},
		"attestation":                        attestationJSON{},
		"custody attest submit":              attestSubmitJSON{},
		"custody certificate":                certificateJSON{},
		"attested share":                     evidence.Attested{},
		"verify, repair":                     verifyJSON{},
		"verify --boot":                      bootJSON{},
		"check of a proof":                   bootCheckJSON{},
		"stream status":                      streamStatusJSON{},
		"alarm":                              alarmJSON{},
		"last proof":                         registerProvenJSON{},
		"staying register":                   stayingJSON{},
		"status":                             statusJSON{},
		"register status":                    registerStatusJSON{},
		"site":                               siteJSON{},
		"trust":                              trustJSON{},
		"audit":                              auditJSON{},
		"metering":                           meteringJSON{},
		"charged part":                       chargedJSON{},
		"embassy admit":                      admittedJSON{},
		"audit finding":                      findingJSON{},
		"agent run":                          agentJSON{},
		"witnessed":                          witnessedJSON{},
		"problem":                            archive.Problem{},
		"down":                               register.Down{},
		"fault":                              register.Fault{},
		"warning":                            filetree.Warning{},
		"receipt export":                     receiptExportJSON{},
		"receipt verify":                     receiptVerifyJSON{},
		"proven snapshot":                    evidence.Proven{},
		"receipts of an embassy":             evidence.SiteProven{},
		"evidence export, evidence withhold": evidenceFileJSON{},
		"ledger in a file":                   evidenceLedgerJSON{},
		"embassy not asked":                  downJSON{},
		"evidence verify":                    evidence.Verdict{},
		"order judged":                       evidence.Ordering{},
		"approver":                           evidence.Approver{},
		"order at an embassy":                evidence.OrderingPlace{},
		"ledger shown":                       evidence.Shown{},
		"judged claim":                       evidence.Finding{},
		"party":                              evidence.Party{},
		"leaf of a ledger":                   evidence.Place{},
		"signed checkpoint":                  evidence.Signed{},
		"cosignature":                        evidence.CosignedFor{},
		"act":                                evidence.Act{},
		"ledger verify":                      ledgerJSON{},
		"ledger copy":                        ledgerCopyJSON{},
		"ledger follow":                      actJSON{},
		"ledger show":                        shownJSON{},
		"cosigned":                           cosignedJSON{},
		"held":                               heldJSON{},
		"ledger finding":                     ledgerFindingJSON{},
		"witness add":                        witnessJSON{},
		"auditor add, auditor list":          auditorJSON{},
		"agreement show, agreement draft":    agreementJSON{},
		"article":                            articleJSON{},
		"agreement sign":                     signedJSON{},
		"agreement check":                    agreementCheckJSON{},
		"side of an agreement":               sideJSON{},
		"freshness":                          freshJSON{},
		"witness show":                       witnessSawJSON{},
		"charter show, propose, sign, adopt, history, check": charterJSON{},
		"ending":                           expiryJSON{},
		"person":                           personJSON{},
		"role":                             roleJSON{},
		"rule of an act":                   ruleJSON{},
		"order propose, show, check, sign": orderJSON{},
		"list of an order":                 orderListJSON{},
		"order submit, list, veto":         orderAtJSON{},
		"standing of an order":             orderStandingJSON{},
	}
}

// openedOnly is openedJSON; the fields that it has of headJSON stand in the table of that.
type openedOnly openedJSON

// answerMaps are the functions whose answer is a map, by the title of its table.
var answerMaps = map[string]string{
	"embassyRenewed":  "embassy renewed",
	"custodianKeygen": "custodian keygen", "custodianKit": "custodian kit", "custodianRelease": "custodian release", "custodianHeard": "custodian heard", "custodyAttest": "custody attest",
	"witnessInit": "witness init", "sayWhere": "witness serve", "witnessThaw": "witness thaw",
	"embassyInit": "embassy init", "embassyServe": "embassy serve", "giveRequest": "recover request, custody request",
}

func TestJSONIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	code := codeFields(t)
	for _, wrong := range compareFields(code, documentedFields(string(text))) {
		t.Error(wrong)
	}
	if t.Failed() {
		return
	}
	// The control: a page without one field, or with one that no answer has, is found.
	less := strings.Replace(string(text), "| `shares_missing` |", "| `something_else` |", 1)
	if wrong := compareFields(code, documentedFields(less)); len(wrong) != 2 {
		t.Errorf("with one field under another name: %q", wrong)
	}
}

// TestEveryAnswerTypeIsCompared fails when a type of answers is in the program and not in the table above.
func TestEveryAnswerTypeIsCompared(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	seen := map[reflect.Type]bool{}
	for _, v := range answerTypes() {
		known[strings.Replace(reflect.TypeOf(v).Name(), "openedOnly", "openedJSON", 1)] = true
		seen[reflect.TypeOf(v)] = true
	}
	for _, f := range sources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && tagged(s) && !known[spec.Name.Name] {
				t.Errorf("%s has fields with json names and is not compared with docs/json.md", spec.Name.Name)
			}
			return true
		})
	}
	for title, v := range answerTypes() {
		for _, sub := range structsIn(reflect.TypeOf(v)) {
			if !seen[sub] && sub != reflect.TypeFor[openedJSON]() {
				t.Errorf("%s holds a %s, which is not compared with docs/json.md", title, sub)
			}
		}
	}
}

func tagged(s *ast.StructType) bool {
	return slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
		return f.Tag != nil && strings.Contains(f.Tag.Value, `json:"`)
	})
}

func sources(t *testing.T) []*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// fields are names of JSON fields by the title of their table.
type fields map[string][]string

func codeFields(t *testing.T) fields {
	out := fields{}
	for title, v := range answerTypes() {
		out[title] = jsonNames(reflect.TypeOf(v), reflect.TypeOf(v) != reflect.TypeFor[openedOnly]())
	}
	for _, f := range sources(t) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			keys := answeredMap(fn)
			switch title, known := answerMaps[fn.Name.Name]; {
			case known && len(keys) == 0:
				t.Errorf("%s answers no map any more", fn.Name.Name)
			case known:
				out[title] = keys
			case len(keys) > 0:
				t.Errorf("%s answers a map that is not compared with docs/json.md", fn.Name.Name)
			}
		}
	}
	return out
}

// answeredMap returns the keys of the map that a function answers with: one that is an argument of answer or of
// json.Marshal, by itself or by the name that it was given.
func answeredMap(fn *ast.FuncDecl) (keys []string) {
	maps := map[string]*ast.CompositeLit{}
	take := func(e ast.Expr) {
		lit, _ := e.(*ast.CompositeLit)
		if id, ok := e.(*ast.Ident); ok {
			lit = maps[id.Name]
		}
		if lit == nil {
			return
		}
		if _, ok := lit.Type.(*ast.MapType); !ok {
			return
		}
		for _, e := range lit.Elts {
			if key, ok := e.(*ast.KeyValueExpr).Key.(*ast.BasicLit); ok {
				s, _ := strconv.Unquote(key.Value)
				keys = append(keys, s)
			}
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if lit, ok := n.Rhs[0].(*ast.CompositeLit); ok {
				if id, ok := n.Lhs[0].(*ast.Ident); ok {
					maps[id.Name] = lit
				}
			}
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "answer" || sel.Sel.Name == "Marshal") && len(n.Args) > 0 {
				take(n.Args[0])
			}
		}
		return true
	})
	return keys
}

// jsonNames are the names that encoding/json gives a struct's fields.
func jsonNames(typ reflect.Type, embedded bool) (names []string) {
	for f := range typ.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-":
		case f.Anonymous && tag == "":
			if embedded {
				names = append(names, jsonNames(structOf(f.Type), true)...)
			}
		case tag != "":
			names = append(names, tag)
		case f.IsExported():
			names = append(names, f.Name)
		}
	}
	return names
}

func structOf(typ reflect.Type) reflect.Type {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	return typ
}

// structsIn are the structs that stand in a struct's JSON as values of their own.
func structsIn(typ reflect.Type) (found []reflect.Type) {
	for f := range typ.Fields() {
		sub := structOf(f.Type)
		switch {
		case f.Tag.Get("json") == "-" || sub.Kind() != reflect.Struct || sub == reflect.TypeFor[time.Time]():
		case f.Anonymous:
			found = append(found, structsIn(sub)...)
		default:
			found = append(found, sub)
		}
	}
	return found
}

var (
	jsonTitle = regexp.MustCompile(`^##+ (.+)$`)
	jsonField = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

func documentedFields(text string) fields {
	out := fields{}
	title := ""
	for line := range strings.Lines(text) {
		if m := jsonTitle.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			title = m[1]
		}
		if m := jsonField.FindStringSubmatch(line); m != nil {
			out[title] = append(out[title], m[1])
		}
	}
	return out
}

func compareFields(code, page fields) (wrong []string) {
	for title, names := range code {
		for _, n := range names {
			if !slices.Contains(page[title], n) {
				wrong = append(wrong, "docs/json.md, "+title+": "+n+" is missing")
			}
		}
	}
	for title, names := range page {
		for _, n := range names {
			if !slices.Contains(code[title], n) {
				wrong = append(wrong, "docs/json.md, "+title+": no answer has "+n)
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}
