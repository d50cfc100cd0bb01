package chunk

// Pages is how long the chunks of a database's files are, in bytes: sixteen pages of PostgreSQL's 8 KiB, cut at multiples
// of it in each file. Pages change where they stand, so cutting by content would find nothing that fixed places do not,
// and costs a walk over every byte. A smaller piece costs an index entry more for each; a larger one is stored anew
// whole for one changed page.
const Pages = 128 << 10
