// Package agreement holds what a state and a host signed about one embassy, as data that the software enforces.
//
// An agreement is a readable YAML document. Its bytes are kept exactly as they were signed, and its hash and signatures
// are over those bytes. Both states sign: the state by the act "agreement" of its charter, the host by the signatories
// that the document names. An amendment is a whole new document that names the hash of the one before. What differs
// between two agreements is a value in the document; no state, law or clause is known to this package.
// The layout is in docs/spec/agreement.md, and what becomes of each article in docs/agreement.md.
//
// What happens to old data: every released version of the layout stays readable by later releases. A version that this
// program does not know is refused, never guessed.
//
// The package touches no file, network, clock or randomness.
package agreement
