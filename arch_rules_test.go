package chancery_test

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const (
	maxFileLines     = 500
	maxFunctionLines = 70
)

// A house is the parsed sources of a module.
type house struct {
	fset    *token.FileSet
	sources []source
}

type source struct {
	path    string
	room    string // the package's name in the table
	file    *ast.File
	test    bool
	program bool // started by "go run FILE" (build constraint "ignore"), part of no package
	build   string
	lines   int
}

func parse(t *testing.T, texts map[string]string) *house {
	t.Helper()
	h := &house{fset: token.NewFileSet()}
	for _, p := range slices.Sorted(maps.Keys(texts)) {
		f, err := parser.ParseFile(h.fset, p, texts[p], parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		s := source{path: p, room: roomOf(path.Dir(p)), file: f, test: strings.HasSuffix(p, "_test.go")}
		s.lines = strings.Count(strings.TrimSuffix(texts[p], "\n"), "\n") + 1
		for _, group := range f.Comments {
			for _, c := range group.List {
				if c.Pos() < f.Package && constraint.IsGoBuild(c.Text) {
					s.build = strings.TrimSpace(strings.TrimPrefix(c.Text, "//go:build"))
				}
			}
		}
		s.program = s.build == "ignore"
		h.sources = append(h.sources, s)
	}
	return h
}

func roomOf(dir string) string { return strings.TrimPrefix(dir, "internal/") }

func (h *house) at(pos token.Pos, format string, a ...any) string {
	p := h.fset.Position(pos)
	return fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, fmt.Sprintf(format, a...))
}

// code yields the sources that become part of the program.
func (h *house) code(yield func(source) bool) {
	for _, s := range h.sources {
		if !s.test && !s.program && !yield(s) {
			return
		}
	}
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
	return p
}

// ours returns the room that an import path leads to.
func ours(importPath string) (string, bool) {
	rel, ok := strings.CutPrefix(importPath, module+"/")
	return roomOf(rel), ok
}

func importsGoDown(h *house) (found []string) {
	for s := range h.code {
		r, known := findRoom(s.room)
		if !known {
			found = append(found, h.at(s.file.Package, "package %q is not in the table of arch_test.go: add it to its floor, "+
				"with what it may import and why", s.room))
			continue
		}
		for _, spec := range s.file.Imports {
			to, ok := ours(importPath(spec))
			if ok && !slices.Contains(strings.Fields(r.may), to) {
				found = append(found, h.at(spec.Pos(), "%s may not import %s: %s", s.room, to, r.why))
			}
		}
	}
	return found
}

func tableGoesDown(floors [][]room) (found []string) {
	below := map[string]bool{}
	for _, floor := range slices.Backward(floors) {
		for _, r := range floor {
			for _, to := range strings.Fields(r.may) {
				if !below[to] {
					found = append(found, fmt.Sprintf("the table lets %s import %s, which does not stand on a lower floor", r.name, to))
				}
			}
		}
		for _, r := range floor {
			below[r.name] = true
		}
	}
	return found
}

func wallsHold(h *house) (found []string) {
	graph := map[string]map[string]bool{} // room or package -> what it imports
	for s := range h.code {
		if graph[s.room] == nil {
			graph[s.room] = map[string]bool{}
		}
		for _, spec := range s.file.Imports {
			to := importPath(spec)
			if r, ok := ours(to); ok {
				to = r
			}
			graph[s.room][to] = true
		}
	}
	for _, w := range walls {
		way := map[string]string{w.from: w.from} // how each was reached
		for queue := []string{w.from}; len(queue) > 0; queue = queue[1:] {
			for _, to := range slices.Sorted(maps.Keys(graph[queue[0]])) {
				if way[to] == "" {
					way[to] = way[queue[0]] + " -> " + to
					queue = append(queue, to)
				}
			}
		}
		for _, to := range slices.Sorted(maps.Keys(way)) {
			if slices.Contains(w.never, to) || slices.ContainsFunc(w.others, func(o string) bool { return within(to, o) }) {
				found = append(found, fmt.Sprintf("%s reaches %s (%s): %s", w.from, to, way[to], w.why))
			}
		}
	}
	return found
}

func within(importPath, tree string) bool {
	return importPath == tree || strings.HasPrefix(importPath, tree+"/")
}

// impure are the packages that reach outside, with everything below them, but for the parts that only compute.
var (
	impure   = strings.Fields("os net syscall crypto/rand math/rand io/ioutil golang.org/x/sys/unix log")
	computes = strings.Fields("net/url net/netip log/slog") // slog.Value: how a secret hides itself in logs
	uses     = map[string][]string{
		"time": strings.Fields("Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker"),
		"log/slog": strings.Fields("Debug DebugContext Info InfoContext Warn WarnContext Error ErrorContext Log LogAttrs " +
			"Default SetDefault SetLogLoggerLevel With"),
	}
)

func formatsArePure(h *house) (found []string) {
	for s := range h.code {
		if !slices.Contains(pure, s.room) {
			continue
		}
		for _, spec := range s.file.Imports {
			p := importPath(spec)
			bad := slices.ContainsFunc(impure, func(i string) bool { return within(p, i) }) && !slices.Contains(computes, p)
			if bad || spec.Name != nil && spec.Name.Name == "." {
				found = append(found, h.at(spec.Pos(), "%s is pure and may not import %s in this way", s.room, spec.Path.Value))
			}
		}
		for _, pkg := range slices.Sorted(maps.Keys(uses)) {
			for _, sel := range selectors(s.file, pkg, uses[pkg]) {
				found = append(found, h.at(sel.Pos(), "%s is pure and may not use %s.%s", s.room, path.Base(pkg), sel.Sel.Name))
			}
		}
	}
	return found
}

// selectors finds uses of the named members of a package, under whatever name the file imports it.
func selectors(f *ast.File, pkg string, members []string) (found []*ast.SelectorExpr) {
	name := ""
	for _, spec := range f.Imports {
		if importPath(spec) == pkg {
			name = path.Base(pkg)
			if spec.Name != nil {
				name = spec.Name.Name
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && name != "" && slices.Contains(members, sel.Sel.Name) {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
				found = append(found, sel)
			}
		}
		return true
	})
	return found
}

func noInit(h *house) (found []string) {
	for _, s := range h.sources {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				found = append(found, h.at(f.Pos(), "func init"))
			}
		}
	}
	return found
}

func errorsAreReturned(h *house) (found []string) {
	exits := map[string][]string{
		"os": {"Exit"}, "syscall": {"Exit"}, "runtime": {"Goexit"},
		"log": strings.Fields("Fatal Fatalf Fatalln Panic Panicf Panicln"),
	}
	for s := range h.code {
		if strings.HasPrefix(s.room, "cmd/") {
			continue
		}
		for _, pkg := range slices.Sorted(maps.Keys(exits)) {
			for _, sel := range selectors(s.file, pkg, exits[pkg]) {
				found = append(found, h.at(sel.Pos(), "%s.%s below cmd", pkg, sel.Sel.Name))
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
					found = append(found, h.at(call.Pos(), "panic below cmd"))
				}
			}
			return true
		})
	}
	return found
}

func packagesHaveNouns(h *house) (found []string) {
	drawers := strings.Fields("util utils common types helper helpers misc shared base")
	for _, s := range h.sources {
		if n := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains(drawers, n) {
			found = append(found, h.at(s.file.Package, "package %s names a drawer, not a thing", n))
		}
	}
	return found
}

func onePackageComment(h *house) (found []string) {
	comments, first := map[string]int{}, map[string]source{}
	for s := range h.code {
		if _, seen := first[s.room]; !seen {
			first[s.room] = s
		}
		if s.file.Doc == nil {
			continue
		}
		comments[s.room]++
		name := s.file.Name.Name
		if text := s.file.Doc.Text(); name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
			found = append(found, h.at(s.file.Doc.Pos(), "the package comment does not begin with \"Package %s \"", name))
		}
	}
	for _, r := range slices.Sorted(maps.Keys(first)) {
		if comments[r] != 1 {
			found = append(found, h.at(first[r].file.Package, "package %s has %d package comments, not one", r, comments[r]))
		}
	}
	return found
}

func exportedNamesAreExplained(h *house) (found []string) {
	for s := range h.code {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
					found = append(found, h.at(d.Pos(), "%s has no comment", d.Name.Name))
				}
			case *ast.GenDecl:
				for _, name := range unexplained(d) {
					found = append(found, h.at(name.Pos(), "%s has no comment", name.Name))
				}
			}
		}
	}
	return found
}

// exportedReceiver tells whether a function can be called from outside: it has no receiver, or an exported one.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	exported := false
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			exported = id.IsExported()
			return false
		}
		return true
	})
	return exported
}

// unexplained lists the exported names of a declaration that have no comment. One comment above a group of constants
// or variables speaks for all of them; each type has its own.
func unexplained(d *ast.GenDecl) (names []*ast.Ident) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				names = append(names, spec.Name)
			}
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				if n.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
					names = append(names, n)
				}
			}
		}
	}
	return names
}

func filesAreShort(h *house) (found []string) {
	for _, s := range h.sources {
		if s.lines > maxFileLines {
			found = append(found, h.at(s.file.Package, "%d lines", s.lines))
		}
	}
	return found
}

func functionsAreShort(h *house) (found []string) {
	for s := range h.code {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if n := h.fset.Position(f.End()).Line - h.fset.Position(f.Pos()).Line + 1; n > maxFunctionLines {
					found = append(found, h.at(f.Pos(), "%s has %d lines", f.Name.Name, n))
				}
			}
		}
	}
	return found
}

// testsDoNotSkip refuses calls that skip and build constraints that leave a test out. What is skipped at run time
// (by a testscript, say) is found by make test.
func testsDoNotSkip(h *house) (found []string) {
	runsHere := []string{"", "linux", "race", "!race"}
	for _, s := range h.sources {
		if !s.test {
			continue
		}
		if !slices.Contains(runsHere, s.build) {
			found = append(found, h.at(s.file.Package, "the build constraint %q leaves these tests out", s.build))
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Body != nil {
					found = append(found, h.skips(n.Type, n.Body)...)
				}
			case *ast.FuncLit:
				found = append(found, h.skips(n.Type, n.Body)...)
			}
			return true
		})
	}
	return found
}

// skips finds calls of Skip on the parameters of one function that are of package testing (a rapid.T that discards
// a drawn case is another thing), but not in functions within that declare a parameter of the same name.
func (h *house) skips(typ *ast.FuncType, body *ast.BlockStmt) (found []string) {
	for _, field := range typ.Params.List {
		pkg := ""
		ast.Inspect(field.Type, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok {
					pkg = x.Name
				}
			}
			return true
		})
		for _, name := range field.Names {
			if pkg == "testing" {
				found = append(found, h.skipsOf(name.Name, body)...)
			}
		}
	}
	return found
}

func (h *house) skipsOf(name string, body *ast.BlockStmt) (found []string) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			for _, field := range n.Type.Params.List {
				if slices.ContainsFunc(field.Names, func(id *ast.Ident) bool { return id.Name == name }) {
					return false
				}
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && x.Name == name && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, n.Sel.Name) {
				found = append(found, h.at(n.Pos(), "%s.%s", name, n.Sel.Name))
			}
		}
		return true
	})
	return found
}

// moduleIsPinned checks go.mod: what is built is what is named there, and a "go mod tidy" that lowers age (older
// ones cannot seal a custodian's share against a quantum computer) is seen.
func moduleIsPinned(mod []byte) (found []string) {
	f, err := modfile.Parse("go.mod", mod, nil)
	if err != nil {
		return []string{err.Error()}
	}
	pins := map[string]string{"filippo.io/age": "v1.3.2"}
	for _, r := range f.Require {
		if v, ok := pins[r.Mod.Path]; ok {
			if v != r.Mod.Version {
				found = append(found, fmt.Sprintf("go.mod: %s is %s, not the pinned %s", r.Mod.Path, r.Mod.Version, v))
			}
			delete(pins, r.Mod.Path)
		}
		if within(r.Mod.Path, "honnef.co/go/tools") || within(r.Mod.Path, "mvdan.cc/gofumpt") {
			found = append(found, "go.mod: "+r.Mod.Path+" is a tool: the Makefile runs it by its version")
		}
	}
	for _, p := range slices.Sorted(maps.Keys(pins)) {
		found = append(found, "go.mod: "+p+" is not required")
	}
	for _, r := range f.Replace {
		found = append(found, "go.mod: replaces "+r.Old.Path+": what is built must be what is named")
	}
	return found
}

var (
	testName  = regexp.MustCompile("`([a-z]+)\\.((?:Test|Fuzz)\\w+)`")
	threatRow = regexp.MustCompile(`(?m)^\| (T\d+) \|`)
)

// namesRealTests finds tests that a document names as `package.Test` and that are not there, and threats out of order.
func namesRealTests(h *house, doc string) (found []string) {
	tests := map[string]bool{}
	for _, s := range h.sources {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && f.Recv == nil {
				tests[path.Base(s.room)+"."+f.Name.Name] = true
				if s.room == "." {
					tests["chancery."+f.Name.Name] = true
				}
			}
		}
	}
	for _, m := range testName.FindAllStringSubmatch(doc, -1) {
		if !tests[m[1]+"."+m[2]] {
			found = append(found, "there is no test "+m[1]+"."+m[2])
		}
	}
	for i, m := range threatRow.FindAllStringSubmatch(doc, -1) {
		if want := fmt.Sprintf("T%d", i+1); m[1] != want {
			found = append(found, m[1]+" stands where "+want+" should")
		}
	}
	return found
}
