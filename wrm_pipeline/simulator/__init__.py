"""A stand-in for the bike feed: serves a realistic Wrocław over HTTP, with faults on request. Imports no other room."""
