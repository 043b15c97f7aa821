"""Assets that people look at: catalog, report and published database. Their pages are made in `report/`."""
