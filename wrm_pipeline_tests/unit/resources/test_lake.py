"""The resources: configuration in, clients out, and no secret on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value

from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.resources.feed import ClockResource, FeedResource
from wrm_pipeline.resources.lake import LakeResource, connect_store
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import definitions

CANARY = "CANARY-s3cr3t"


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setenv("BUCKET_NAME", "bikes")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("S3_ACCESS_KEY_ID", f"{CANARY}-id")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", CANARY)


def test_without_a_bucket_the_lake_is_a_folder(environment):
    lake = LakeResource.of(load_settings())
    assert lake.place == str(environment / "lake")
    assert isinstance(lake.store, LocalObjectStore)
    assert lake.store is lake.store
    assert lake.database.s3 is None
    assert (lake.spool.folder, lake.spool.max_bytes) == (environment / "spool", 2**30)
    assert not environment.exists()


def test_with_a_bucket_the_lake_is_s3_and_the_database_can_read_it(s3, environment):
    lake = LakeResource.of(load_settings())
    assert lake.place == "s3://bikes"
    assert isinstance(lake.store, S3ObjectStore)
    assert lake.database.path == environment / "analytics.duckdb"
    assert lake.database.s3.bucket == "bikes"
    assert lake.store.url("a/b") == "s3://bikes/a/b"


def test_secrets_are_no_configuration(s3):
    defs = definitions()
    repository = defs.get_repository_def()
    # What Dagster stores and its UI shows of the code location.
    shown = [serialize_value(RepositorySnap.from_def(repository))]
    shown += [serialize_value(job.get_job_snapshot()) for job in repository.get_all_jobs()]
    assert "bikes" in shown[0]
    shown += [repr(resource) for resource in defs.resources.values()]
    kinds = dg.ConfigurableResource | dg.ConfigurableIOManager | dg.ConfigurableIOManagerFactory
    configured = [each for each in defs.resources.values() if isinstance(each, kinds)]
    assert len(configured) >= len(defs.resources) - 1, "but for the asset graph, which has no configuration"
    shown += [json.dumps(each.model_dump(mode="json")) for each in configured]
    assert [text for text in shown if CANARY in text] == []


def test_secrets_are_read_when_a_run_needs_them_and_not_before(s3, monkeypatch):
    lake = LakeResource.of(load_settings())
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "rotated")
    assert lake.database.s3.secret_access_key == "rotated"


def test_the_feed_has_its_limit_and_its_breaker():
    vault = VaultResource.of(load_settings())
    (client,) = FeedResource(urls={"ucl": "http://127.0.0.1:9/"}, max_bytes=123, vault=vault).clients
    assert (client.url, client.max_bytes) == ("http://127.0.0.1:9/", 123)
    assert client.breaker is not None


def test_the_clock_is_aware_and_can_be_set():
    assert ClockResource(fixed_at="2025-08-21T14:00:00+02:00").now() == datetime(2025, 8, 21, 12, tzinfo=UTC)
    before = datetime.now(UTC)
    assert before <= ClockResource(fixed_at=None).now() <= datetime.now(UTC)


def test_connecting_makes_no_request(s3):
    assert connect_store(load_settings()).name == "s3://bikes"
