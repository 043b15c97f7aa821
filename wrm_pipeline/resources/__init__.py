"""One ConfigurableResource per outside system: configuration in, client out (the clients are in `clients/`)."""
