"""`postgres_resource`: connections to the PostgreSQL database for external readers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field

from wrm_pipeline.analytics.serving import Serving
from wrm_pipeline.clients.postgres import PostgresLogin
from wrm_pipeline.domain.configured import SSL_MODES, listed, pg_schema, role_list
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.domain.setting_groups import same_user
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings, SettingsError

if TYPE_CHECKING:
    import psycopg


def _remembered(value: str) -> str:
    remember_secret(value)
    return value


def _ssl_mode(value: str) -> str:
    if value not in SSL_MODES:
        raise ValueError(f"is not one of {', '.join(SSL_MODES)}")
    return value


class PostgresResource(BaseResource):
    """Connections to a PostgreSQL database (`connection`) for any asset; used by `serving_tables`.

    It is not Dagster's own storage, and must have a different user. The password comes from Vault or
    POSTGRES_SERVING_PASSWORD when a connection is made.
    """

    vault: VaultResource
    host: str | None = Field(
        default=None, description="POSTGRES_SERVING_HOST: a host, or the folder of a socket; null: no database"
    )
    port: int = Field(default=5432, gt=0, lt=65536, description="POSTGRES_SERVING_PORT")
    dbname: str | None = Field(default=None, description="POSTGRES_SERVING_DB; null: from Vault")
    user: str | None = Field(default=None, description="POSTGRES_SERVING_USER; null: from Vault")
    password: Annotated[str | None, optional(_remembered)] = Field(
        default=None, description="As EnvVar; null: from Vault, else POSTGRES_SERVING_PASSWORD"
    )
    sslmode: Annotated[str, AfterValidator(_ssl_mode)] = Field(
        default="prefer", description=f"POSTGRES_SERVING_SSLMODE: {', '.join(SSL_MODES)}"
    )
    schema_name: Annotated[str, AfterValidator(pg_schema)] = Field(
        default="wrm_analytics", description="POSTGRES_SERVING_SCHEMA: where tables are published"
    )
    readers: Annotated[str, AfterValidator(role_list)] = Field(
        default="", description="POSTGRES_SERVING_READERS: comma-separated roles that may read the published tables"
    )
    connect_timeout_s: int = Field(default=5, gt=0, description="Seconds for a connection, of each address of the host")
    statement_timeout_s: float = Field(default=300, gt=0, description="Seconds for a statement")

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource according to the settings."""
        return cls(
            vault=vault or VaultResource.of(settings),
            host=settings.postgres_serving_host,
            port=settings.postgres_serving_port,
            dbname=settings.postgres_serving_db,
            user=settings.postgres_serving_user,
            sslmode=settings.postgres_serving_sslmode,
            schema_name=settings.postgres_serving_schema,
            readers=settings.postgres_serving_readers,
        )

    @property
    def login(self) -> PostgresLogin:
        """The database's place and login; may ask Vault.

        Raises:
            SettingsError: none is configured, or its user is that of Dagster's own storage.
            ExternalError: Vault returned no value.
        """
        if self.host is None:
            raise SettingsError(
                "There is no PostgreSQL database to connect to. Set POSTGRES_SERVING_HOST, POSTGRES_SERVING_DB, "
                "POSTGRES_SERVING_USER and POSTGRES_SERVING_PASSWORD_FILE, or the fields of `postgres_resource`."
            )
        dbname, user, password = self.dbname, self.user, self.password
        if dbname is None or user is None or password is None:
            found = self.vault.secrets.serving_postgres(self.host)
            dbname, user, password = dbname or found.db, user or found.user, password or found.password
        if not dbname or not user:
            raise SettingsError(
                f"Of the PostgreSQL database at {self.host} the name or the user is missing. Set POSTGRES_SERVING_DB "
                "and POSTGRES_SERVING_USER, or write db and user to Vault's wrm/serving."
            )
        storage = self.vault.secrets.postgres()
        if storage is not None and storage.user == user:
            raise SettingsError(same_user(user))
        return PostgresLogin(
            self.host, self.port, dbname, user, password, self.sslmode, self.connect_timeout_s, self.statement_timeout_s
        )

    @contextmanager
    def connection(self, *, read_only: bool = False) -> "Iterator[psycopg.Connection]":
        """A connection of psycopg with one transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            SettingsError: none is configured, or its user is that of Dagster's own storage.
            TransientError: no connection, a time-out, or a conflict.
            PermanentError: refused: login, database, permissions, or an invalid statement.
        """
        with self.login.connect(read_only=read_only) as connection:
            yield connection

    @property
    def serving(self) -> Serving:
        """The place of published tables."""
        return Serving(self.schema_name, listed(self.readers))
