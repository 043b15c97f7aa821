"""Each field of each resource, changed in the launchpad, changes what the resource does; a wrong one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.resources.base import BaseIOManager, BaseResource
from wrm_pipeline.settings import SettingsError
from wrm_pipeline_tests.fixtures.fake_vault import FakeVault
from wrm_pipeline_tests.fixtures.fault_server import HANG, Answer, FaultServer
from wrm_pipeline_tests.fixtures.in_a_run import in_a_run, refusal
from wrm_pipeline_tests.fixtures.lake import build_day, definitions, snapshot
from wrm_pipeline_tests.fixtures.mail_server import MailServer, mail_server
from wrm_pipeline_tests.fixtures.snapshots import line

NOON = datetime(2025, 8, 21, 12, tzinfo=UTC)
LISTING = b'<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>'

RESOURCES_PAGE = Path(__file__).parents[3] / "docs" / "resources.md"

# By which test each field is looked at.
TRIED: set[tuple[str, str]] = set()


def tries(*fields: str) -> Callable[[Any], Any]:
    """Say which fields (`resource.field`) a test changes."""
    TRIED.update((name.partition(".")[0], name.partition(".")[2]) for name in fields)
    return lambda test: test


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """What answers instead of S3, and the settings that lead there."""
    with FaultServer(then=Answer(200, LISTING, {"Content-Type": "application/xml"})) as server:
        for name, value in {
            "BUCKET_NAME": "bikes",
            "S3_ENDPOINT_URL": server.url,
            "S3_ACCESS_KEY_ID": "the-key-of-settings",
            "S3_SECRET_ACCESS_KEY": "the-secret-of-settings",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVault]:
    with FakeVault() as server:
        for path in ("wrm/s3", "elsewhere/s3"):
            server.put(path, access_key_id="vaults-key", secret_access_key="vaults-secret", bucket_name="of-vault")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def ask(resource: Any) -> str:
    """One call of a client of `s3_resource`; gives the class of its error."""
    try:
        resource.get_client().list_buckets()
    except Exception as error:  # noqa: BLE001 - the test says which
        return type(error).__name__
    return ""


# --- s3_resource ---


@tries("s3_resource.endpoint_url")
def test_clients_and_the_lake_go_to_the_endpoint_of_s3_resource(s3):
    with FaultServer(then=Answer(200, LISTING)) as other:
        config = {"s3_resource": {"endpoint_url": other.url}}
        in_a_run("s3_resource", ask, config)
        assert len(other.requests) == 1
        assert in_a_run("lake", lambda lake: lake.s3_access.endpoint_url, config) == other.url
    assert s3.requests == []


@tries("s3_resource.region_name")
def test_the_region_is_what_requests_are_signed_for(s3):
    in_a_run("s3_resource", ask)
    in_a_run("s3_resource", ask, {"s3_resource": {"region_name": "hel1"}})
    regions = [request.headers["authorization"].split("/")[2] for request in s3.requests]
    assert regions == ["us-east-1", "hel1"]


@tries("s3_resource.max_attempts")
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_call_is_tried_so_often(s3, attempts):
    s3.play(then=Answer(503, headers={"Retry-After": "0"}))
    assert in_a_run("s3_resource", ask, {"s3_resource": {"max_attempts": attempts}}) == "ClientError"
    assert len(s3.requests) == attempts


@tries("s3_resource.deadline_s")
def test_no_attempt_begins_that_would_end_after_the_deadline(s3):
    s3.play(then=Answer(503, headers={"Retry-After": "3"}))
    fields = {"deadline_s": 2.0, "connect_timeout_s": 0.5, "read_timeout_s": 0.5}
    assert in_a_run("s3_resource", ask, {"s3_resource": fields}) == "ClientError"
    assert len(s3.requests) == 1


@tries("s3_resource.read_timeout_s", "s3_resource.connect_timeout_s")
def test_a_service_that_says_nothing_is_left_after_the_time_out(s3):
    s3.play(then=HANG)
    fields = {"read_timeout_s": 0.2, "connect_timeout_s": 0.1, "max_attempts": 1}
    took = in_a_run("s3_resource", lambda it: (datetime.now(UTC), ask(it), datetime.now(UTC)), {"s3_resource": fields})
    assert took[1] in {"ReadTimeoutError", "TransientError"}
    assert (took[2] - took[0]).total_seconds() < 3
    way = in_a_run("s3_resource", lambda it: it.way(it.policy), {"s3_resource": fields})
    assert (way.connect_s, way.read_s) == (0.1, 0.2)


@tries("s3_resource.requests_per_s")
def test_requests_are_held_to_a_rate(s3):
    def three(resource: Any) -> float:
        client = resource.get_client()
        began = datetime.now(UTC)
        for _ in range(3):
            client.list_buckets()
        return (datetime.now(UTC) - began).total_seconds()

    assert in_a_run("s3_resource", three, {"s3_resource": {"requests_per_s": 4}}) >= 0.4


@tries("s3_resource.verify")
def test_certificates_are_verified_unless_a_run_says_otherwise(s3, monkeypatch):
    def way(resource: Any) -> object:
        return resource.way(resource.policy).verify

    assert in_a_run("s3_resource", way) is True
    assert in_a_run("s3_resource", way, {"s3_resource": {"verify": False}}) is False
    monkeypatch.setenv("WRM_ENV", "production")
    with pytest.raises(SettingsError, match="verify of the resource `s3_resource`"):
        in_a_run("s3_resource", way, {"s3_resource": {"verify": False}})


@tries("s3_resource.use_ssl")
def test_without_tls_aws_is_asked_by_http(s3):
    def address(resource: Any) -> str:
        return resource.get_client().meta.endpoint_url

    no_endpoint = {"endpoint_url": None, "region_name": "eu-central-1"}
    assert in_a_run("s3_resource", address, {"s3_resource": no_endpoint}).startswith("https://s3.")
    plain = in_a_run("s3_resource", address, {"s3_resource": {**no_endpoint, "use_ssl": False}})
    assert plain == "http://s3.eu-central-1.amazonaws.com"


@tries(
    "s3_resource.use_unsigned_session",
    "s3_resource.profile_name",
    "s3_resource.aws_access_key_id",
    "s3_resource.aws_secret_access_key",
    "s3_resource.aws_session_token",
)
def test_who_asks_is_said_by_the_fields_else_by_the_settings(s3, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = of-profile\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("OTHER_SECRET", "another-secret")
    own = {"aws_access_key_id": "own-key", "aws_secret_access_key": {"env": "OTHER_SECRET"}}
    for fields in ({}, {"use_unsigned_session": True}, {"profile_name": "other"}, {**own, "aws_session_token": "t-1"}):
        assert in_a_run("s3_resource", ask, {"s3_resource": fields}) == ""
    signed = [request.headers.get("authorization", "") for request in s3.requests]
    assert ["the-key-of-settings" in signed[0], signed[1], "of-profile" in signed[2]] == [True, "", True]
    assert "own-key" in signed[3]
    assert s3.requests[3].headers["x-amz-security-token"] == "t-1"
    access = in_a_run("lake", lambda lake: lake.s3_access, {"s3_resource": own})
    assert (access.bucket, access.access_key_id, access.secret_access_key) == ("bikes", "own-key", "another-secret")


def test_a_client_raises_what_boto3_raises_and_leaves_a_service_alone_that_keeps_failing(s3):
    from botocore.exceptions import ClientError

    def many(resource: Any) -> list[str]:
        client = resource.get_client()
        with pytest.raises(ClientError) as caught:
            client.list_buckets()
        assert "s3 list_buckets: HTTP 503" in caught.value.__notes__[0]
        return [ask(resource) for _ in range(5)]

    s3.play(then=Answer(503))
    assert in_a_run("s3_resource", many, {"s3_resource": {"max_attempts": 1}}) == ["ClientError"] * 4 + [
        "CircuitOpenError"
    ]


def test_a_file_that_is_sent_again_is_sent_from_where_it_began(s3, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    s3.play([Answer(503)], then=Answer(200, headers={"ETag": '"x"'}))

    def put(resource: Any) -> None:
        with (tmp_path / "file").open("rb") as file:
            file.seek(4)
            resource.get_client().put_object(Bucket="b", Key="k", Body=file)

    in_a_run("s3_resource", put)
    assert [request.body for request in s3.requests] == [b"456789", b"456789"]


def test_it_is_dagster_aws_own_resource_where_that_is_loaded(s3):
    from dagster_aws.s3 import S3Resource

    def look(resource: Any) -> bool:
        return isinstance(resource, S3Resource)

    assert in_a_run("s3_resource", look)
    ours = next(r for key, r in (definitions().resources or {}).items() if key == "s3_resource")
    theirs = set(S3Resource.model_fields) - set(type(ours).model_fields)
    assert theirs == set(), "every field of dagster-aws's is there"


# --- lake ---


@tries("lake.folder")
def test_the_lake_may_be_another_folder(lake, tmp_path):
    def put(resource: Any) -> object:
        resource.store.put("a/b", b"1")
        return resource.store

    store = in_a_run("lake", put, {"lake": {"folder": str(tmp_path / "other")}})
    assert isinstance(store, LocalObjectStore)
    assert (tmp_path / "other" / "a" / "b").read_bytes() == b"1"
    assert lake.store.stat("a/b") is None


@tries("lake.bucket", "lake.endpoint_url")
def test_the_lake_may_be_another_bucket_and_elsewhere(s3):
    def place(resource: Any) -> tuple[str, str | None, str]:
        return resource.store.name, resource.s3_access.endpoint_url, resource.s3_access.access_key_id

    assert in_a_run("lake", place) == ("s3://bikes", s3.url, "the-key-of-settings")
    changed = in_a_run("lake", place, {"lake": {"bucket": "other", "endpoint_url": "https://s3.example.org"}})
    assert changed == ("s3://other", "https://s3.example.org", "the-key-of-settings")
    back = in_a_run("lake", lambda it: it.store, {"lake": {"bucket": None, "folder": "/tmp/nowhere"}})
    assert isinstance(back, LocalObjectStore)


@tries("lake.prefix", "lake.database_path")
def test_prefix_and_database_of_the_lake(environment, tmp_path):
    def look(resource: Any) -> tuple[str, Path]:
        return resource.layout.raw_prefix, resource.database.path

    assert in_a_run("lake", look) == ("bike-data/gen_info/raw/", environment / "analytics.duckdb")
    changed = {"lake": {"prefix": "/other/", "database_path": str(tmp_path / "x.duckdb")}}
    assert in_a_run("lake", look, changed) == ("other/raw/", tmp_path / "x.duckdb")


@tries("duckdb.database", "duckdb.connection_config")
def test_questions_are_asked_of_the_newest_file_of_a_database(lake, tmp_path):
    import duckdb

    with AnalyticsDatabase(lake.settings.database_path).refresh() as connection:
        connection.execute("CREATE TABLE wrm_analytics.t AS SELECT 1 AS n")

    def ask_twice(resource: Any) -> list[Any]:
        with resource.get_connection() as db:
            found = [db.sql("FROM wrm_analytics.t").fetchone()]
            with AnalyticsDatabase(lake.settings.database_path).refresh() as connection:
                connection.execute("INSERT INTO wrm_analytics.t SELECT 2")
            found.append(db.sql("SELECT count(*) FROM wrm_analytics.t").fetchone())
            with resource.get_connection() as newer:
                found.append(newer.sql("SELECT count(*) FROM wrm_analytics.t").fetchone())
            with pytest.raises(duckdb.Error, match="read-only"):
                db.execute("DROP TABLE wrm_analytics.t")
            return [*found, db.sql("SELECT current_setting('threads')").fetchone()]

    config = {"duckdb": {"connection_config": {"threads": 1}}}
    assert in_a_run("duckdb", ask_twice, config) == [(1,), (1,), (2,), (1,)]
    with duckdb.connect(str(tmp_path / "theirs.duckdb")) as db:
        db.execute("CREATE TABLE mine AS SELECT 5 AS n")

    def ask_theirs(resource: Any) -> Any:
        with resource.get_connection() as db:
            return db.sql("FROM mine").fetchone()

    assert in_a_run("duckdb", ask_theirs, {"duckdb": {"database": str(tmp_path / "theirs.duckdb")}}) == (5,)


# --- vault ---


@tries(
    *("vault.s3_path", "vault.redis_path", "vault.alerts_path", "vault.postgres_path", "vault.serving_path"),
    "vault.mount_point",
)
def test_all_ask_at_the_paths_of_vault(monkeypatch):
    with FakeVault(mount="other") as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        fake.put("p/s3", access_key_id="k", secret_access_key="s", bucket_name="b", endpoint_url="http://127.0.0.1:9")
        fake.put("p/redis", url="redis://127.0.0.1:9/0")
        fake.put("p/alerts", webhook_url="http://127.0.0.1:9/")
        fake.put("p/postgres", host="h", db="d", user="u", password="p")
        fake.put("p/serving", db="d", user="w", password="p")
        config = {
            "vault": {
                "mount_point": "other",
                "s3_path": "p/s3",
                "redis_path": "p/redis",
                "alerts_path": "p/alerts",
                "postgres_path": "p/postgres",
                "serving_path": "p/serving",
            },
            "postgres_resource": {"host": "h"},
        }
        asked = {}
        for key, look in {
            "lake": lambda it: it.store,
            "redis_cache": lambda it: it.get("x"),
            "alerts": lambda it: it.vault.secrets.webhook_url(),
            "vault": lambda it: it.secrets.postgres(),
            "postgres_resource": lambda it: it.login.user,
        }.items():
            before = len(fake.requests)
            in_a_run(key, look, {name: config[name] for name in {"vault", key} & config.keys()})
            asked[key] = {path.partition("/data/")[2] for path in fake.asked()[before:]} - {""}
        assert asked["lake"] == {"p/s3", "p/redis"}  # the breakers' state is in Redis
        assert asked["alerts"] == {"p/alerts"}
        assert asked["vault"] == {"p/postgres"}
        assert asked["postgres_resource"] == {"p/serving"}  # and compares the user with the one that is known by now
        assert {request.path.split("/")[2] for request in fake.requests} <= {"auth", "other"}


@tries("vault.address")
def test_another_vault_is_asked_and_a_secret_is_a_dict(vault):
    with FakeVault() as other:
        other.put("team/api", key="s3cr3t-value", user="me")
        found = in_a_run("vault", lambda it: it.get_secret("team/api"), {"vault": {"address": other.url}})
    assert found == {"key": "s3cr3t-value", "user": "me"}
    assert vault.requests == []


def test_without_a_vault_it_is_said_what_to_set(environment):
    with pytest.raises(SettingsError, match=r"no Vault to ask for 'a/b'\. Set VAULT_ADDR"):
        in_a_run("vault", lambda it: it.get_secret("a/b"))


@tries("vault.namespace")
def test_the_namespace_goes_along(vault):
    vault.namespace = "team"
    vault.put("a/b", k="v")
    with pytest.raises(ExternalError):
        in_a_run("vault", lambda it: it.get_secret("a/b"))
    assert in_a_run("vault", lambda it: it.get_secret("a/b"), {"vault": {"namespace": "team"}}) == {"k": "v"}


@tries("vault.cacert", "vault.skip_verify")
def test_a_certificate_is_trusted_by_its_ca_or_not_looked_at(monkeypatch, tmp_path):
    with FakeVault(tls=tmp_path) as fake:
        fake.put("a/b", k="v")
        for name, value in fake.environment().items():
            if name != "VAULT_CACERT":
                monkeypatch.setenv(name, value)
        with pytest.raises(ExternalError, match="not valid"):
            in_a_run("vault", lambda it: it.get_secret("a/b"))
        for fields in ({"cacert": fake.ca_file}, {"skip_verify": True}):
            assert in_a_run("vault", lambda it: it.get_secret("a/b"), {"vault": fields}) == {"k": "v"}


# --- caches ---


@tries("filesystem_cache.folder", "filesystem_cache.max_bytes")
def test_files_of_the_cache_are_in_its_folder_and_none_with_no_room(environment, tmp_path):
    def keep(resource: Any) -> object:
        resource.set("k", {"a": [1, 2.5, None]})
        return resource.get("k")

    folder = {"filesystem_cache": {"folder": str(tmp_path / "c")}}
    for key in ("filesystem_cache", "redis_cache"):
        assert in_a_run(key, keep, folder) == {"a": [1, 2.5, None]}
        assert in_a_run(key, keep, {"filesystem_cache": {"max_bytes": 0}}) is None
    assert list((tmp_path / "c").glob("??/*")) != []
    assert not (environment / "cache").exists()


@tries("filesystem_cache.ttl", "redis_cache.ttl")
@pytest.mark.parametrize("key", ["filesystem_cache", "redis_cache"])
def test_a_value_stays_for_the_time_of_the_field_or_of_the_call(environment, key):
    def ends(resource: Any) -> list[float]:
        found = []
        for ttl in (None, 10_000):
            resource.set(f"k{ttl}", "x", ttl)
            newest = max((environment / "cache").glob("??/*"), key=lambda path: path.stat().st_mtime_ns)
            found.append(int.from_bytes(newest.read_bytes()[5:13], "big") - datetime.now(UTC).timestamp())
        return found

    of_field, of_call = in_a_run(key, ends, {key: {"ttl": 100}})
    assert 85 < of_field < 101
    assert 8_500 < of_call < 10_001


@tries("redis_cache.host", "redis_cache.port", "redis_cache.db", "redis_cache.url")
def test_redis_is_named_by_host_or_url(environment, monkeypatch):
    def place(resource: Any) -> str:
        return resource.place

    assert in_a_run("redis_cache", place) == str(environment / "cache")
    assert in_a_run("redis_cache", place, {"redis_cache": {"host": "h"}}) == "redis://h:6379/0"
    assert in_a_run("redis_cache", place, {"redis_cache": {"host": "h", "port": 1, "db": 2}}) == "redis://h:1/2"
    assert in_a_run("redis_cache", place, {"redis_cache": {"url": "unix:///run/redis"}}) == "unix:///run/redis"
    monkeypatch.setenv("REDIS_URL", "redis://configured:7000/3")
    assert in_a_run("redis_cache", place, {"redis_cache": {"db": 4}}) == "redis://configured:7000/4"
    monkeypatch.setenv("A_URL", "redis://:s3cr3t-canary@h/0")
    hidden = in_a_run(
        "redis_cache", place, {"redis_cache": {"url": {"env": "A_URL"}, "host": None, "port": None, "db": None}}
    )
    assert hidden == "redis://***@h/0"


def test_what_would_need_a_pickle_is_refused_and_what_does_not_comes_back(environment):
    import pandas as pd
    import pyarrow as pa

    values = [b"x", "ż", 7, [1, {"a": None}], pa.table({"a": [1, 2]}), pd.DataFrame({"a": [1.5]})]

    def keep(cache: Any) -> list[object]:
        for bad in (object(), {1: 2}, (1, 2), {1}):
            with pytest.raises(TypeError, match=r"cannot be kept without a pickle\. Keep bytes, text"):
                cache.set("bad", bad)
        for n, value in enumerate(values):
            cache.set(f"k{n}", value)
        return [cache.get(f"k{n}") for n in range(len(values))]

    found = in_a_run("redis_cache", keep)
    assert found[:4] == values[:4]
    assert found[4].equals(values[4])
    assert found[5].equals(values[5])


def test_a_value_is_computed_once(environment):
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    def twice(cache: Any) -> tuple[object, object]:
        return cache.get_or_compute("k", compute), cache.get_or_compute("k", compute, ttl=5)

    assert in_a_run("redis_cache", twice) == ({"n": 1}, {"n": 1})


# --- the others ---


@tries("feed.urls", "feed.max_bytes")
def test_the_feed_is_where_the_field_says_and_not_longer(environment):
    with FaultServer(then=Answer(200, snapshot(NOON))) as server:
        fields = {"urls": {"ucl": server.url}}
        assert in_a_run("feed", lambda it: it.clients[0].fetch().body, {"feed": fields}) == snapshot(NOON)
        with pytest.raises(ExternalError, match="WRM_FEED_MAX_BYTES"):
            in_a_run("feed", lambda it: it.clients[0].fetch(), {"feed": {**fields, "max_bytes": 100}})


@tries("feed.feeds")
def test_a_run_may_take_other_feeds(environment):
    def kinds(config: dict[str, Any]) -> list[str]:
        return in_a_run("feed", lambda it: [client.kind.name for client in it.clients], {"feed": config})

    assert kinds({}) == ["ucl"]
    assert kinds({"feeds": "gbfs, ucl", "urls": {"gbfs": "https://bikes.example.org/gbfs.json"}}) == ["gbfs", "ucl"]


@tries("feed.redirect_hosts", "feed.private_hosts")
def test_hosts_of_the_feed(environment):
    fields = {"redirect_hosts": "a.example.org, B.example.org:81", "private_hosts": "inside"}
    way = in_a_run("feed", lambda it: it.clients[0].outgoing, {"feed": fields})
    assert way.redirect_hosts == {"a.example.org", "b.example.org:81"}
    assert way.private_hosts == {"inside"}


@tries("clock.fixed_at")
def test_the_clock_stands_where_it_is_set(environment):
    assert in_a_run("clock", lambda it: it.now(), {"clock": {"fixed_at": "2025-08-21T14:00:00+02:00"}}) == NOON


@tries("workers.executor", "workers.count", "workers.dask_scheduler_address")
def test_workers_are_of_the_kind_and_number_that_a_run_says(environment):
    def client(config: dict[str, Any]) -> tuple[str, int, str | None]:
        workers = in_a_run("workers", lambda it: it.client(), {"workers": config})
        return workers.kind, workers.count, workers.dask_address

    assert client({"executor": "threads", "count": 3}) == ("threads", 3, None)
    assert client({"count": 1})[0] == "sequential"
    assert client({"dask_scheduler_address": "tcp://h:1"}) == ("dask", 1, "tcp://h:1")


@tries(
    *("postgres_resource.host", "postgres_resource.port", "postgres_resource.dbname", "postgres_resource.user"),
    *("postgres_resource.password", "postgres_resource.sslmode", "postgres_resource.connect_timeout_s"),
    *("postgres_resource.statement_timeout_s", "postgres_resource.schema_name", "postgres_resource.readers"),
)
def test_the_database_is_the_one_of_the_fields(environment, monkeypatch):
    def look(resource: Any) -> tuple[Any, ...]:
        login, serving = resource.login, resource.serving
        who = (login.host, login.port, login.dbname, login.user, login.password)
        limits = (login.sslmode, login.connect_timeout_s, login.statement_timeout_s)
        return who, limits, serving.schema, serving.readers

    given = {"HOST": "of-variables", "DB": "d", "USER": "u", "PASSWORD": "p", "READERS": "a, b", "PORT": "5433"}
    for name, value in given.items():
        monkeypatch.setenv(f"POSTGRES_SERVING_{name}", value)
    expected = (("of-variables", 5433, "d", "u", "p"), ("prefer", 5, 300.0), "wrm_analytics", ("a", "b"))
    assert in_a_run("postgres_resource", look) == expected
    monkeypatch.setenv("ANOTHER_PASSWORD", "s3cr3t")  # pragma: allowlist secret
    fields = {
        "host": "/run/postgresql",
        "port": 1,
        "dbname": "e",
        "user": "v",
        "password": {"env": "ANOTHER_PASSWORD"},
        "sslmode": "verify-full",
        "connect_timeout_s": 2,
        "statement_timeout_s": 7.5,
        "schema_name": "s",
        "readers": "c",
    }
    changed = (("/run/postgresql", 1, "e", "v", "s3cr3t"), ("verify-full", 2, 7.5), "s", ("c",))
    assert in_a_run("postgres_resource", look, {"postgres_resource": fields}) == changed


def test_without_a_database_it_is_said_what_to_set(environment):
    with pytest.raises(SettingsError, match=r"no PostgreSQL database to connect to\. Set POSTGRES_SERVING_HOST"):
        in_a_run("postgres_resource", lambda it: it.login)
    with pytest.raises(SettingsError, match=r"the name or the user is missing\. Set POSTGRES_SERVING_DB"):
        in_a_run("postgres_resource", lambda it: it.login, {"postgres_resource": {"host": "h"}})


def test_the_user_of_dagsters_own_storage_is_refused_by_the_field_too(environment, monkeypatch):
    for name, value in {"HOST": "h", "DB": "d", "USER": "dagster_user", "PASSWORD": "p"}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    fields = {"host": "elsewhere", "dbname": "d", "user": "dagster_user"}
    with pytest.raises(SettingsError, match="is 'dagster_user', the user of Dagster's own storage"):
        in_a_run("postgres_resource", lambda it: it.login, {"postgres_resource": fields})


@tries("alerts.mail_to", "alerts.mail_from")
def test_alerts_are_mailed_to_whom_the_fields_name(environment, monkeypatch):
    with mail_server(MailServer()) as server:
        monkeypatch.setenv("WRM_SMTP_URL", f"smtp://127.0.0.1:{server.port}")
        assert in_a_run("alerts", lambda it: list(it.channels())) == []
        fields = {"mail_to": "a@example.org,b@example.org", "mail_from": "c@example.org"}
        in_a_run("alerts", lambda it: it.channels()["mail"]("*hello*"), {"alerts": fields})
    assert server.recipients == [["a@example.org", "b@example.org"]]
    assert server.taken[0]["From"] == "c@example.org"


@tries("alerts.ui_url")
def test_links_of_alerts_lead_to_the_ui(environment):
    assert in_a_run("alerts", lambda it: it.ui_url, {"alerts": {"ui_url": "https://ui"}}) == "https://ui"


@tries("lineage.namespace", "lineage.days", "lineage.url")
def test_lineage_goes_where_a_run_says(environment):
    def look(resource: Any) -> tuple[str, int, str | None]:
        return resource.namespace, resource.days, resource.receiver and resource.receiver.url

    assert in_a_run("lineage", look) == ("wrm_pipeline", 30, None)
    fields = {"namespace": "n", "days": 2, "url": "http://127.0.0.1:9/"}
    assert in_a_run("lineage", look, {"lineage": fields}) == ("n", 2, "http://127.0.0.1:9")


@tries("retention.history_days", "retention.history_max_bytes", "retention.compact_after_days")
def test_ages_and_sizes_are_those_of_the_run(environment):
    def look(retention: Any) -> tuple[int, int, int | None]:
        return retention.history_days, retention.history_max_bytes, retention.compact_after_days

    fields = {"history_days": 3, "history_max_bytes": 5_000_000, "compact_after_days": 4}
    assert in_a_run("retention", look, {"retention": fields}) == (3, 5_000_000, 4)


@tries("metrics.folder", "metrics.max_series")
def test_metrics_have_a_folder_and_a_bound(environment, tmp_path):
    """What they do is tried in test_metrics.py."""
    fields = {"folder": str(tmp_path / "m"), "max_series": 3}
    log = in_a_run("metrics", lambda it: it.counter("x") and it._log, {"metrics": fields})
    assert log.path.parent == tmp_path / "m"
    assert log.recorded.max_series == 3


@tries("dlq.max_retries")
def test_an_entry_is_parked_after_as_many_replays_as_dlq_has(lake):
    lake.put_raw(NOON, snapshot(NOON, 5, line(id="15998", combined=f"{int(NOON.timestamp())}|7200|-1", bikes="x")))
    build_day()
    job = definitions().resolve_job_def("reprocess_dlq")
    assert job.execute_in_process(run_config={"resources": {"dlq": {"config": {"max_retries": 1}}}}).success
    assert [letter.status for letter in in_a_run("dlq", lambda it: it.list())] == ["parked"]


@tries("structlog.level", "structlog.correlation_id")
def test_a_logger_has_the_level_and_the_correlation_id_of_the_run(environment, caplog):
    def log(resource: Any) -> None:
        for level in ("debug", "info", "warning"):
            getattr(resource.get_logger(), level)("seen")

    fields = {"level": "warning", "correlation_id": "request-7"}
    levels, ids = {}, {}
    for name, config in {"as defined": {}, "debug": {"level": "debug"}, "warning": fields}.items():
        caplog.clear()
        in_a_run("structlog", log, {"structlog": config})
        ours = [record for record in caplog.records if hasattr(record, "wrm_values")]
        levels[name] = [record.levelname for record in ours]
        ids[name] = {record.wrm_values["correlation_id"] for record in ours}
    assert levels == {
        "as defined": ["INFO", "WARNING"],
        "debug": ["DEBUG", "INFO", "WARNING"],
        "warning": ["WARNING"],
    }
    assert ids["warning"] == {"request-7"}


# --- refusals ---


@pytest.mark.parametrize(
    ("key", "config", "words"),
    [
        ("lake", {"place": "s3://x"}, '"place"'),
        ("lake", {"bucket": "x"}, "bucket and folder are both set"),
        ("lake", {"prefix": "a//b"}, "prefix\n  Value error, is not a folder"),
        ("lake", {"endpoint_url": "ftp://x"}, "endpoint_url\n  Value error, is not a URL"),
        ("s3_resource", {"endpoint_url": "x"}, "endpoint_url\n  Value error, is not a URL"),
        ("s3_resource", {"max_attempts": 0}, "max_attempts\n"),
        ("s3_resource", {"deadline_s": 1.0}, "deadline_s is 1, which connect_timeout_s (3) and read_timeout_s (15)"),
        ("s3_resource", {"requests_per_s": 0}, "requests_per_s\n"),
        ("s3_resource", {"read_timeout_s": -1.0}, "read_timeout_s\n"),
        ("s3_resource", {"aws_access_key_id": "x"}, "aws_access_key_id and aws_secret_access_key belong together"),
        ("vault", {"address": "vault"}, "address\n  Value error, is not the address of a Vault"),
        ("vault", {"s3_path": "/"}, "s3_path\n  Value error, is empty"),
        ("vault", {"cacert": "/nowhere"}, "cacert\n  Value error, cannot be read"),
        ("vault", {"token": "x"}, '"token"'),
        ("redis_cache", {"url": "http://x"}, "url\n  Value error, is not a URL (not shown"),
        ("redis_cache", {"url": "redis://a", "host": "b"}, "url and host are both set"),
        ("redis_cache", {"db": 1}, "port and db need a host"),
        ("redis_cache", {"host": "h", "port": 70_000}, "port\n"),
        ("redis_cache", {"ttl": 0}, "ttl\n"),
        ("filesystem_cache", {"max_bytes": -1}, "max_bytes\n"),
        ("feed", {"feeds": "pigeon"}, "feeds\n  Value error, names 'pigeon', which is not a kind of feed"),
        ("feed", {"urls": {"ucl": "x"}}, "urls\n  Value error, is not a URL"),
        ("feed", {"urls": {"owl": "x"}}, "urls\n  Value error, names 'owl', which is not a kind of feed"),
        ("feed", {"max_bytes": 0}, "max_bytes\n"),
        ("feed", {"redirect_hosts": "a b"}, "redirect_hosts\n"),
        ("clock", {"fixed_at": "2025-08-21T12:00"}, "fixed_at\n  Value error, is not a time with an offset"),
        ("clock", {"fixed_at": "noon"}, "fixed_at\n"),
        ("duckdb", {"connection_config": {"tredds": 1}}, "connection_config: DuckDB does not take 'tredds'"),
        ("workers", {"executor": "magic"}, "executor\n  Value error, is not one of"),
        ("workers", {"count": 0}, "count\n"),
        ("alerts", {"ui_url": "x"}, "ui_url\n  Value error, is not a URL"),
        ("alerts", {"mail_to": "nobody"}, "mail_to\n  Value error, is not a list of mail addresses"),
        ("postgres_resource", {"sslmode": "maybe"}, "sslmode\n  Value error, is not one of disable, allow"),
        ("postgres_resource", {"schema_name": "a b"}, "schema_name\n  Value error, is not a schema's name"),
        ("postgres_resource", {"readers": "a b"}, "readers\n  Value error, is not a list of roles"),
        ("postgres_resource", {"port": 0}, "port\n"),
        ("postgres_resource", {"connect_timeout_s": 0}, "connect_timeout_s\n"),
        ("lineage", {"url": "http://user:s3cr3t-canary@h"}, "url\n  Value error, is not the address"),
        ("lineage", {"days": -1}, "days\n"),
        ("retention", {"history_days": 1}, "history_days\n"),
        ("metrics", {"max_series": 0}, "max_series\n"),
        ("dlq", {"max_retries": 0}, "max_retries\n"),
        ("structlog", {"level": "loud"}, "level\n"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(environment, key, config, words):
    said = refusal(key, config)
    assert words in said
    assert "canary" not in said


def test_every_field_of_every_resource_is_tried_here_and_documented():
    fields = {
        (key, name)
        for key, resource in (definitions().resources or {}).items()
        if isinstance(resource, BaseResource) and not isinstance(resource, BaseIOManager)
        for name, field in type(resource).model_fields.items()
        if not isinstance(getattr(resource, name), dg.ConfigurableResource) and name != "given"
        if field.description
    }
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)", RESOURCES_PAGE.read_text(), re.MULTILINE))
    assert {(key, name) for key, name in fields if f"`{name}`" not in rows.get(key, "")} == set()
    undescribed = {
        (key, name)
        for key, resource in (definitions().resources or {}).items()
        if isinstance(resource, BaseResource)
        for name, field in type(resource).model_fields.items()
        if not field.description and not isinstance(getattr(resource, name), dg.ConfigurableResource)
    }
    assert undescribed == {("vault", "given")}
    assert fields == TRIED
