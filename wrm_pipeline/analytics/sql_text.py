"""Names and values as SQL text, the same in DuckDB and PostgreSQL; where a statement takes parameters, use those."""


def identifier(name: str) -> str:
    """A name of a schema, table, column or role, in quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string, in quotes."""
    return "'" + text.replace("'", "''") + "'"
