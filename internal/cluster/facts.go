package cluster

import "encoding/json"

// Facts are what is in a cluster, and around it, that its files alone do not tell whoever restores it elsewhere. Lists
// are sorted, so that two that are equal have equal JSON.
type Facts struct {
	System        uint64 `json:"system,string"`
	Version       int    `json:"version"`
	VersionText   string `json:"version_text"`
	DataDirectory string `json:"data_directory,omitempty"` // empty where the user may not know
	// LocaleVersions are those of the machine's libraries by which the cluster's text is sorted. Where a restored
	// cluster finds others, its indexes over text must be made anew.
	LocaleVersions []LocaleVersion `json:"locale_versions"`
	Databases      []Database      `json:"databases"`
	Tablespaces    []Location      `json:"tablespaces"`
	ConfigFiles    []ConfigFile    `json:"config_files"`

	SynchronousStandbyNames string `json:"synchronous_standby_names"`
	SynchronousCommit       string `json:"synchronous_commit"`
	Slots                   []Slot `json:"slots"`

	// Unread says what the user may not read, and why, in the server's words.
	Unread []Unread `json:"unread"`
}

// A LocaleVersion is one version of a library's sorting that some collation of the cluster has.
type LocaleVersion struct {
	Provider string `json:"provider"`          // libc, icu or builtin
	Recorded string `json:"version,omitempty"` // when the collation was made
	Actual   string `json:"actual,omitempty"`  // of the library now
}

// A Database is one of the cluster's databases, and what is in it.
type Database struct {
	OID              uint32       `json:"oid"`
	Name             string       `json:"name"`
	Owner            string       `json:"owner"`
	Encoding         string       `json:"encoding"`
	Template         bool         `json:"template"`
	Connectable      bool         `json:"connectable"`
	Tablespace       string       `json:"tablespace"`
	LocaleProvider   string       `json:"locale_provider"`
	Collate          string       `json:"collate"`
	Ctype            string       `json:"ctype"`
	Locale           string       `json:"locale,omitempty"` // of ICU or the server's own
	ICURules         string       `json:"icu_rules,omitempty"`
	CollationVersion string       `json:"collation_version,omitempty"`
	CollationActual  string       `json:"collation_actual,omitempty"`
	Collations       []Collation  `json:"collations"`
	Extensions       []Extension  `json:"extensions"`
	Unlogged         []UnloggedOf `json:"unlogged"`
}

// A Collation is one that a column or an index uses, or that was made by a user.
type Collation struct {
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Provider string `json:"provider"`
	Locale   string `json:"locale,omitempty"`
	Version  string `json:"version,omitempty"` // when it was made
	Actual   string `json:"actual,omitempty"`  // of the library now
}

// An Extension is an installed extension; a restored cluster needs its files.
type Extension struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Schema  string `json:"schema"`
}

// UnloggedOf names a relation that no base backup holds and that is empty after a restore.
type UnloggedOf struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Kind   string `json:"kind"` // table, index, sequence or other
}

// A Location is where a tablespace lies on the server.
type Location struct {
	OID  uint32 `json:"oid"`
	Name string `json:"name"`
	Path string `json:"path"`
}

// A ConfigFile is a file that configures the server and lies outside its data directory, so that no base backup has it.
type ConfigFile struct {
	Path    string `json:"path"`
	Content []byte `json:"content,omitempty"` // in base64
	Unread  string `json:"unread,omitempty"`  // why the content is missing
}

// An Unread is a thing that could not be read.
type Unread struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// decode reads what a query made with json_agg.
func decode(text string, into any) error { return json.Unmarshal([]byte(text), into) }
