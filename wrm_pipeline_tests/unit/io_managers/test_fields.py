"""Each field of each I/O manager, changed in the launchpad, changes what it does; a wrong one is refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from wrm_pipeline.resources.base import BaseIOManager, BaseIOManagerFactory
from wrm_pipeline_tests.fixtures.in_a_run import in_a_run, refusal
from wrm_pipeline_tests.fixtures.lake import Lake, definitions

ROWS = pa.table({"at": pa.array([datetime(2025, 8, 21, 22, tzinfo=UTC)], pa.timestamp("us", "UTC"))})
TABLES = ["duckdb_io_manager", "duckdb_s3_io_manager", "duckdb_hybrid_io_manager"]
OPTIONS = "connection_config: DuckDB does not take"

# By which test each field is looked at.
TRIED: set[tuple[str, str]] = {("hive_partitioned_s3_io_manager", "allow_shrink")}  # test_foreign_assets.py


def tries(*fields: str) -> Callable[[Any], Any]:
    """Say which fields (`key.field`) a test changes."""
    TRIED.update((name.partition(".")[0], name.partition(".")[2]) for name in fields)
    return lambda test: test


def there_and_back(key: str, value: Any, kind: type, config: dict[str, Any]) -> Any:
    """What an asset that loads `value` gets, in a run with this configuration."""
    seen: list[Any] = []

    @dg.asset(io_manager_key=key)
    def kept() -> kind:  # type: ignore[valid-type]
        return value

    @dg.asset
    def loaded(kept: kind) -> None:  # type: ignore[valid-type]
        seen.append(kept)

    resources = dict(definitions().resources or {})
    run_config = {"resources": {key: {"config": config}}}
    assert dg.materialize([kept, loaded], resources=resources, run_config=run_config).success
    return seen[0]


@tries(*(f"{key}.{field}" for key in TABLES for field in ("database", "schema_", "connection_config")))
@pytest.mark.parametrize("key", TABLES)
def test_database_schema_and_options_of_tables(lake: Lake, tmp_path, key, monkeypatch):
    monkeypatch.setenv("A_SCHEMA", "own")
    fields = {
        "database": str(tmp_path / "other.duckdb"),
        "schema": {"env": "A_SCHEMA"},
        "connection_config": {"TimeZone": "Europe/Warsaw"},
    }
    back = there_and_back(key, ROWS, pa.Table, fields)
    assert back.schema.field("at").type.tz == "Europe/Warsaw"
    assert back.equals(ROWS.cast(back.schema))
    with duckdb.connect(fields["database"], read_only=True) as db:
        assert db.sql("SELECT schema_name, table_name FROM duckdb_tables()").fetchall() == [("own", "kept")]
    assert not lake.settings.database_path.exists()
    published = f"{tmp_path}/published"
    if key == "duckdb_s3_io_manager":
        with open(published, "wb") as file:  # noqa: PTH123
            file.write(lake.store.get(lake.layout.database_key))
        with duckdb.connect(published, read_only=True) as db:
            assert db.sql("SELECT count(*) FROM own.kept").fetchall() == [(1,)]


@tries("s3_io_manager.s3_prefix", "s3_io_manager.s3_bucket")
def test_the_folder_and_the_bucket_of_values(lake: Lake):
    assert there_and_back("s3_io_manager", {"a": 1}, dict, {"s3_prefix": "team/small"}) == {"a": 1}
    assert lake.keys() == ["bike-data/gen_info/team/small/kept.json"]
    config = {
        "lake": {"bucket": "bikes", "folder": None},
        "s3_resource": {"aws_access_key_id": "k", "aws_secret_access_key": "s", "endpoint_url": "http://127.0.0.1:9"},
    }

    def place(manager: Any) -> str:
        return manager._store.name

    assert in_a_run("s3_io_manager", place, config) == "s3://bikes"
    assert in_a_run("s3_io_manager", place, {**config, "s3_io_manager": {"s3_bucket": "other"}}) == "s3://other"


@pytest.mark.parametrize("key", ["hive_partitioned_s3_io_manager", "s3_io_manager", *TABLES])
def test_another_lake_is_that_of_the_io_managers_too(lake: Lake, tmp_path, key):
    values: list[Any] = [ROWS]

    @dg.asset(io_manager_key=key)
    def kept() -> pa.Table:
        return values[0]

    config = {"resources": {"lake": {"config": {"folder": str(tmp_path), "database_path": f"{tmp_path}/x.duckdb"}}}}
    assert dg.materialize([kept], resources=dict(definitions().resources or {}), run_config=config).success
    assert lake.keys() == []
    assert not lake.settings.database_path.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] != []


@pytest.mark.parametrize(
    ("key", "config", "words"),
    [
        ("hive_partitioned_s3_io_manager", {"allow_shrink": "yes"}, "allow_shrink"),
        ("hive_partitioned_s3_io_manager", {"layer": "x"}, '"layer"'),
        ("s3_io_manager", {"s3_prefix": "/"}, "s3_prefix\n  Value error, is empty"),
        ("s3_io_manager", {"s3_prefix": "a/../b"}, "s3_prefix\n  Value error, is not a folder"),
        ("s3_io_manager", {"s3_prefix": "raw/x"}, "s3_prefix\n  Value error, is a folder that the pipeline keeps"),
        ("s3_io_manager", {"s3_bucket": ""}, "s3_bucket\n"),
        *((key, {"schema": ""}, "schema\n") for key in TABLES),
        *((key, {"connection_config": {"tredds": 1}}, f"{OPTIONS} 'tredds'") for key in TABLES),
        ("duckdb_io_manager", {"connection_config": {"threads": "many"}}, f"{OPTIONS} 'threads'"),
        ("duckdb_io_manager", {"database": 1}, ":database"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(environment, key, config, words):
    assert words in refusal(key, config)


def test_every_field_of_every_io_manager_is_described_and_tried_here():
    fields = {
        (key, name): field.description
        for key, resource in (definitions().resources or {}).items()
        if isinstance(resource, BaseIOManager | BaseIOManagerFactory)
        for name, field in type(resource).model_fields.items()
        if not isinstance(getattr(resource, name), dg.ConfigurableResource)
    }
    assert fields.keys() == TRIED
    assert all(fields.values())


def test_each_says_on_the_page_of_resources_what_it_is():
    from dagster._core.remote_representation.external_data import RepositorySnap

    shown = {each.name: each for each in RepositorySnap.from_def(definitions().get_repository_def()).resources or ()}
    for key in ["hive_partitioned_s3_io_manager", "s3_io_manager", "duckdb", *TABLES]:
        snap = shown[key]
        assert len(snap.resource_snapshot.description) > 100, key
        assert all(field.description for field in snap.config_field_snaps), key
        assert "lake" in snap.nested_resources, key
