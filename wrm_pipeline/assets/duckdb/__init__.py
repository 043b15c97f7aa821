"""Assets of the analytics database: views and tables made from the enhanced layer. Pages are in `assets/report/`."""
