// Package order is the language of orders: what the people of a state sign so that its embassies do something that
// could hurt. It writes and reads the documents, counts who signed under a charter, and says what is to happen when;
// it touches no file, network or clock. docs/spec/orders.md draws all of it.
//
// An embassy uses it so: [ParseRecord] and [Parse] what came, [Book.Take] and [Check] it, log it, ask [Judge] whether
// it still waits, [Recheck] it under the charter then in force, act, and log a [Result].
//
// Old data: an order has one text, comments included, and version 1 of it is read for ever. The sentences for people in
// it are part of that version: whoever changes one makes version 2.
package order
