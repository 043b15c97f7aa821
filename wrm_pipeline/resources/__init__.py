"""One ConfigurableResource per outside system: configuration in, client out."""
