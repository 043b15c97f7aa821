"""Connections to a PostgreSQL database that others read, with psycopg, time-outs and our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.domain.masking import remember_secret

if TYPE_CHECKING:
    import psycopg

TARGET = "postgres"

# Classes of SQLSTATE that may succeed when tried again: connection, out of resources, intervention, roll-backs, and
# time-outs.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57"})
# libpq reports the reason of a failed connection only as text.
_REFUSED = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied", "SSL")
_REMEDIES = {
    "42501": "Grant the user of POSTGRES_SERVING_USER that right (docs/serving.md)",
    "42704": "Create the role, or correct POSTGRES_SERVING_READERS",
}


@dataclass(frozen=True, slots=True)
class PostgresLogin:
    """The place of a database and the login.

    Attributes:
        host: A name, an address, or the folder of a socket.
        sslmode: One of `configured.SSL_MODES`.
        connect_timeout_s: Whole seconds for a connection, of each address of the host.
        statement_timeout_s: Seconds for a statement; the server ends it then.
    """

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    connect_timeout_s: int = 5
    statement_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.password:
            remember_secret(self.password)

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.host}:{self.port}/{self.dbname}"

    @contextmanager
    def connect(self, *, read_only: bool = False) -> "Iterator[psycopg.Connection]":
        """A connection with one transaction: committed at the end of the block, rolled back if it raises.

        psycopg's errors are translated into ours, without the rows that they may quote.

        Raises:
            TransientError: no connection, a time-out, or a conflict.
            PermanentError: refused: login, database, permissions, or an invalid statement.
        """
        import psycopg

        try:
            connection = psycopg.connect(
                host=self.host,
                port=self.port,
                dbname=self.dbname,
                user=self.user,
                password=self.password,
                sslmode=self.sslmode,
                connect_timeout=self.connect_timeout_s,
                application_name="wrm_pipeline",
                # Notices within a minute that a server is gone.
                keepalives_idle=20,
                keepalives_interval=10,
                keepalives_count=3,
                options=f"-c statement_timeout={round(self.statement_timeout_s * 1000)} -c timezone=UTC",
            )
        except psycopg.OperationalError as error:
            raise self._no_connection(error) from None
        try:
            with connection:
                connection.read_only = read_only
                yield connection
        except psycopg.Error as error:
            raise self.explained(error) from None

    def _no_connection(self, error: "psycopg.OperationalError") -> ExternalError:
        text = str(error)
        kind = PermanentError if any(words in text for words in _REFUSED) else TransientError
        remedy = "Correct the POSTGRES_SERVING_ variables (or wrm/serving in Vault), or the server's pg_hba.conf"
        cause = cause_of(error, self.host, self.port, waited_s=self.connect_timeout_s)
        return kind(cause, TARGET, "connect", self.place, remedy if kind is PermanentError else "Is the server up?")

    def explained(self, error: "psycopg.Error") -> ExternalError:
        """Translate an error of psycopg into ours."""
        state = error.sqlstate or ""
        text = error.diag.message_primary or str(error).partition("\n")[0] or type(error).__name__
        is_transient = state[:2] in _TRANSIENT_CLASSES or not state
        kind = TransientError if is_transient else PermanentError
        return kind(text, TARGET, "execute", self.place, _REMEDIES.get(state, ""))
