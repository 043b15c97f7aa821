"""What people look at: the catalog and the report."""
