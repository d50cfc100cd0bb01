// Package snapshot holds the formats that describe one moment of a register: the entry of a file, the
// listing of a folder, the sealed payload of a head, the head itself, and the payload of an index pack.
//
// Promise to old data: every format here starts with its version, version 1 is read for ever, and a
// reader refuses a version it does not know. Parsers take the canonical form only: what they accept
// encodes again to the same bytes. Nothing here touches a file, the network, the clock or randomness.
//
// Specifications: docs/spec/manifest.md, docs/spec/heads.md, docs/spec/index.md,
// docs/spec/stretches.md.
package snapshot
