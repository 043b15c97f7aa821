"""Credentials: their sources and order, the messages about them, and that none is ever shown."""

from __future__ import annotations

import json
import subprocess
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access
from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.secret_scan import ALLOW, Leak
from wrm_pipeline.clients.vault_errors import (
    VaultKeyMissingError,
    VaultLoginError,
    VaultPathMissingError,
    VaultSealedError,
    VaultValueError,
)
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.flows.ingest import take_snapshot
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.resources import dagster_storage
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.resources.feed import FeedResource
from wrm_pipeline.resources.lake import LakeResource, connect_store, s3_access
from wrm_pipeline.resources.vault import PostgresAccess, VaultResource, forget_secrets, secrets_of
from wrm_pipeline.settings import Settings, SettingsError, find, is_secret, load_settings, variables_of
from wrm_pipeline_tests.fixtures.canaries import shows
from wrm_pipeline_tests.fixtures.fake_vault import FakeVault
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import snapshot

CANARY = "CANARY-7c31"
S3 = {
    "endpoint_url": "https://s3.example.org",
    "access_key_id": f"{CANARY}-key",
    "secret_access_key": f"{CANARY}-secret",
    "region_name": "fsn1",
    "bucket_name": "bikes",
}


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def message_of_wrong(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    put(monkeypatch, **variables)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def error_of(ask: Callable[[], object]) -> ExternalError:
    with pytest.raises(ExternalError) as caught:
        ask()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVault]:
    with FakeVault(f"{CANARY}-secret-id") as server:
        server.put("wrm/s3", **S3)
        put(monkeypatch, **server.environment())
        yield server


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeVault]:
    with FakeVault(f"{CANARY}-secret-id", tls=tmp_path) as server:
        server.put("wrm/s3", **S3)
        put(monkeypatch, WRM_ENV="production", **server.environment())
        yield server


# --- The settings, together -----------------------------------------------------------------------------------------


def test_a_bucket_without_credentials_names_both_remedies(monkeypatch):
    message = message_of_wrong(monkeypatch, BUCKET_NAME="bikes", S3_ACCESS_KEY_ID=CANARY)
    assert "S3_SECRET_ACCESS_KEY" in message
    assert "VAULT_ADDR" in message


def test_a_bucket_needs_no_variables_with_keys_where_there_is_a_vault(monkeypatch):
    put(monkeypatch, BUCKET_NAME="bikes", VAULT_ADDR="https://vault:8200", VAULT_TOKEN=CANARY)
    assert load_settings().vault_addr == "https://vault:8200"


@pytest.mark.parametrize(
    "login", [{}, {"VAULT_ROLE_ID": CANARY}, {"VAULT_SECRET_ID": CANARY}], ids=["nothing", "role only", "secret only"]
)
def test_a_vault_without_a_login_stops_the_load(monkeypatch, login):
    message = message_of_wrong(monkeypatch, VAULT_ADDR="https://vault:8200", **login)
    for word in ("VAULT_ROLE_ID", "VAULT_SECRET_ID_FILE", "VAULT_TOKEN", "unset VAULT_ADDR"):
        assert word in message


@pytest.mark.parametrize("login", [{"VAULT_TOKEN": "t"}, {"VAULT_ROLE_ID": "r", "VAULT_SECRET_ID": "s"}])
def test_either_login_is_enough(monkeypatch, login):
    put(monkeypatch, VAULT_ADDR="https://vault:8200/", **login)
    assert load_settings().vault_addr == "https://vault:8200"


def test_in_production_all_that_makes_vault_unsafe_is_reported_at_once(monkeypatch):
    message = message_of_wrong(
        monkeypatch, WRM_ENV="production", VAULT_ADDR="http://vault:8200", VAULT_SKIP_VERIFY="true"
    )
    login, encryption, verification = message.splitlines()
    assert "VAULT_TOKEN" in login
    assert "http://vault:8200" in encryption
    assert "https://" in encryption
    assert "VAULT_SKIP_VERIFY" in verification
    assert "VAULT_CACERT" in verification


def test_outside_production_both_are_allowed_and_remarked_on(monkeypatch):
    put(monkeypatch, VAULT_ADDR="http://127.0.0.1:8200", VAULT_TOKEN="t", VAULT_SKIP_VERIFY="1")
    assert any("VAULT_SKIP_VERIFY" in warning for warning in load_settings().warnings)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("VAULT_ADDR", "vault:8200", "https://vault.example.org:8200"),
        ("VAULT_CACERT", "/nowhere/ca.pem", "PEM file"),
        ("VAULT_SKIP_VERIFY", "perhaps", "boolean"),
        ("REDIS_URL", f"127.0.0.1/{CANARY}", "redis://"),
        ("REDIS_URL", f"redis://:{CANARY}/x@h:6379/0", "%XX"),
        ("REDIS_URL", f"redis://:{CANARY}@h:notaport/0", "redis://"),
        ("WRM_ALERT_WEBHOOK_URL", f"hooks.example.org/{CANARY}", "https://"),
    ],
)
def test_a_wrong_value_of_a_url_is_reported_without_what_may_be_a_password(monkeypatch, name, value, remedy):
    message = message_of_wrong(monkeypatch, **{name: value})
    assert message.startswith(name)
    assert remedy in message
    assert CANARY not in message


def test_what_is_given_twice_is_said(monkeypatch, production):
    put(
        monkeypatch,
        BUCKET_NAME="bikes",
        MINIO_ACCESS_KEY=CANARY,
        S3_SECRET_ACCESS_KEY=CANARY,
        REDIS_URL="redis://h/0",
        VAULT_TOKEN=CANARY,
    )
    first, second = load_settings().warnings
    assert first.startswith("MINIO_ACCESS_KEY, S3_SECRET_ACCESS_KEY: not used, since in production")
    assert second.startswith("VAULT_TOKEN: not used")
    assert CANARY not in first + second


def test_what_leads_nowhere_is_said(monkeypatch):
    put(monkeypatch, VAULT_TOKEN=CANARY, S3_ACCESS_KEY_ID=CANARY)
    assert load_settings().warnings == (
        "VAULT_TOKEN: not used, since VAULT_ADDR is not set.",
        "S3_ACCESS_KEY_ID: not used, since BUCKET_NAME is not set.",
    )


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s3_secret_access_key", "S3_SECRET_ACCESS_KEY", "minio_secret_key"])
def test_systemd_credentials_are_files_named_like_the_variable(monkeypatch, tmp_path, name):
    (tmp_path / name).write_text(f"{CANARY}\n")
    put(monkeypatch, CREDENTIALS_DIRECTORY=str(tmp_path), S3_ACCESS_KEY_ID="k", BUCKET_NAME="b")
    assert load_settings().s3_secret_access_key.get_secret_value() == CANARY
    assert find("s3_secret_access_key").origin == f"file {tmp_path / name} ($CREDENTIALS_DIRECTORY)"


def test_variable_then_its_file_then_the_credential(monkeypatch, tmp_path):
    (tmp_path / "redis_url").write_text("redis://credential/0")
    (tmp_path / "other").write_text("redis://file/0")
    put(monkeypatch, CREDENTIALS_DIRECTORY=str(tmp_path))
    found = [load_settings().redis_url.get_secret_value()]
    put(monkeypatch, REDIS_URL_FILE=str(tmp_path / "other"))
    found.append(load_settings().redis_url.get_secret_value())
    put(monkeypatch, REDIS_URL="redis://variable/0")
    found.append(load_settings().redis_url.get_secret_value())
    assert found == ["redis://credential/0", "redis://file/0", "redis://variable/0"]


def test_the_preferred_name_wins_however_it_is_given(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-the-file")
    put(monkeypatch, MINIO_ACCESS_KEY="minio", S3_ACCESS_KEY_ID_FILE=str(tmp_path / "key"))
    assert load_settings().s3_access_key_id.get_secret_value() == "from-the-file"


def test_a_wrong_value_in_a_file_names_the_variable_of_that_file(monkeypatch, tmp_path):
    (tmp_path / "wrm_env").write_text("prod")
    message = message_of_wrong(monkeypatch, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert message.startswith("WRM_ENV='prod': ")


def test_an_empty_credential_names_its_file(monkeypatch, tmp_path):
    (tmp_path / "postgres_password").write_text("\n")
    message = message_of_wrong(monkeypatch, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert message == f"The credential {tmp_path / 'postgres_password'} is empty. Write the value into it."


SECRET_VARIABLES = [variables_of(name)[0] for name in Settings.model_fields if is_secret(name)]


@pytest.mark.parametrize("name", SECRET_VARIABLES)
@pytest.mark.parametrize(
    ("written", "word"),
    [
        (f"{CANARY}\nX-Other: 1", "a line break at position 12 of 22"),
        (f"{CANARY}\r{CANARY}", "at position 12 of 23"),
        (f"{CANARY}\0", "a NUL"),
        (f"{CANARY}\x1b[2J", "U+001B"),
        (f"{CANARY}\u200b{CANARY}", "ZERO WIDTH SPACE"),
        (f"{CANARY}\u2028{CANARY}", "LINE SEPARATOR"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "file", "credential"])
def test_a_secret_of_more_than_one_line_is_refused_by_its_name(monkeypatch, tmp_path, name, written, word, way):
    (tmp_path / name.lower()).write_text(written)
    if way == "variable" and "\0" not in written:
        put(monkeypatch, **{name: written})
    elif way == "file":
        put(monkeypatch, **{f"{name}_FILE": str(tmp_path / name.lower())})
    else:
        put(monkeypatch, CREDENTIALS_DIRECTORY=str(tmp_path))
    message = message_of_wrong(monkeypatch)
    assert message.startswith(f"{name} (")
    assert word in message
    assert "(not shown)" in message
    assert CANARY not in message


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\t", "\ufeff", "\u200b", "\n\n "])
def test_what_an_editor_leaves_around_a_secret_is_taken_off(monkeypatch, tmp_path, around):
    (tmp_path / "token").write_text(f"{around}{CANARY}{around}")
    put(
        monkeypatch,
        VAULT_ADDR="https://v:8200",
        VAULT_TOKEN=f"{CANARY}{around}",
        OPENLINEAGE_API_KEY=f"{around}{CANARY}",
    )
    put(monkeypatch, POSTGRES_PASSWORD_FILE=str(tmp_path / "token"))
    settings = load_settings()
    for value in (settings.vault_token, settings.openlineage_api_key, settings.postgres_password):
        assert value.get_secret_value() == CANARY


@pytest.mark.parametrize("name", ["VAULT_TOKEN", "OPENLINEAGE_API_KEY", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"])
def test_what_travels_in_a_header_is_ascii(monkeypatch, name):
    message = message_of_wrong(monkeypatch, **{name: f"{CANARY}–x"})
    wanted = f"{name} (environment variable {name}) contains EN DASH at position 12 of 13 (not shown)."
    assert message.startswith(wanted)


def test_a_password_may_have_letters_of_any_language(monkeypatch):
    put(monkeypatch, POSTGRES_PASSWORD="żółw i wąż")
    assert load_settings().postgres_password.get_secret_value() == "żółw i wąż"


@pytest.mark.parametrize("name", ["BUCKET_NAME", "WRM_STATIONS_DATA_URL", "OPENLINEAGE_URL", "POSTGRES_HOST"])
def test_what_is_no_secret_is_one_line_as_well(monkeypatch, name):
    assert message_of_wrong(monkeypatch, **{name: "http://h/\nx"}).startswith(f"{name} (")


@pytest.mark.parametrize("key", ["access_key_id", "secret_access_key"])
def test_a_value_in_vault_is_stripped_and_one_of_two_lines_is_refused(fake, key):
    fake.put("wrm/s3", **{**S3, key: f"{S3[key]}\n"})
    access = s3_access(load_settings())
    assert (access.access_key_id, access.secret_access_key) == (S3["access_key_id"], S3["secret_access_key"])
    forget_secrets()
    fake.put("wrm/s3", **{**S3, key: f"{CANARY}\nsecond line"})
    error = error_of(lambda: s3_access(load_settings()))
    assert type(error) is VaultValueError
    assert f"{key} contains a line break at position 12" in str(error)
    assert "wrm/s3" in str(error)


def test_a_token_of_two_lines_is_not_tried_again_and_not_shown(monkeypatch, tmp_path, fake):
    """It came into the file after the process had begun."""
    for name in ("VAULT_ROLE_ID", "VAULT_SECRET_ID"):
        monkeypatch.delenv(name)
    file = tmp_path / "token"
    file.write_text(CANARY)
    put(monkeypatch, VAULT_TOKEN_FILE=str(file))
    secrets = secrets_of(load_settings())
    file.write_text(f"{CANARY}\n{CANARY}")
    error = error_of(secrets.s3)
    assert type(error) is VaultLoginError
    assert str(error).startswith("vault login: VAULT_TOKEN (file ")
    assert fake.requests == []


FEED_TOKEN = "kQ7dZx3vLm9p-canary"


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:9/?scheme=w&token={FEED_TOKEN}",
        f"http://feed:{FEED_TOKEN}@127.0.0.1:9/",
        f"http://{FEED_TOKEN}@127.0.0.1:9/",
        f"http://127.0.0.1:9/?api-key={FEED_TOKEN}#x",
    ],
)
def test_the_feeds_credentials_are_shown_by_no_command_and_no_definition(monkeypatch, capsys, url):
    put(monkeypatch, WRM_STATIONS_DATA_URL=url)
    assert main(["config"]) == 0
    assert main(["doctor"]) == 1
    said = "".join(capsys.readouterr())
    assert "***" in said
    settings = load_settings()
    defs = build_defs(settings)
    snapshot_text = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
    assert "127.0.0.1:9/" in snapshot_text
    assert not shows(said + snapshot_text + repr(defs.resources), FEED_TOKEN)
    assert FeedResource.of(settings).clients[0].url == url


# --- Credentials from Vault -----------------------------------------------------------------------------------------


def test_s3_comes_from_vault_and_one_login_serves_all(fake):
    settings = load_settings()
    assert isinstance(connect_store(settings), S3ObjectStore)
    access = s3_access(settings)
    assert (access.bucket, access.endpoint_url, access.region_name) == ("bikes", "https://s3.example.org", "fsn1")
    assert (access.access_key_id, access.secret_access_key) == (S3["access_key_id"], S3["secret_access_key"])
    assert LakeResource.of(load_settings()).database.s3 == access
    assert fake.asked() == [
        "POST /v1/auth/approle/login",
        "GET /v1/secret/data/wrm/s3",
        "GET /v1/secret/data/wrm/redis",  # where the breakers' state is
    ]


def test_variables_fill_in_what_is_no_secret(monkeypatch, fake):
    fake.put("wrm/s3", access_key_id="k", secret_access_key="s")
    put(monkeypatch, BUCKET_NAME="other", S3_ENDPOINT_URL="https://elsewhere", S3_REGION_NAME="nbg1")
    access = s3_access(load_settings())
    assert (access.bucket, access.endpoint_url, access.region_name) == ("other", "https://elsewhere", "nbg1")


def test_two_buckets_are_one_too_many(monkeypatch, fake):
    put(monkeypatch, BUCKET_NAME="other")
    error = error_of(lambda: s3_access(load_settings()))
    assert type(error) is VaultValueError
    assert "bucket_name is 'bikes', but BUCKET_NAME is 'other'" in str(error)


@pytest.mark.parametrize(
    ("values", "kind", "word"),
    [
        ({**S3, "secret_access_key": ""}, VaultKeyMissingError, "secret_access_key"),
        ({**S3, "bucket_name": None}, VaultKeyMissingError, "bucket_name"),
        ({**S3, "endpoint_url": f"s3.{CANARY}"}, VaultValueError, "endpoint_url"),
    ],
)
def test_what_is_incomplete_or_wrong_names_the_key(fake, values, kind, word):
    fake.put("wrm/s3", **values)
    error = error_of(lambda: connect_store(load_settings()))
    assert type(error) is kind
    assert word in str(error)


def test_no_vault_path_for_s3_is_no_local_folder(fake):
    fake._versions.clear()
    assert type(error_of(lambda: connect_store(load_settings()))) is VaultPathMissingError


def test_redis_webhook_and_postgres_may_be_missing(fake):
    secrets = secrets_of(load_settings())
    assert (secrets.redis_url(), secrets.webhook_url(), secrets.postgres()) == (None, None, None)


def test_redis_webhook_and_postgres_come_from_vault(monkeypatch, fake):
    fake.put("wrm/redis", url=f"redis://:{CANARY}@h/0")
    fake.put("wrm/alerts", webhook_url=f"https://hooks.example.org/{CANARY}")
    fake.put("wrm/postgres", host="db", port=5433, user="wrm", password=CANARY)
    put(monkeypatch, POSTGRES_DB="dagster")
    secrets = secrets_of(load_settings())
    assert secrets.redis_url() == f"redis://:{CANARY}@h/0"
    assert secrets.webhook_url() == f"https://hooks.example.org/{CANARY}"
    assert secrets.postgres() == PostgresAccess("db", 5433, "dagster", "wrm", CANARY)
    assert CANARY not in f"{secrets!r} {secrets.postgres()!r} {secrets.s3()!r} {secrets.vault!r}"


@pytest.mark.parametrize(
    ("path", "values", "ask"),
    [
        ("wrm/redis", {"url": f"redis://:{CANARY}/x@h"}, "redis_url"),
        ("wrm/redis", {"uri": CANARY}, "redis_url"),
        ("wrm/alerts", {"webhook_url": CANARY}, "webhook_url"),
        ("wrm/postgres", {"host": "h", "port": CANARY, "password": CANARY}, "postgres"),
        ("wrm/postgres", {"host": "h"}, "postgres"),
    ],
)
def test_a_value_that_cannot_be_right_is_not_shown(fake, path, values, ask):
    fake.put(path, **values)
    assert path in str(error_of(getattr(secrets_of(load_settings()), ask)))


def test_a_redis_url_without_a_password_needs_no_vault(monkeypatch, fake):
    put(monkeypatch, REDIS_URL="redis://127.0.0.1:9/0")
    assert secrets_of(load_settings()).redis_url() == "redis://127.0.0.1:9/0"
    assert fake.requests == []


def test_in_production_variables_do_not_stand_in_for_vault(monkeypatch, production):
    put(
        monkeypatch,
        BUCKET_NAME="bikes",
        S3_ACCESS_KEY_ID=CANARY,
        S3_SECRET_ACCESS_KEY=CANARY,
        REDIS_URL=f"redis://:{CANARY}@h/0",
        POSTGRES_HOST="h",
        POSTGRES_PASSWORD=CANARY,
    )
    assert s3_access(load_settings()).access_key_id == S3["access_key_id"]
    assert secrets_of(load_settings()).redis_url() is None
    assert type(error_of(secrets_of(load_settings()).postgres)) is VaultPathMissingError
    production.sealed = True
    forget_secrets()
    for ask in ("s3", "redis_url", "postgres"):
        assert type(error_of(getattr(secrets_of(load_settings()), ask))) is VaultSealedError


def test_elsewhere_they_do_and_the_log_says_so(monkeypatch, fake, caplog):
    put(monkeypatch, BUCKET_NAME="bikes", S3_ACCESS_KEY_ID="mine", S3_SECRET_ACCESS_KEY=CANARY)
    fake.sealed = True
    assert s3_access(load_settings()).access_key_id == "mine"
    assert "The variables are used, since WRM_ENV is local: vault login for secret/wrm/s3" in caplog.text
    assert CANARY not in caplog.text


def test_elsewhere_an_incomplete_set_of_variables_does_not(monkeypatch, fake):
    put(monkeypatch, S3_ACCESS_KEY_ID="mine", S3_SECRET_ACCESS_KEY="x")  # and no bucket
    fake.sealed = True
    assert type(error_of(lambda: connect_store(load_settings()))) is VaultSealedError


def test_a_rotated_secret_id_in_a_file_is_used_by_the_process_that_runs(monkeypatch, tmp_path, fake):
    file = tmp_path / "secret_id"
    file.write_text(f"{CANARY}-secret-id")
    monkeypatch.delenv("VAULT_SECRET_ID")
    put(monkeypatch, VAULT_SECRET_ID_FILE=str(file))
    secrets = secrets_of(load_settings())
    secrets.s3()
    fake.rotate_secret_id(f"{CANARY}-next")
    fake.expire_tokens()
    file.write_text(f"{CANARY}-next\n")
    assert secrets.redis_url() is None  # 403, login, 404
    assert fake.logins == {f"{CANARY}-secret-id": 1, f"{CANARY}-next": 1}


def test_a_secret_id_file_that_went_away_is_named(monkeypatch, tmp_path, fake):
    file = tmp_path / "secret_id"
    file.write_text(CANARY)
    monkeypatch.delenv("VAULT_SECRET_ID")
    put(monkeypatch, VAULT_SECRET_ID_FILE=str(file))
    secrets = secrets_of(load_settings())
    file.unlink()
    error = error_of(secrets.s3)
    assert type(error) is VaultLoginError
    assert str(file) in str(error)


def test_the_breakers_of_vault_and_feed_do_not_wait_for_vault(fake, caplog):
    fake.sealed = True
    breakers = connect_breakers(load_settings())
    breakers.of("vault").failed()
    breakers.of("feed").failed()
    assert fake.requests == []
    breakers.of("s3").failed()
    assert "Circuit breakers keep their state in files: vault login" in caplog.text
    folder = load_settings().breaker_dir
    assert sorted(path.name for path in folder.iterdir()) == ["feed.json", "s3.json", "vault.json"]


def test_while_vault_is_away_the_feed_is_fetched_and_spooled(fake):
    fake.sealed = True
    lake = LakeResource.of(load_settings())
    noon = datetime(2025, 8, 21, 12, tzinfo=UTC)
    with FaultServer(then=Answer(200, snapshot(noon))) as feed:
        result = take_snapshot(Feed(feed.url, now=lambda: noon), lambda: lake.store, lake.layout, lake.spool)
    assert result.spooled
    assert "Vault is sealed" in result.spool_reason
    assert [body.read() for body in lake.spool.waiting()] == [snapshot(noon)]


def test_the_resource_holds_paths_and_nothing_else(monkeypatch, fake):
    fake.put("elsewhere/s3", **{**S3, "region_name": "hel1"})
    assert VaultResource.of(load_settings(), s3_path="elsewhere/s3").secrets.s3().region_name == "hel1"
    configured = VaultResource.of(load_settings()).model_dump(exclude={"given"})
    assert {name: path for name, path in configured.items() if name.endswith("_path")} == {
        "s3_path": "wrm/s3",
        "redis_path": "wrm/redis",
        "alerts_path": "wrm/alerts",
        "postgres_path": "wrm/postgres",
        "serving_path": "wrm/serving",
    }
    with pytest.raises(Exception, match="secret_id"):
        VaultResource.of(load_settings(), secret_id=CANARY)  # type: ignore[call-arg]


def test_no_secret_is_in_the_code_locations_snapshot(monkeypatch, fake):
    put(
        monkeypatch,
        BUCKET_NAME="bikes",
        S3_ACCESS_KEY_ID=CANARY,
        S3_SECRET_ACCESS_KEY=CANARY,
        REDIS_URL=f"redis://:{CANARY}@h/0",
        WRM_ALERT_WEBHOOK_URL=f"https://h/{CANARY}",
        POSTGRES_HOST="h",
        POSTGRES_PASSWORD=CANARY,
        VAULT_TOKEN=CANARY,
    )
    settings = load_settings()
    defs = build_defs(settings)
    text = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
    assert "bikes" in text
    assert "wrm/alerts" in text
    for shown in (text, repr(settings), str(settings), settings.model_dump_json(), repr(defs), str(settings.warnings)):
        assert CANARY not in shown
    assert fake.requests == []


DENIED = Answer(
    403,
    (
        "<Error><Code>InvalidAccessKeyId</Code><Message>No such key.</Message>"
        f"<AWSAccessKeyId>{CANARY}-key</AWSAccessKeyId></Error>"
    ).encode(),
    {"Content-Type": "application/xml"},
)


@pytest.mark.parametrize("opened", ["refresh", "reading"])
def test_the_access_key_that_duckdb_quotes_is_masked(tmp_path, opened):
    database = AnalyticsDatabase(tmp_path / "analytics.duckdb")
    with database.refresh():
        pass
    with FaultServer(then=DENIED) as server:
        access = S3Access("bikes", server.url, f"{CANARY}-key", f"{CANARY}-secret", None)
        with (
            pytest.raises(duckdb.HTTPException) as caught,
            getattr(replace(database, s3=access), opened)() as connection,
        ):
            connection.execute("FROM read_parquet('s3://bikes/x.parquet')")
    assert 'Invalid Access Key: "***"' in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# --- wrm config -----------------------------------------------------------------------------------------------------


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    return {row["name"]: (row["value"], row["origin"]) for row in json.loads(captured.out)["settings"]}


def test_config_says_where_each_value_comes_from(monkeypatch, tmp_path, capsys, environment):
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "redis_url").write_text(f"redis://:{CANARY}@h/0")
    put(
        monkeypatch,
        BUCKET_NAME="bikes",
        HETZNER_ACCESS_KEY_ID=CANARY,
        S3_SECRET_ACCESS_KEY_FILE=str(tmp_path / "secret"),
        CREDENTIALS_DIRECTORY=str(tmp_path),
        WRM_STATIONS_DATA_URL=f"https://me:{CANARY}@feed.example.org/x",
    )
    assert main(["config", "--json"]) == 0
    rows = rows_of(capsys)
    assert rows["BUCKET_NAME"] == ("bikes", "environment variable BUCKET_NAME")
    assert rows["HETZNER_ACCESS_KEY_ID"] == ("********", "environment variable HETZNER_ACCESS_KEY_ID")
    assert rows["S3_SECRET_ACCESS_KEY"] == ("********", f"file {tmp_path / 'secret'} (S3_SECRET_ACCESS_KEY_FILE)")
    assert rows["REDIS_URL"] == ("********", f"file {tmp_path / 'redis_url'} ($CREDENTIALS_DIRECTORY)")
    assert rows["WRM_DATA_DIR"] == (str(environment), "environment variable WRM_DATA_DIR")
    assert rows["WRM_ENV"] == ("local", "default")
    assert rows["WRM_ALERT_WEBHOOK_URL"] == ("", "default")
    assert rows["WRM_STATIONS_DATA_URL"][0] == "https://***@feed.example.org/x"


def test_config_shows_what_vault_gives(monkeypatch, capsys, production):
    put(monkeypatch, REDIS_URL=f"redis://:{CANARY}@h/0", S3_ACCESS_KEY_ID=CANARY)
    assert main(["config", "--json"]) == 0
    rows = rows_of(capsys)
    assert rows["S3_ENDPOINT_URL"] == ("https://s3.example.org", "Vault secret/wrm/s3 (endpoint_url)")
    assert rows["S3_ACCESS_KEY_ID"] == ("********", "Vault secret/wrm/s3 (access_key_id)")
    assert rows["BUCKET_NAME"] == ("bikes", "Vault secret/wrm/s3 (bucket_name)")
    assert rows["REDIS_URL"] == ("", "not in Vault")
    assert rows["POSTGRES_PORT"] == ("5432", "default")
    assert rows["VAULT_SECRET_ID"] == ("********", "environment variable VAULT_SECRET_ID")


def test_config_is_a_table_for_people_with_what_is_odd_below(monkeypatch, capsys, production):
    production.sealed = True
    put(monkeypatch, S3_ACCESS_KEY_ID=CANARY)
    assert main(["config"]) == 1
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    assert captured.out.startswith("name ")
    assert ["S3_SECRET_ACCESS_KEY", "Vault", "did", "not", "say"] in [
        line.split() for line in captured.out.splitlines()
    ]
    assert "S3_ACCESS_KEY_ID: not used, since in production" in captured.out
    assert captured.out.count("vault operator unseal") == 1


def test_doctor_says_what_is_in_vault(monkeypatch, capsys, production):
    put(monkeypatch, WRM_STATIONS_DATA_URL="http://127.0.0.1:9/")
    production.put("wrm/s3", **{**S3, "endpoint_url": "http://127.0.0.1:9"})
    main(["doctor", "--json"])
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    finding = next(f for f in json.loads(captured.out) if f["name"] == "vault")
    assert finding["status"] == "ok"
    assert finding["got"] == (
        "wrm/s3 (access_key_id, bucket_name, endpoint_url, region_name, secret_access_key); "
        "missing: wrm/redis, wrm/alerts, wrm/postgres"
    )
    production.sealed = True
    main(["doctor", "--json"])
    finding = next(f for f in json.loads(capsys.readouterr().out) if f["name"] == "vault")
    assert (finding["status"], "vault operator unseal" in finding["todo"]) == ("failed", True)


# --- wrm secrets import ---------------------------------------------------------------------------------------------

ENV_FILE = f"""
# the old way
export BUCKET_NAME=bikes
HETZNER_ENDPOINT_URL="https://fsn1.example.org"
HETZNER_ACCESS_KEY_ID={CANARY}-new-key
HETZNER_SECRET_ACCESS_KEY='{CANARY}-pa$$word#${{HOME}}'
REDIS_URL=redis://:{CANARY}@h/0
POSTGRES_PASSWORD=
WRM_ENV=production
SOMEBODY_ELSES_TOKEN={CANARY}
"""


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / ".env"
    file.write_text(ENV_FILE)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    return status, captured.out + captured.err


def test_import_shows_names_and_writes_nothing_at_first(fake, env_file, capsys):
    status, text = run(capsys, "secrets", "import", env_file)
    assert status == 0
    changes = [tuple(line.split()) for line in text.splitlines() if "secret/wrm" in line]
    assert changes == [
        ("HETZNER_ENDPOINT_URL", "secret/wrm/s3", "endpoint_url", "changed"),
        ("HETZNER_ACCESS_KEY_ID", "secret/wrm/s3", "access_key_id", "changed"),
        ("HETZNER_SECRET_ACCESS_KEY", "secret/wrm/s3", "secret_access_key", "changed"),
        ("BUCKET_NAME", "secret/wrm/s3", "bucket_name", "unchanged"),
        ("REDIS_URL", "secret/wrm/redis", "url", "new"),
    ]
    assert "these stay: WRM_ENV, SOMEBODY_ELSES_TOKEN" in text
    assert "Nothing is written yet" in text
    assert fake.asked("POST /v1/secret") == []
    assert fake.version("wrm/s3") == 1


def test_import_writes_on_request_keeps_what_it_does_not_know_and_can_be_repeated(fake, env_file, capsys):
    fake.put("wrm/s3", **S3, comment="keep me")
    assert run(capsys, "secrets", "import", env_file, "--write")[0] == 0
    assert fake.newest("wrm/s3") == {
        "endpoint_url": "https://fsn1.example.org",
        "access_key_id": f"{CANARY}-new-key",
        "secret_access_key": f"{CANARY}-pa$$word#${{HOME}}",
        "region_name": "fsn1",
        "bucket_name": "bikes",
        "comment": "keep me",
    }
    assert fake.newest("wrm/redis") == {"url": f"redis://:{CANARY}@h/0"}
    assert fake.version("wrm/postgres") == 0
    assert "Nothing to write" in run(capsys, "secrets", "import", env_file, "--write")[1]
    assert (fake.version("wrm/s3"), fake.version("wrm/redis")) == (3, 1)


def test_import_over_a_deleted_version(fake, env_file, capsys):
    fake.delete("wrm/s3")
    assert run(capsys, "secrets", "import", env_file, "--write")[0] == 0
    assert fake.newest("wrm/s3")["access_key_id"] == f"{CANARY}-new-key"


def test_import_follows_names_of_files(fake, tmp_path, capsys):
    (tmp_path / "key").write_text(f"{CANARY}-file\n")
    (tmp_path / ".env").write_text(f"S3_SECRET_ACCESS_KEY_FILE={tmp_path / 'key'}\n")
    _, text = run(capsys, "secrets", "import", tmp_path / ".env", "--write")
    assert "these stay" not in text
    assert fake.newest("wrm/s3")["secret_access_key"] == f"{CANARY}-file"


def test_import_that_may_not_write_says_which_right_it_needs(fake, env_file, capsys):
    fake.denied.add("wrm/redis")
    status, text = run(capsys, "secrets", "import", env_file, "--write")
    assert status == 1
    assert "secret/data/wrm/redis" in text
    assert fake.version("wrm/s3") == 1, "nothing is written before everything was read"


def test_import_needs_a_vault_and_a_file(monkeypatch, fake, tmp_path, capsys):
    assert run(capsys, "secrets", "import", tmp_path / "none")[0] == 2
    monkeypatch.delenv("VAULT_ADDR")
    status, text = run(capsys, "secrets", "import", tmp_path / "none")
    assert status == 2
    assert "VAULT_ADDR" in text


# --- wrm secrets scan -----------------------------------------------------------------------------------------------

IN_USE = "swordfish-" + "fish-2024"


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A value in use that was committed and removed, one on another branch, one that is ignored, one in a message."""
    put(monkeypatch, BUCKET_NAME="b", S3_ACCESS_KEY_ID="k", S3_SECRET_ACCESS_KEY=IN_USE)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--initial-branch=main")
    (folder / "a file.py").write_text(f"x = 1\n\ntoken = '{IN_USE}'\n++ b/odd.py\n")
    (folder / ".gitignore").write_text(".env\n.venv/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    (folder / "a file.py").write_text(f"x = 1\nfake = '{IN_USE}'  # {ALLOW}\n")
    git(folder, "commit", "-am", f"second\n\nmore\ntoken was {IN_USE}")
    git(folder, "switch", "-c", "other")
    (folder / "other.yml").write_text(f"password: {IN_USE}\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "third")
    git(folder, "switch", "main")
    (folder / ".env").write_text(f"S3_SECRET_ACCESS_KEY={IN_USE}\n")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "lib.py").write_text(f"token = '{IN_USE}'\n")
    (folder / "untracked.bin").write_bytes(f"\0{IN_USE}".encode())
    return folder


def test_scan_finds_places_in_files_and_in_all_of_history(repository, capsys):
    assert main(["secrets", "scan", str(repository), "--json"]) == 1
    text = capsys.readouterr().out
    assert IN_USE not in text
    leaks = [Leak(**leak) for leak in json.loads(text)]
    assert {leak.variable for leak in leaks} == {"S3_SECRET_ACCESS_KEY"}
    assert [(leak.path, leak.line, bool(leak.commit)) for leak in leaks] == [
        (".env", 1, False),
        ("a file.py", 3, True),
        ("other.yml", 1, True),
        ("message", 4, True),
    ]
    commits = subprocess.run(
        ["git", "log", "--reverse", "--format=%H", "main"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.split()
    assert [leaks[1].commit, leaks[3].commit] == commits


def test_scan_for_people(repository, capsys):
    assert main(["secrets", "scan", str(repository)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ".env:1  the value that S3_SECRET_ACCESS_KEY has now"
    assert lines[1].startswith("commit ")
    assert lines[1].endswith("  a file.py:3  the value that S3_SECRET_ACCESS_KEY has now")
    assert lines[-2].startswith("4 found in the files and the git history of ")


def test_scan_without_a_repository(monkeypatch, tmp_path, capsys):
    put(monkeypatch, BUCKET_NAME="b", S3_ACCESS_KEY_ID="k", S3_SECRET_ACCESS_KEY=IN_USE)
    (tmp_path / "x.yml").write_text(f"password: {IN_USE}\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "y.yml").write_text(f"password: {IN_USE}\n")
    assert main(["secrets", "scan", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "x.yml:1  the value that S3_SECRET_ACCESS_KEY has now"
    (tmp_path / "x.yml").unlink()
    assert main(["secrets", "scan", str(tmp_path)]) == 0
    assert main(["secrets", "scan", str(tmp_path / "none")]) == 2


def test_variables_name_other_paths_for_every_process(monkeypatch, fake):
    """Dagster's storage, commands and the exporter have no resources: settings are what they ask by."""
    fake.put("team/s3", **S3)
    fake.put("team/redis", url="redis://127.0.0.1:9/0")
    fake.put("team/alerts", webhook_url="http://127.0.0.1:9/")
    fake.put("team/postgres", host="db", db="d", user="u", password="p")
    put(
        monkeypatch,
        VAULT_S3_PATH="team/s3",
        VAULT_REDIS_PATH="team/redis/",
        VAULT_ALERTS_PATH="/team/alerts",
        VAULT_POSTGRES_PATH="team/postgres",
    )
    made: list[str] = []
    monkeypatch.setattr(
        dagster_storage.PostgresStorage, "__init__", lambda _, postgres_url, **__: made.append(postgres_url)
    )
    dagster_storage.PostgresStorage.from_config_value(None, {})
    assert made == ["postgresql+psycopg2://u:p@db:5432/d"]
    secrets = secrets_of(load_settings())
    assert (secrets.redis_url(), secrets.webhook_url()) == ("redis://127.0.0.1:9/0", "http://127.0.0.1:9/")
    assert connect_store(load_settings()).name == "s3://bikes"
    assert {path.partition("/data/")[2] for path in fake.asked()} - {""} == {
        "team/s3",
        "team/redis",
        "team/alerts",
        "team/postgres",
    }
