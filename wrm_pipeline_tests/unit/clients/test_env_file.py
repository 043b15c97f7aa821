"""The `.env` of the working directory: what the environment does not set, and nothing in production."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.cli.smoke import _become_local
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.settings import SettingsError, find, load_settings

SECRET = "s3cr3t-canary"  # pragma: allowlist secret


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory of somebody who has not said which file to read."""
    monkeypatch.delenv("WRM_DOTENV")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def config(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["config", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_gives_what_the_environment_does_not(folder, monkeypatch, capsys):
    (folder / "key").write_text(f"{SECRET}\n")
    file = write(
        folder / ".env",
        "export WRM_UI_URL='https://ui.example.org'\nWRM_STATIONS_S3_PREFIX=of-file\nWRM_HISTORY_DAYS=\n"
        "MINIO_ACCESS_KEY=a$HOME\nS3_SECRET_ACCESS_KEY_FILE=key\nBUCKET_NAME=b\n",
    )
    monkeypatch.setenv("WRM_STATIONS_S3_PREFIX", "of-environment")
    settings = load_settings()
    assert (settings.ui_url, settings.prefix, settings.history_days) == (
        "https://ui.example.org", "of-environment/", 7,
    )  # fmt: skip
    assert settings.secret("s3_access_key_id") == "a$HOME"
    assert settings.secret("s3_secret_access_key") == SECRET
    assert SECRET not in redact(f"x {SECRET} y")
    shown = {row["name"]: row["origin"] for row in config(capsys)["settings"]}
    assert shown["WRM_UI_URL"] == f"WRM_UI_URL in {file}"
    assert shown["WRM_STATIONS_S3_PREFIX"] == "environment variable WRM_STATIONS_S3_PREFIX"
    of_file = f"file key (S3_SECRET_ACCESS_KEY_FILE in {file})"
    assert shown["S3_SECRET_ACCESS_KEY"] == of_file
    assert shown["WRM_HISTORY_DAYS"] == "default"


def test_a_credential_of_the_unit_comes_before_it(folder, monkeypatch):
    write(folder / ".env", "REDIS_URL=redis://of-file\n")
    (folder / "redis_url").write_text("redis://of-unit")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert load_settings().redis_url_without_password == "redis://of-unit"  # pragma: allowlist secret
    monkeypatch.setenv("MINIO_ACCESS_KEY", "k")
    assert find("s3_access_key_id").origin == "environment variable MINIO_ACCESS_KEY"


def test_it_is_said_that_one_is_in_use(folder, capsys):
    assert config(capsys)["env_file"] is None
    file = write(folder / ".env", "WRM_WORKERS=1\n")
    assert config(capsys)["env_file"] == str(file)
    main(["config"])
    assert f"{file} is read for what the environment does not set" in capsys.readouterr().out


def test_in_production_a_stray_one_changes_nothing_and_is_named(folder, monkeypatch):
    file = write(folder / ".env", "WRM_WORKERS=1\nBUCKET_NAME=b\n")
    monkeypatch.setenv("WRM_ENV", "production")
    settings = load_settings()
    assert (settings.workers, settings.bucket_name) == (None, None)
    assert settings.warnings == (
        f"{file}: not used, since WRM_ENV is production. Remove it; WRM_DOTENV would name a file that is read.",
    )
    monkeypatch.setenv("WRM_DOTENV", str(write(folder / "other", "WRM_WORKERS=3\n")))
    assert (load_settings().workers, load_settings().warnings) == (3, ())


def test_another_file_or_none_is_named_by_a_variable(folder, monkeypatch):
    write(folder / ".env", "WRM_WORKERS=1\n")
    monkeypatch.setenv("WRM_DOTENV", os.devnull)
    assert load_settings().workers is None
    monkeypatch.setenv("WRM_DOTENV", str(folder / "missing"))
    with pytest.raises(SettingsError, match=r"missing cannot be read \(No such file or directory\)\. Correct"):
        load_settings()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_one_with_secrets_that_others_may_read_is_a_warning(folder, mode, warned):
    file = write(folder / ".env", f"WRM_ALERT_WEBHOOK_URL=https://h/{SECRET}\nWRM_WORKERS=1\n", mode)
    expected = f"{file}: other accounts of this machine may read it, and it holds WRM_ALERT_WEBHOOK_URL: chmod 600 it."
    assert load_settings().warnings == ((expected,) if warned else ())


def test_one_without_secrets_may_be_read_by_anyone(folder):
    write(folder / ".env", "WRM_WORKERS=1\n", 0o644)
    assert load_settings().warnings == ()


def test_what_is_wrong_in_it_is_named(folder):
    write(folder / ".env", "WRM_WORKERS=many\n")
    with pytest.raises(SettingsError, match="WRM_WORKERS='many'"):
        load_settings()
    (folder / ".env").write_bytes(b"WRM_WORKERS=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read \(it is not UTF-8 text\)"):
        load_settings()


def test_a_folder_of_that_name_is_none(folder):
    (folder / ".env").mkdir()
    assert load_settings().workers is None


def test_a_file_that_changes_is_read_again(folder):
    write(folder / ".env", "WRM_WORKERS=1\n")
    assert find("workers").value == "1"
    write(folder / ".env", "WRM_WORKERS=12\n")
    assert find("workers").value == "12"


def test_the_trial_of_a_release_does_without_one(folder, monkeypatch):
    write(folder / ".env", "BUCKET_NAME=real\n")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    _become_local(folder / "scratch")
    assert load_settings().bucket_name is None
