"""raw -> processed -> enhanced."""
