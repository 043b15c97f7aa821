"""What Prometheus is told: counters kept across runs and restarts, and readings of what is there now."""
