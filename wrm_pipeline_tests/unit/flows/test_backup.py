"""Backups of a machine with SQLite: taken, listed, opened, damaged, put back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.flows.encrypted_file import new_key
from wrm_pipeline.flows.restore_record import last_tried
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import NOON, Lake

KEY = new_key()
CANARY = "canary-secret-1234567890"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home with its databases; making them takes a second."""
    home = tmp_path_factory.mktemp("history")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.run_storage.set_cursor_values({"remembered": "yes"})
        assert instance.all_instigator_state() == []  # makes the schedules' database
        assert instance.get_asset_keys() == []
    return home


@pytest.fixture
def machine(environment: Path, history: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lake:
    """Something of everything that a backup holds, and a key."""
    monkeypatch.setenv("WRM_BACKUP_KEY", KEY)
    monkeypatch.setenv("WRM_ALERT_WEBHOOK_URL", f"https://hooks.example.org/{CANARY}")
    configuration = tmp_path / "etc"
    (configuration / "more").mkdir(parents=True)
    (configuration / "wrm.env").write_text("WRM_ENV=local\n")
    (configuration / "more" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("WRM_BACKUP_FILES", str(configuration))
    settings = load_settings()
    settings.data_dir.mkdir(parents=True)
    settings.database_path.write_bytes(b"a database" * 300_000)
    Spool(settings.spool_dir, 10**9).add("raw", NOON, b"a snapshot")
    shutil.copytree(history, environment.parent / "dagster_home", dirs_exist_ok=True)
    return Lake(settings)


def wrm(*arguments: str) -> int:
    return main(list(arguments))


def keys(lake: Lake) -> list[str]:
    return lake.keys("backups/")


def damage(lake: Lake, change: Any) -> None:
    (key,) = keys(lake)
    lake.store.put(key, change(lake.store.get(key)))


def test_backup_and_restore_onto_a_bare_machine(
    machine: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrm("backup") == 0
    (key,) = keys(machine)
    assert wrm("backup", "list", "--json") == 0
    out = capsys.readouterr().out
    (listed,) = json.loads(out[out.index("[") :])
    assert listed["name"] == key.rpartition("/")[2]
    assert listed["stays"]
    assert last_tried(machine.settings.data_dir) is None
    assert wrm("backup", "verify") == 0
    assert last_tried(machine.settings.data_dir) is not None
    encrypted = machine.store.get(key)
    assert b"a database" not in encrypted

    bare = tmp_path / "bare"
    (bare / "dagster_home").mkdir(parents=True)
    monkeypatch.setenv("WRM_DATA_DIR", str(bare / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(bare / "dagster_home"))
    there = Lake(load_settings())
    there.store.put(key, encrypted)
    before = sorted(path for path in bare.rglob("*") if path.is_file() and "lake" not in path.parts)
    assert wrm("restore") == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert sorted(path for path in bare.rglob("*") if path.is_file() and "lake" not in path.parts) == before

    assert wrm("restore", "--apply") == 0
    settings = load_settings()
    assert last_tried(settings.data_dir) is not None
    assert settings.database_path.read_bytes() == b"a database" * 300_000
    (waiting,) = Spool(settings.spool_dir, 10**9).waiting()
    assert (waiting.fetched_at, waiting.read()) == (NOON, b"a snapshot")
    with dg.DagsterInstance.get() as instance:
        assert instance.run_storage.get_cursor_values({"remembered"}) == {"remembered": "yes"}
    restored = {path.name: path.read_text() for path in (bare / "data" / "restored-files").rglob("*") if path.is_file()}
    assert restored == {"wrm.env": "WRM_ENV=local\n", "dagster.yaml": "telemetry: {enabled: false}\n"}
    assert not list((bare / "data" / "backup.tmp").iterdir())

    output = "".join(capsys.readouterr())
    assert KEY not in output
    assert CANARY not in output


def test_nothing_is_overwritten_without_overwrite(machine: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrm("backup") == 0
    database = machine.settings.database_path
    database.write_bytes(b"something newer")
    assert wrm("restore", "--apply", "--only", "duckdb,spool") == 1
    assert str(database) in capsys.readouterr().err
    assert database.read_bytes() == b"something newer"
    assert wrm("restore", "--apply", "--only", "duckdb,spool", "--overwrite") == 0
    assert database.read_bytes() == b"a database" * 300_000


def test_the_manifest_tells_settings_and_no_secret(machine: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from wrm_pipeline.cli.backup import _facts

    facts = json.dumps(_facts(machine.settings))
    assert str(machine.settings.data_dir) in facts
    assert KEY not in facts
    assert CANARY not in facts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body[:100_000], "ends within it"),
        (lambda body: body[:20], "ends early"),
        (lambda body: body[:0], "does not begin like one"),
        (lambda body: body[:1500] + b"\0" + body[1501:], "damaged: its part 1"),
        (lambda body: b"<html>" + body, "does not begin like one"),
    ],
)
def test_a_backup_that_is_damaged_or_half_written_is_distinguished_and_changes_nothing(
    machine: Lake, change: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrm("backup") == 0
    machine.settings.database_path.unlink()
    damage(machine, change)
    assert wrm("backup", "verify") == 1
    assert said in capsys.readouterr().err
    assert wrm("restore", "--apply") == 1
    assert said in capsys.readouterr().err
    assert not machine.settings.database_path.exists()


def test_another_key_and_no_key(
    machine: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrm("backup") == 0
    other = new_key()
    monkeypatch.setenv("WRM_BACKUP_KEY", other)
    assert wrm("restore", "--apply") == 1
    said = capsys.readouterr().err
    assert "was encrypted with the key" in said
    assert other not in said
    monkeypatch.setenv("WRM_BACKUP_KEY", "not a key of ours")
    assert wrm("backup") == 1
    assert "not a key of ours" not in capsys.readouterr().err
    monkeypatch.delenv("WRM_BACKUP_KEY")
    assert wrm("backup") == 1
    assert "--new-key" in capsys.readouterr().err
    assert len(keys(machine)) == 1


def test_a_backup_that_cannot_be_read_back_does_not_stay_and_removes_no_other(
    machine: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wrm_pipeline.lake.local_object_store import LocalObjectStore

    monkeypatch.setenv("WRM_BACKUP_KEEP", "1,0,0")
    assert wrm("backup") == 0
    first = keys(machine)
    get = LocalObjectStore.get
    monkeypatch.setattr(LocalObjectStore, "get", lambda self, key: get(self, key)[:-1])
    monkeypatch.setattr("wrm_pipeline.cli.backup.datetime", _Later)
    assert wrm("backup") == 1
    assert "was removed again" in capsys.readouterr().err
    assert keys(machine) == first


class _Later(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(days=1)


def test_only_what_the_retention_keeps_stays_and_strangers_are_left_alone(
    machine: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRM_BACKUP_KEEP", "2,0,0")
    layout, now = machine.layout, datetime.now(UTC)
    old = [layout.backup_key(now - timedelta(days=day)) for day in (1, 2, 3, 40)]
    stranger = f"{layout.backup_prefix}notes.txt"
    for key in (*old, stranger):
        machine.store.put(key, b"x")
    assert wrm("backup") == 0
    assert len(keys(machine)) == 3
    assert {old[0], stranger} < set(keys(machine))


def test_configuration_that_cannot_be_read_is_an_error_not_a_gap(
    machine: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_BACKUP_FILES", "/nonexistent/wrm.env")
    assert wrm("backup") == 1
    assert "/nonexistent/wrm.env (WRM_BACKUP_FILES) cannot be read" in capsys.readouterr().err
    assert keys(machine) == []


def test_a_database_in_use_is_copied_whole(machine: Lake, environment: Path) -> None:
    runs = environment.parent / "dagster_home" / "history" / "runs.db"
    with closing(sqlite3.connect(runs)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO kvs (key, value) VALUES ('half', 'written')")
        assert wrm("backup") == 0
        writer.rollback()
    assert wrm("backup", "verify") == 0


def test_which_backup_is_meant(machine: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrm("restore") == 1
    assert "There is no backup below" in capsys.readouterr().err
    assert wrm("backup") == 0
    (key,) = keys(machine)
    name = key.rpartition("/")[2]
    for text in (key, name, name.removeprefix("wrm-backup_")[:10]):
        assert wrm("backup", "verify", text) == 0
    assert wrm("backup", "verify", "1999") == 1
    assert "'1999' matches 0 backups" in capsys.readouterr().err
