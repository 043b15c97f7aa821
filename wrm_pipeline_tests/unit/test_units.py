"""The units of the deployment: each gets the credentials that it uses, and they suffice."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml

from wrm_pipeline.resources.vault import secrets_of
from wrm_pipeline.settings import Settings, load_settings
from wrm_pipeline_tests.fixtures.deployed import ANSIBLE, unit, values

GIVEN = {
    "postgres_password": "the-password",
    "redis_url": "redis://:the-redis-password@127.0.0.1:6379/0",
    "s3_access_key_id": "the-key-id",
    "s3_secret_access_key": "the-secret-key",
    "alert_webhook_url": "https://hooks.example/x",
    "openlineage_api_key": "the-lineage-key",
    "smtp_url": "smtp://me:the-mail-password@mail.example:587",  # pragma: allowlist secret
    "postgres_serving_password": "the-serving-password",  # pragma: allowlist secret
}
DATABASE, STORE, CACHE = {"postgres_password"}, {"s3_access_key_id", "s3_secret_access_key"}, {"redis_url"}
# docs/secrets.md has the same table.
WANTED = {
    "dagster-code@.service": set(GIVEN),
    "dagster-daemon.service": DATABASE,
    "dagster-webserver.service": DATABASE,
    "dagster-look.service": DATABASE,
    "wrm-exporter.service": DATABASE | STORE | CACHE,
    "wrm-reports.service": STORE,
    "wrm-gate@.service": set(GIVEN),
    "wrm-migrate@.service": DATABASE,
    "wrm-backup.service": DATABASE | STORE | {"wrm_backup_key"},
    "wrm-restore-test.service": STORE | {"wrm_backup_key"},
    "wrm-prune.service": DATABASE,
}
SETTINGS = {
    "WRM_ENV": "production",
    "BUCKET_NAME": "bikes",
    "S3_ENDPOINT_URL": "https://s3.example",
    "POSTGRES_HOST": "127.0.0.1",
    "POSTGRES_DB": "wrm",
    "POSTGRES_USER": "wrm",
    "POSTGRES_SERVING_HOST": "127.0.0.1",
    "POSTGRES_SERVING_DB": "serving",
    "POSTGRES_SERVING_USER": "serving",
    "WRM_MAIL_TO": "a@example.org",
}


def credentials_of(text: str) -> set[str]:
    return {value.partition(":")[0] for value in values(text, "LoadCredential")}


def test_the_table_has_every_unit() -> None:
    templates = [*ANSIBLE.glob("roles/*/templates/units/*.service.j2")]
    assert {path.name.removesuffix(".j2") for path in templates} == WANTED.keys()


@pytest.mark.parametrize("name", WANTED)
def test_a_unit_gets_the_credentials_that_it_uses(name: str) -> None:
    assert credentials_of(unit(name, GIVEN)) == WANTED[name]
    # With Vault there is one thing that opens it, and each of them asks it for something.
    backup = WANTED[name] & {"wrm_backup_key"}
    assert credentials_of(unit(name, ["vault_secret_id"])) == {"vault_secret_id"} | backup
    # What nobody knows, say the key of a feed, is for what fetches.
    unknown = credentials_of(unit(name, ["some_feed_token"])) - {"wrm_backup_key"}
    assert unknown == ({"some_feed_token"} if WANTED[name] == set(GIVEN) else set())


@pytest.mark.parametrize("name", WANTED)
def test_no_unit_leaves_a_core_dump_or_a_secret_in_its_environment(name: str) -> None:
    text = unit(name, GIVEN)
    assert values(text, "LimitCORE") == ["0"]
    assert not any(value in text for value in GIVEN.values())


@pytest.mark.parametrize("name", WANTED)
def test_these_credentials_suffice(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = unit(name, GIVEN)
    for variable in Settings.model_fields.values():
        if variable.alias:
            monkeypatch.delenv(variable.alias, raising=False)
    unset = " ".join(values(text, "UnsetEnvironment")).split()
    for variable_name, value in {**SETTINGS, "WRM_DATA_DIR": str(tmp_path)}.items():
        if variable_name not in unset:
            monkeypatch.setenv(variable_name, value)
    for credential in credentials_of(text):
        (tmp_path / credential).write_text(GIVEN.get(credential, "k" * 43))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load_settings()
    found, wanted = secrets_of(settings), WANTED[name]
    access = found.postgres()
    assert access is not None
    assert (access.password == "the-password") == (wanted >= DATABASE)
    keys = found.s3()
    assert (keys is not None and keys.secret_access_key == "the-secret-key") == (wanted >= STORE)
    assert (found.redis_url() is not None) == (wanted >= CACHE)
    has_all = wanted == set(GIVEN)
    assert (found.webhook_url() == GIVEN["alert_webhook_url"]) == has_all
    assert (found.smtp_url() == GIVEN["smtp_url"]) == has_all
    assert (found.serving_postgres("127.0.0.1").password == GIVEN["postgres_serving_password"]) == has_all


def test_the_operators_commands_leave_no_core_dump() -> None:
    for path in ("dagster/templates/wrm.sh.j2", "backup/templates/wrm-backup.sh.j2"):
        assert "--property=LimitCORE=0" in (ANSIBLE / "roles" / path).read_text()


@pytest.mark.parametrize("name", ["dagster-webserver", "dagster-look"])
def test_only_nginx_may_open_the_web_servers_socket(name: str) -> None:
    text = unit(f"{name}.socket", GIVEN)
    assert (values(text, "SocketUser"), values(text, "SocketGroup"), values(text, "SocketMode")) == (
        ["root"], ["www-data"], ["0660"],
    )  # fmt: skip
    service = unit(f"{name}.service", GIVEN)
    command = values(service, "ExecStart")[0]
    assert "webserver.py" in command
    assert "--port" not in command
    assert ("--read-only" in command) == (name == "dagster-look")
    assert f"Requires={name}.socket" in service


def test_the_documented_table_is_this_one() -> None:
    rows = re.findall(r"^\| `([a-z@.-]+\.service)` \| (.*?) \|", _documented(), re.MULTILINE)
    words = {"everything": set(GIVEN), "database": DATABASE, "store": STORE, "cache": CACHE,
             "backup key": {"wrm_backup_key"}}  # fmt: skip
    assert {name: set().union(*(words[word] for word in kinds.split(", "))) for name, kinds in rows} == WANTED


def _documented() -> str:
    return (ANSIBLE.parents[1] / "docs/secrets.md").read_text()


@pytest.mark.parametrize(
    ("name", "version", "postgresql"),
    [
        ("Debian", "12.7", "15"),
        ("Debian", "13.1", "17"),
        ("Ubuntu", "24.04", "16"),
        ("Debian", "11.9", None),
        ("Ubuntu", "22.04", None),
        ("Fedora", "41", None),
    ],
)
def test_a_system_is_refused_or_has_its_own_postgresql(name: str, version: str, postgresql: str | None) -> None:
    defaults = yaml.safe_load((ANSIBLE / "roles/base/defaults/main.yml").read_text())
    check = yaml.safe_load((ANSIBLE / "roles/base/tasks/main.yml").read_text())[0]["ansible.builtin.assert"]
    facts = {
        "distribution": name,
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
    }
    is_taken = jinja2.Environment().compile_expression(check["that"])
    assert is_taken(ansible_facts=facts, base_systems=defaults["base_systems"]) is (postgresql is not None)
    if postgresql is not None:
        chosen = yaml.safe_load((ANSIBLE / "roles/postgresql/defaults/main.yml").read_text())["postgresql_version"]
        assert jinja2.Environment().from_string(chosen).render(ansible_facts=facts) == postgresql
