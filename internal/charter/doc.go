// Package charter holds the state's own signed policy: its people, keys,
// thresholds, embassies, agents, witnesses and auditors, and the records of its registers.
//
// A charter is a readable YAML document. Its bytes are kept exactly as they
// were signed, and its hash and signatures are over those bytes. Each charter
// names the hash of the one before, so the charters of a state are a chain that
// only the people named in it can continue. The layout is in docs/spec/charter.md.
//
// What happens to old data: every released version of the charter and of the
// register record stays readable by later releases. A version that this program
// does not know is refused, never guessed.
//
// The package touches no file, network or clock. Randomness is an argument,
// except for the four check bytes in an OpenSSH private key file, which
// golang.org/x/crypto/ssh draws itself and which protect nothing.
package charter
