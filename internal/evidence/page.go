package evidence

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
	"unicode"
)

// HTML writes the verdict as a page that a person can read and print: one file without scripts, pictures or links, in
// which whatever came from elsewhere is text.
func HTML(w io.Writer, v *Verdict) error {
	sum := sha256.Sum256([]byte(pageStyle))
	page := template.New("page").Funcs(template.FuncMap{
		"plain": plain,
		"moment": func(t time.Time) string {
			return t.UTC().Format("2 January 2006, 15:04:05 UTC")
		},
		"list":  func(s []string) string { return plain(strings.Join(s, ", ")) },
		"count": func(o Outcome) int { return v.Count(o) },
		"rests": rests,
		"size":  func(n uint64) string { return fmt.Sprintf("%d", n) },
	})
	page, err := page.Parse(pageText)
	if err != nil {
		return fmt.Errorf("evidence: page: %w", err)
	}
	err = page.Execute(w, map[string]any{
		"V": v, "Style": template.CSS(pageStyle),
		"Policy": "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'",
		"Held": Held, "Broken": Broken, "Unknown": Unknown,
	})
	if err != nil {
		return fmt.Errorf("evidence: page: %w", err)
	}
	return nil
}

// plain drops what a page must not be steered by: control characters, and marks that turn the direction of text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// rests names leaves, those of one embassy together.
func rests(places []Place) string {
	var b strings.Builder
	last := ""
	for i, p := range places {
		switch {
		case p.Embassy != last && i > 0:
			fmt.Fprintf(&b, "; embassy %s: leaf %d", p.Embassy, p.Leaf)
		case p.Embassy != last:
			fmt.Fprintf(&b, "embassy %s: leaf %d", p.Embassy, p.Leaf)
		default:
			fmt.Fprintf(&b, ", %d", p.Leaf)
		}
		last = p.Embassy
	}
	if len(places) == maxRests {
		b.WriteString(" and more")
	}
	return plain(b.String())
}

const pageStyle = `
@page { size: A4; margin: 20mm 18mm }
body { color: #000; background: #fff; font: 11pt/1.4 Georgia, "Times New Roman", serif; max-width: 44em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 18pt; margin: 0 0 .5em }
h2 { font-size: 14pt; margin: 1.5em 0 .5em; border-bottom: 1px solid #000; break-after: avoid }
h3 { font-size: 11pt; margin: 1em 0 .2em; break-after: avoid }
p, ul { margin: .3em 0 }
section.finding { border: 1px solid #000; padding: .4em .8em; margin: .8em 0; break-inside: avoid }
.outcome { font-weight: bold; text-transform: uppercase; border: 2px solid #000; padding: 0 .4em }
.code { font-family: "DejaVu Sans Mono", Consolas, monospace; font-size: 9pt; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; font-size: 9pt }
thead { display: table-header-group }
tr { break-inside: avoid }
th, td { border: 1px solid #000; padding: .15em .4em; text-align: left; vertical-align: top; overflow-wrap: anywhere }
@media print { body { max-width: none; margin: 0; padding: 0 } h2.page { break-before: page } }
`

const pageText = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{.Policy}}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evidence: {{plain .V.StateName}}</title>
<style>{{.Style}}</style>
</head>
<body>
<h1>Evidence about the data embassies of {{plain .V.StateName}}</h1>
<p>{{count .Held}} of {{len .V.Findings}} claims held, {{count .Broken}} broken, {{count .Unknown}} unknown.</p>
<p><b>Held</b>: what is in the file proves it. <b>Broken</b>: what is in the file contradicts it; somebody is named only where that party's own signature shows it. <b>Unknown</b>: something withheld or absent could decide either way, and nothing is to be concluded against anyone.</p>
<p>All of it rests on {{plain .V.Trust}}.{{if not .V.Given}} <b>Nobody gave a charter to compare with: before relying on this page, have the fingerprint confirmed by the state itself.</b>{{end}}</p>
<p>The file says that it was made on {{moment .V.Made}}. Whoever made it could leave things out, and is believed in nothing else. Times of acts are the embassies' own; times of cosignatures are those of the witnesses who signed.</p>
{{- if .V.Problems}}
<h2>Parts of the file that count for nothing</h2>
<ul>{{range .V.Problems}}<li>{{plain .}}</li>{{end}}</ul>
{{- end}}
<h2>Claims and findings</h2>
{{- range .V.Findings}}
<section class="finding">
<h3>{{plain .Says}}</h3>
<p><span class="outcome">{{plain (print .Outcome)}}</span>{{range .By}} — by {{plain .String}}{{end}}</p>
{{- if .Because}}
<p>What was found:</p>
<ul>{{range .Because}}<li>{{plain .}}</li>{{end}}</ul>
{{- end}}
{{- if .Open}}
<p>What is not known:</p>
<ul>{{range .Open}}<li>{{plain .}}</li>{{end}}</ul>
{{- end}}
{{- if .Rests}}
<p>It rests on: {{rests .Rests}}</p>
{{- end}}
<p class="code">{{plain .Claim}}</p>
</section>
{{- end}}
{{- if .V.Orders}}
<h2 class="page">Orders</h2>
{{- range .V.Orders}}
<section class="finding">
<h3>{{plain .Kind}}: {{plain .Says}}</h3>
<p>Why, as those who signed it wrote: {{plain .Reason}}</p>
<p>Proposed by {{plain .Proposer}} under charter {{.Charter}}, open for signatures until {{moment .Expires}}.</p>
<table><thead><tr><th>Signed by</th><th>Office</th><th>Key</th></tr></thead><tbody>
{{- range .Signed}}
<tr><td>{{plain .Name}}</td><td>{{plain .Office}}</td><td class="code">{{plain .Key}}{{if .Touched}} (hardware key, touched){{end}}</td></tr>
{{- else}}
<tr><td colspan="3">nobody who counts</td></tr>
{{- end}}
</tbody></table>
<p>{{if .Need}}{{.Need}} people are needed.{{else}}How many are needed is not known.{{end}}</p>
<table><thead><tr><th>Embassy</th><th>Logged</th><th>Stopped</th><th>Removed</th><th>Result</th></tr></thead><tbody>
{{- range .At}}
<tr><td>{{plain .Embassy}}</td><td>leaf {{.Leaf}}, its order {{.Number}}</td><td>{{plain .Vetoed}}</td><td>{{.Removed}} objects, {{.Bytes}} bytes</td><td>{{plain .Result}}</td></tr>
{{- else}}
<tr><td colspan="5">no ledger in the file shows it</td></tr>
{{- end}}
</tbody></table>
<p class="code">{{plain .Order}}</p>
</section>
{{- end}}
{{- end}}
{{- if .V.Attested}}
<h2>Shares that custodians attest as destroyed</h2>
<table><thead><tr><th>Generation</th><th>Share</th><th>Custodian</th><th>Destroyed</th><th>How</th><th>Key</th><th>Logged</th></tr></thead><tbody>
{{- range .V.Attested}}
<tr><td>{{.Generation}}</td><td>{{.Share}}</td><td>{{plain .Custodian}}</td><td>{{plain .Destroyed}}</td><td>{{plain .How}}</td><td class="code">{{plain .Key}}</td><td>{{rests .Leaves}}</td></tr>
{{- end}}
</tbody></table>
{{- end}}
<h2 class="page">Ledgers</h2>
<table><thead><tr><th>Embassy</th><th>Host</th><th>Leaves shown</th><th>Withheld</th><th>Signed up to</th><th>Cosigned</th></tr></thead><tbody>
{{- range .V.Ledgers}}
<tr><td>{{plain .Embassy}}<br><span class="code">{{plain .Key}}</span></td><td>{{plain .Country}}</td><td>{{.From}} to {{.To}}</td><td>{{.Withheld}}</td><td>{{.Proven}}</td><td>{{if .Groups}}{{.Cosigned}} leaves: {{list .Groups}}{{with .Time}}, {{moment .}}{{end}}{{else}}not by enough{{end}}</td></tr>
{{- end}}
</tbody></table>
<h2>Checkpoints and who signed them</h2>
<table><thead><tr><th>Embassy</th><th>Leaves and root</th><th>Signed</th><th>Cosigned by</th><th>Shown by</th></tr></thead><tbody>
{{- range .V.Signed}}
<tr><td>{{plain .Embassy}}</td><td>{{.Size}}<br><span class="code">{{plain .Root}}</span></td><td>{{if .Own}}yes{{else}}no{{end}}</td><td>{{range .Cosigned}}{{plain .Name}}, {{moment .Time}}<br>{{else}}nobody{{end}}{{if .Enough}}(enough){{end}}</td><td>{{list .Sources}}</td></tr>
{{- end}}
</tbody></table>
<h2 class="page">Acts in order</h2>
<table><thead><tr><th>Embassy</th><th>Leaf</th><th>Time</th><th>Act</th><th>For</th><th>Document</th></tr></thead><tbody>
{{- range .V.Acts}}
<tr><td>{{plain .Embassy}}</td><td>{{.First}}{{if ne .First .Last}} to {{.Last}}{{end}}</td><td>{{with .Time}}{{moment .}}{{end}}</td><td>{{plain .What}}{{if .Bytes}}, {{size .Bytes}} bytes{{end}}</td><td>{{plain .Who}}</td><td>{{plain .Note}}</td></tr>
{{- end}}
</tbody></table>
{{- if .V.ActsLeft}}
<p>{{.V.ActsLeft}} more leaves are in the file and not in this table.</p>
{{- end}}
</body>
</html>
`
