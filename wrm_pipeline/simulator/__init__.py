"""A stand-in for the bike feed: a believable Wrocław over HTTP, well-behaved or not."""
