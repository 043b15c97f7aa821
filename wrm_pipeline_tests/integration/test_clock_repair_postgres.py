"""The repair after a clock that was ahead, on a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrm_pipeline_tests.clock_contract import ClockContract, Clocked
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres
from wrm_pipeline_tests.integration.test_upkeep_postgres import PASSWORD, instance_in

pytestmark = pytest.mark.integration

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres(PASSWORD) as started:
        yield started


@pytest.fixture
def clocked(postgres: PostgresServer, tmp_path: Path) -> Iterator[Clocked]:
    database = f"clocked{next(_numbers)}"
    postgres.create_database(database)
    with instance_in(postgres, database, tmp_path) as instance:
        yield Clocked(instance)


class TestPostgres(ClockContract):
    """Dagster's storage in production."""
