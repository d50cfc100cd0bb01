// Package custody splits the seed of a state's opening key among custodians,
// checks and combines their shares, and builds the kits they keep.
//
// A share stands in a post-quantum age file that only its custodian can open. A
// commitment to each share stands in the charter, so a wrong share is named and
// never used. The formats are in docs/spec/custody.md.
//
// What happens to old data: every released version of a share, kit and request
// stays readable by later releases, because a kit may lie in a safe for
// decades. A version that this program does not know is refused, never guessed.
//
// The package touches no file, network or clock. Randomness is an argument,
// except for what age draws itself for its keys and files.
package custody
