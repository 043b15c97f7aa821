"""Jobs: which assets run together, and how."""
