"""Pure functions of the domain: values in, values out. No Dagster, network, files, clock, SQL or web pages."""
