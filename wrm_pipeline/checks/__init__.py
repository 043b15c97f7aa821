"""Facts about the data that are looked at with each build, and what it means if they do not hold."""
