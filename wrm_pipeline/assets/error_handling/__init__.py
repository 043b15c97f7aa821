"""What could not be published, and waits."""
