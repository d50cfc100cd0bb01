package filetree

import (
	"fmt"
	"strings"
)

// Rules say what is left out of a backup. They are safe for use by several goroutines.
//
// One rule a line; empty lines and lines that begin with "#" say nothing. A rule is compared with
// whole names, byte for byte:
//
//	name        anything called so, in any folder; also with slashes inside: a/b
//	/name       only at the top of the tree
//	name/       folders only, with all that is in them
//	*  ?        any bytes, one byte; never a slash
//	**/         at the start or behind a slash: any number of folders, also none
//	**          elsewhere: any bytes, slashes too
//	\           the next byte is meant as it is
//
// There is no way to take something in again.
type Rules struct {
	names    map[string]scope // single names without signs, in any folder
	paths    map[string]scope // whole paths without signs
	suffixes []suffix         // "*.ext"
	patterns []pattern        // the rest
}

// scope is what a rule applies to.
type scope uint8

const (
	anything    scope = 1
	foldersOnly scope = 2
)

func (s scope) covers(dir bool) bool { return s&anything != 0 || (s&foldersOnly != 0 && dir) }

type suffix struct {
	text  string
	scope scope
}

type pattern struct {
	tokens []token
	scope  scope
}

// token is one step of a pattern: a byte as it is, or a sign.
type token struct {
	sign sign
	lit  byte
}

type sign uint8

const (
	literal sign = iota
	oneByte      // ?
	star         // *
	folders      // **/
	all          // **
)

// ParseRules reads rules. An error names the line, from 1.
func ParseRules(lines []string) (*Rules, error) {
	r := &Rules{names: map[string]scope{}, paths: map[string]scope{}}
	for i, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := r.add(line); err != nil {
			return nil, fmt.Errorf("rules: line %d: %q: %w", i+1, line, err)
		}
	}
	return r, nil
}

func (r *Rules) add(line string) error {
	if line[0] == '!' {
		return fmt.Errorf("a rule cannot take something in again (write \\! for a name that begins so)")
	}
	if strings.ContainsAny(line, "\x00\n") {
		return fmt.Errorf("a zero byte or a line break is in no rule")
	}
	text, anchored := strings.CutPrefix(line, "/")
	sc := anything
	if t, ok := strings.CutSuffix(text, "/"); ok && !strings.HasSuffix(t, "\\") {
		text, sc = t, foldersOnly
	}
	tokens, err := tokenize(text)
	if err != nil {
		return err
	}
	lit, plain := literalText(tokens)
	switch {
	case plain && anchored:
		r.paths[lit] |= sc
	case plain && !strings.Contains(lit, "/"):
		r.names[lit] |= sc
	case !anchored && tokens[0].sign == star && allLiteral(tokens[1:]):
		end, _ := literalText(tokens[1:])
		r.suffixes = append(r.suffixes, suffix{end, sc})
	default:
		if !anchored && tokens[0].sign != folders {
			tokens = append([]token{{sign: folders}}, tokens...)
		}
		r.patterns = append(r.patterns, pattern{tokens, sc})
	}
	return nil
}

// tokenize takes the signs of a rule apart, and refuses what could never match.
func tokenize(text string) ([]token, error) {
	if text == "" {
		return nil, fmt.Errorf("no name in the rule")
	}
	var tokens []token
	for i := 0; i < len(text); i++ {
		atStart := i == 0 || text[i-1] == '/'
		switch c := text[i]; {
		case c == '\\':
			i++
			if i == len(text) {
				return nil, fmt.Errorf("nothing follows the last backslash")
			}
			if text[i] == '/' {
				return nil, fmt.Errorf("a slash cannot be part of a name")
			}
			tokens = append(tokens, token{lit: text[i]})
		case c == '?':
			tokens = append(tokens, token{sign: oneByte})
		case c == '*' && atStart && strings.HasPrefix(text[i:], "**/"):
			tokens = append(tokens, token{sign: folders})
			i += 2
		case c == '*' && strings.HasPrefix(text[i:], "**"):
			tokens = append(tokens, token{sign: all})
			i++
		case c == '*':
			tokens = append(tokens, token{sign: star})
		case c == '/' && atStart:
			return nil, fmt.Errorf("an empty name between two slashes")
		default:
			tokens = append(tokens, token{lit: c})
		}
	}
	for name := range strings.SplitSeq(text, "/") {
		if name == "." || name == ".." {
			return nil, fmt.Errorf("%q is no name in a tree", name)
		}
	}
	return tokens, nil
}

func allLiteral(tokens []token) bool {
	for _, t := range tokens {
		if t.sign != literal || t.lit == '/' {
			return false
		}
	}
	return true
}

// literalText gives the text of tokens without signs.
func literalText(tokens []token) (string, bool) {
	b := make([]byte, 0, len(tokens))
	for _, t := range tokens {
		if t.sign != literal {
			return "", false
		}
		b = append(b, t.lit)
	}
	return string(b), true
}

// Excluded tells whether a rule leaves out the entry at rel, a path from the top of the tree with
// "/" between names and none in front. It does not look at the folders above: what is in an
// excluded folder is not asked for. A nil Rules excludes nothing.
func (r *Rules) Excluded(rel string, dir bool) bool {
	if r == nil || rel == "" {
		return false
	}
	name := rel[strings.LastIndexByte(rel, '/')+1:]
	if len(r.names) > 0 && r.names[name].covers(dir) {
		return true
	}
	if len(r.paths) > 0 && r.paths[rel].covers(dir) {
		return true
	}
	for i := range r.suffixes {
		if s := &r.suffixes[i]; strings.HasSuffix(name, s.text) && s.scope.covers(dir) {
			return true
		}
	}
	for i := range r.patterns {
		if p := &r.patterns[i]; p.scope.covers(dir) && match(p.tokens, rel) {
			return true
		}
	}
	return false
}

// match compares the whole of s. On a mismatch it goes back to the last "*" and gives it one byte
// more, or, where that byte is a slash, to the last sign that may take slashes. Earlier signs need
// no second try: what they could take in addition, the later ones can take as well.
func match(tokens []token, s string) bool {
	ti, si := 0, 0
	starT, starS := -1, 0 // where to go on behind the last "*"
	wideT, wideS := -1, 0 // the same for the last "**" or "**/"
	for {
		if ti < len(tokens) {
			switch t := tokens[ti]; t.sign {
			case star:
				ti++
				starT, starS = ti, si
				continue
			case folders, all:
				ti++
				wideT, wideS = ti, si
				starT = -1
				continue
			case oneByte:
				if si < len(s) && s[si] != '/' {
					ti, si = ti+1, si+1
					continue
				}
			case literal:
				if si < len(s) && s[si] == t.lit {
					ti, si = ti+1, si+1
					continue
				}
			}
		} else if si == len(s) {
			return true
		}
		if starT >= 0 && starS < len(s) && s[starS] != '/' {
			starS++
			ti, si = starT, starS
			continue
		}
		if wideT < 0 {
			return false
		}
		step := 1
		if tokens[wideT-1].sign == folders {
			step = strings.IndexByte(s[wideS:], '/') + 1
		}
		if step == 0 || wideS+step > len(s) {
			return false
		}
		wideS += step
		starT = -1
		ti, si = wideT, wideS
	}
}
