"""The analytics database: connection, tables, refresh, catalog, lineage. What people look at is in `report`."""
