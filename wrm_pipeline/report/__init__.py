"""The report: a static site made of rows. Rows in, files out."""
