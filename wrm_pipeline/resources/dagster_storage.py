"""Dagster's own storage in PostgreSQL, with the password from the same source as all credentials.

In dagster.yaml::

    storage:
      custom:
        module: wrm_pipeline.resources.dagster_storage
        class: PostgresStorage
        config: {}

Dagster passes its configuration to run workers, so it is empty.
"""

from typing import Any

from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import URL

from wrm_pipeline.resources.masked_dagster import guard_dagster
from wrm_pipeline.resources.vault import secrets_of
from wrm_pipeline.settings import SettingsError, load_settings


class PostgresStorage(DagsterPostgresStorage):
    """Runs, events and ticks, in the database named by POSTGRES_HOST or Vault's wrm/postgres."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing can be configured here."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PostgresStorage":  # noqa: ARG003
        """Connect; Dagster calls this at the start of each of its processes.

        Raises:
            SettingsError: no database is configured.
            ExternalError: Vault returned no password.
        """
        guard_dagster()
        access = secrets_of(load_settings()).postgres()
        if access is None or not access.db or not access.user:
            raise SettingsError(
                "dagster.yaml requires PostgreSQL, but no database is configured. Set POSTGRES_HOST (a host, or the "
                "folder of a socket), "
                "POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD_FILE, or write host, db, user and password to "
                "Vault's wrm/postgres."
            )
        # Without naming it, SQLAlchemy 2.1 looks for psycopg 3, and Dagster brings psycopg2.
        by_socket = access.host.startswith("/")
        url = URL.create(
            "postgresql+psycopg2",
            access.user,
            access.password or None,
            host=None if by_socket else access.host,
            port=None if by_socket else access.port,
            database=access.db,
            query={"host": access.host, "port": str(access.port)} if by_socket else {},
        )
        return cls(postgres_url=url.render_as_string(hide_password=False), inst_data=inst_data)
