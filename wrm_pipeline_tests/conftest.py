"""What every test gets: an environment of its own, so that no test meets another's data or the machine's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from wrm_pipeline.clients.cache import LOOKUPS
from wrm_pipeline.clients.retry import REQUESTS
from wrm_pipeline.domain import city, masking
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import Lake

_OURS = (
    "WRM_",
    "BUCKET_NAME",
    "S3_",
    "HETZNER_",
    "MINIO_",
    "AWS_",
    "VAULT_",
    "REDIS_",
    "POSTGRES_",
    "DAGSTER_",
    "DASK_",
    "OPENLINEAGE_",
)
_DEFAULT_CITY = city.this_city()
_KEPT = ("WRM_PROPERTY_FACTOR",)
# Minutes each: begun last, they would run alone at the end.
_LONGEST = ("test_processes.py", "test_canary_hunt.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order is the same in all workers, as xdist needs it."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The defaults of every variable, with the data and Dagster's home in new folders; gives the data folder.

    The data folder does not exist yet, as on a new machine.
    """
    for name in list(os.environ):
        if name.startswith(_OURS) and name not in _KEPT:
            monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("wrm")
    (folder / "dagster_home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("WRM_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("WRM_DOTENV", os.devnull)  # a developer's .env in the checkout is not for tests
    monkeypatch.setattr(city, "_city", _DEFAULT_CITY)
    monkeypatch.setattr(masking, "_register", masking.Register())
    REQUESTS.reset()
    LOOKUPS.reset()
    return folder / "data"


@pytest.fixture
def lake(environment: Path) -> Lake:
    """The lake that the environment names, empty."""
    return Lake(load_settings())


@pytest.fixture
def own_forkserver(environment: Path) -> Iterator[None]:
    """Worker processes with the environment of this test: the server that they are forked from keeps its own."""
    server = forkserver._forkserver
    preloaded = list(server._preload_modules)
    server._stop()
    yield
    server._stop()
    server.set_forkserver_preload(preloaded)
