"""Checks of configured values, for the environment's settings and the fields of resources alike.

Each returns the value as it is used. In a message, the problem follows the name of the setting, so it begins with a
verb; a value that may contain a password is not quoted.
"""

import re
from collections.abc import Iterable
from typing import Literal, get_args
from urllib.parse import urlsplit

REDIS_SCHEMES = ("redis", "rediss", "unix")
SMTP_SCHEMES = ("smtp", "smtps")
HTTP_SCHEMES = ("https", "http")

# libpq's.
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
SSL_MODES: tuple[str, ...] = get_args(SslMode)


def is_url(value: str, *schemes: str) -> bool:
    """Whether a library can parse this URL; the library's own message about an invalid one would quote parts of it."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and port != 0


def http_url(value: str) -> str:
    """An address of the web.

    Raises:
        ValueError: it is not.
    """
    if not value.startswith(("http://", "https://")):
        raise ValueError("is not a URL; it must start with http:// or https://")
    return value


def secret_url(value: str, *schemes: str) -> str:
    """A URL that may hold a password.

    Raises:
        ValueError: it has none of these schemes, or cannot be parsed.
    """
    if not is_url(value, *schemes):
        raise ValueError(
            f"is not a URL (not shown, as it may hold a password); it must start with {schemes[0]}:// and special "
            "characters of a password are written as %XX"
        )
    return value


def receiver_url(value: str) -> str:
    """The address of a lineage receiver, without a slash at its end.

    Raises:
        ValueError: it is not one, or contains a credential.
    """
    parts = urlsplit(value)
    if not is_url(value, *HTTP_SCHEMES) or not parts.hostname or parts.username or parts.password or parts.query:
        raise ValueError(
            "is not the address of a lineage receiver (not shown, as it may hold a key); give one like "
            "http://127.0.0.1:5000, and its key as OPENLINEAGE_API_KEY"
        )
    return value.rstrip("/")


def public_url(value: str) -> str:
    """An address that is published.

    Raises:
        ValueError: it is not one, or contains a credential or a query.
    """
    parts = urlsplit(value)
    plain = re.fullmatch(r"[!-~]+", value) and not re.search(r"[<>\"{}|\\^`]", value)
    if not plain or not is_url(value, *HTTP_SCHEMES) or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError(
            "is not an address to publish (not shown, as it may hold a key); give one like https://bikes.example.org/gbfs"
        )
    return value


def vault_address(value: str) -> str:
    """The address of a Vault, without a slash at its end.

    Raises:
        ValueError: it is not one, or contains a credential.
    """
    parts = urlsplit(value)
    if parts.scheme not in HTTP_SCHEMES or not parts.hostname or parts.username or parts.password:
        raise ValueError("is not the address of a Vault; give one like https://vault.example.org:8200")
    return value.rstrip("/")


def vault_path(value: str) -> str:
    """A mount point, or a path below one, without leading and trailing slashes.

    Raises:
        ValueError: nothing is left of it.
    """
    path = value.strip("/")
    if not path:
        raise ValueError("is empty; give a path like wrm/s3")
    return path


def folder_prefix(value: str) -> str:
    """A prefix of keys: a folder that ends in a slash, or nothing.

    Raises:
        ValueError: a part of it cannot be a folder's name.
    """
    path = value.strip("/")
    if path and any(not part or part.startswith(".") for part in path.split("/")):
        raise ValueError("is not a folder: no part between slashes may be empty or start with a dot")
    return f"{path}/" if path else ""


def names_of(text: str) -> frozenset[str]:
    """The names in a comma-separated list, in lower case."""
    return frozenset(name.lower() for part in text.split(",") if (name := part.strip()))


def host_list(value: str) -> str:
    """Comma-separated hosts, each with or without a port.

    Raises:
        ValueError: one of them is not.
    """
    pattern = r"[\w.-]+(:\d+)?|\[[0-9a-f:.]+\](:\d+)?"
    problem = "is not a comma-separated list of hosts; give names like a.example.org,b.example.org"
    _check_each(names_of(value), pattern, problem)
    return value


def _check_each(items: Iterable[str], pattern: str, problem: str) -> None:
    if not all(re.fullmatch(pattern, item) for item in items):
        raise ValueError(problem)


def listed(text: str) -> tuple[str, ...]:
    """What is in a list with commas between, in its order and spelling."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def pg_schema(value: str) -> str:
    """The name of a schema in PostgreSQL that needs no quotes.

    Raises:
        ValueError: it is not.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", value) or value.startswith("pg_"):
        raise ValueError("is not a schema's name: give lower-case letters, digits and underscores, not pg_ first")
    return value


def role_list(value: str) -> str:
    """Roles of PostgreSQL, with commas between.

    Raises:
        ValueError: one of them is not.
    """
    problem = "is not a list of roles with commas between; give names like grafana,metabase"
    _check_each(listed(value), r"[\w.-]{1,63}", problem)
    return value


def mail_addresses(value: str) -> str:
    """Mail addresses, with commas between.

    Raises:
        ValueError: one of them is not.
    """
    problem = "is not a list of mail addresses with commas between; give some like a@example.org"
    _check_each(listed(value), r"[^\s@<>,;:\"]+@[^\s@<>,;:\"]+", problem)
    return value
