"""How pg_dump gets the password: a stand-in program says what it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrm_pipeline.clients import postgres_dump
from wrm_pipeline.clients.postgres_dump import PostgresDatabase, PostgresToolError

PROGRAM = """#!/bin/sh
exec >"{said}"
tr "\\0" "\\n" </proc/$$/environ
tr "\\0" " " </proc/$$/cmdline
echo
stat -c "mode %a %U" "$PGPASSFILE" && echo "file $PGPASSFILE" && cat "$PGPASSFILE"
stat -c "folder %a" "$(dirname "$PGPASSFILE")"
{then}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a pg_dump in the way; gives what it said."""
    said = tmp_path / "said"

    def make(then: str = "exit 0") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "pg_dump").write_text(PROGRAM.format(said=said, then=then))
        (folder / "pg_dump").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return said

    return make


def database(password: str) -> PostgresDatabase:
    return PostgresDatabase("127.0.0.1", 5432, "dagster", "wrm", password)


def lines_after(text: str, prefix: str) -> list[str]:
    return [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]


@pytest.mark.parametrize(
    ("password", "written"),
    [
        ("kQ7dZx3vLm9p", "kQ7dZx3vLm9p"),
        ("kQ7:dZ:x3v", "kQ7\\:dZ\\:x3v"),
        ("kQ\\7dZ\\", "kQ\\\\7dZ\\\\"),
        ("k Q*7#", "k Q*7#"),
    ],
    ids=["plain", "colons", "backslashes", "others"],  # pytest puts them into the environment
)
def test_the_password_is_in_a_file_of_this_user_and_nowhere_else(program, tmp_path, monkeypatch, password, written):
    monkeypatch.setenv("PGPASSWORD", "of somebody else")
    said = program()
    database(password).dump(tmp_path / "dump")
    text = said.read_text()
    assert f"\n*:*:*:*:{written}\n" in text
    assert text.count(written) == 1, "neither in the environment nor on the command line"
    assert "PGPASSWORD" not in text
    assert lines_after(text, "mode ")[0].startswith("600 ")
    assert lines_after(text, "folder ") == ["700"]
    assert not Path(lines_after(text, "file ")[0]).exists(), "it is gone"


@pytest.mark.parametrize(
    "then", ["echo no >&2; exit 1", "kill -9 $$", "exec sleep 30"], ids=["fails", "killed", "hangs"]
)
def test_the_file_is_gone_whatever_becomes_of_the_program(program, tmp_path, monkeypatch, then):
    monkeypatch.setattr(postgres_dump, "TIMEOUT_S", 0.5)
    said = program(then)
    with pytest.raises(PostgresToolError):
        database("kQ7dZx3vLm9p").dump(tmp_path / "dump")
    assert not Path(lines_after(said.read_text(), "file ")[0]).parent.exists()


def test_without_a_password_there_is_no_file(program, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("PGPASSFILE", raising=False)
    said = program("ls -R $(dirname $0)/..")
    database("").dump(tmp_path / "dump")
    assert "PGPASSFILE=" not in said.read_text()
    assert "wrm-postgres-" in said.read_text()
    assert "pgpass" not in said.read_text()
