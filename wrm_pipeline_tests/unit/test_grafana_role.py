"""Grafana's admin: a password of its own on every host, in no file that others read and in no output."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from wrm_pipeline_tests.fixtures.deployed import render

ROLE = Path(__file__).parents[2] / "deploy/ansible/roles/monitoring"
PLACE = "/etc/grafana/wrm_admin_password"


def tasks() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for task in yaml.safe_load((ROLE / "tasks/grafana.yml").read_text()):
        found |= {inner["name"]: inner for inner in task.get("block", [task])}
    return found


def environment(**variables: object) -> list[str]:
    given = {"monitoring_grafana_path": "", "web_server_name": "wrm.test", **variables}
    return render("monitoring", "grafana.env.j2", **given).splitlines()


def test_it_reads_its_password_from_a_file_and_lets_nobody_in_without_one() -> None:
    lines = environment()
    assert f"GF_SECURITY_ADMIN_PASSWORD__FILE={PLACE}" in lines
    assert "GF_AUTH_ANONYMOUS_ENABLED=false" in lines
    assert "GF_USERS_ALLOW_SIGN_UP=false" in lines
    assert "GF_SERVER_HTTP_ADDR=127.0.0.1" in lines
    assert not [line for line in lines if line.startswith("GF_SECURITY_ADMIN_PASSWORD=")]


@pytest.mark.parametrize(
    ("port", "root"), [(443, "https://wrm.test/grafana/"), (8443, "https://wrm.test:8443/grafana/")]
)
def test_behind_nginx_it_knows_its_address_and_sends_its_cookie_over_tls_only(port: int, root: str) -> None:
    lines = environment(monitoring_grafana_path="/grafana", web_https_port=port)
    assert f"GF_SERVER_ROOT_URL={root}" in lines
    assert "GF_SERVER_SERVE_FROM_SUB_PATH=true" in lines
    assert "GF_SECURITY_COOKIE_SECURE=true" in lines


def test_on_loopback_only_it_has_no_sub_path() -> None:
    assert not [line for line in environment() if "ROOT_URL" in line or "COOKIE_SECURE" in line]


@pytest.mark.parametrize(("wanted", "path"), [(True, "/grafana"), ("true", "/grafana"), ("auto", ""), (False, "")])
def test_nginx_shows_it_where_it_is_wanted_for_certain(wanted: str | bool, path: str) -> None:
    template = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["monitoring_grafana_path"]
    assert jinja2.Template(template).render(monitoring_grafana=wanted) == path
    site = render("web", "wrm.conf.j2", monitoring_grafana=wanted)
    assert ("location /grafana/ {" in site) is bool(path)


def test_a_host_makes_up_a_password_once_and_each_another(tmp_path: Path) -> None:
    made = tasks()["A password of its own for admin, made up once"]["ansible.builtin.shell"]
    assert made["creates"] == PLACE
    passwords = set()
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        subprocess.run(["bash", "-c", made["cmd"].replace("/etc/grafana", str(folder))], check=True)
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        passwords.add(file.read_text().strip())
    assert len(passwords) == 3
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords)


@pytest.mark.parametrize(
    ("password", "is_taken"), [("", True), ("admin", False), ("grafana1234", False), ("correct-horse", True)]
)
def test_a_short_password_is_refused(password: str, is_taken: bool) -> None:
    condition = tasks()["The password is not a short one"]["ansible.builtin.assert"]["that"]
    found = jinja2.Environment().compile_expression(condition)(monitoring_grafana_password=password)
    assert found is is_taken


def test_by_default_the_host_makes_one_up() -> None:
    assert yaml.safe_load((ROLE / "defaults/main.yml").read_text())["monitoring_grafana_password"] == ""


def test_no_task_shows_the_password() -> None:
    showing = [task for task in tasks().values() if "{{ monitoring_grafana_password" in str(task)]
    assert showing
    assert all(task["no_log"] is True and task["diff"] is False for task in showing)


def test_a_new_password_reaches_a_grafana_that_has_one() -> None:
    """It reads the file at its first start only; later ones need its own command."""
    setting = ("A password of its own for admin, made up once", "The given password for admin")
    assert {tasks()[name]["notify"] for name in setting} == {"Set Grafana's password"}
    handlers = {handler["name"]: handler for handler in yaml.safe_load((ROLE / "handlers/main.yml").read_text())}
    assert f"--password-from-stdin <{PLACE}" in handlers["Set Grafana's password"]["ansible.builtin.shell"]["cmd"]


def test_the_readers_password_is_shown_by_no_task_and_read_from_a_file() -> None:
    showing = [task for task in tasks().values() if "{{ postgresql_reader_password" in str(task)]
    assert showing
    assert all(task["no_log"] is True and task["diff"] is False for task in showing)
    source = yaml.safe_load((ROLE.parents[2] / "monitoring/grafana/serving/postgres.yml").read_text())
    (database,) = source["datasources"]
    assert list(database["secureJsonData"].values()) == ["$__file{/etc/grafana/wrm_reader_password}"]


def test_grafana_has_the_tables_only_where_some_are_published() -> None:
    conditional = [task for task in tasks().values() if "serving/" in str(task) or "postgres.yml" in str(task)]
    assert len(conditional) == 3
    assert all("monitoring_serves_tables" in task["when"] for task in conditional)


@pytest.mark.parametrize(
    ("wanted", "deb", "status", "goes_on"),
    [
        ("auto", "", 200, True),
        ("auto", "", -1, True),
        (True, "", 200, True),
        (True, "", -1, False),
        ("true", "", 404, False),
        (True, "/tmp/grafana.deb", None, True),
    ],
)
def test_grafana_that_is_wanted_and_cannot_be_had_fails_the_play(
    wanted: str | bool, deb: str, status: int | None, goes_on: bool
) -> None:
    task = tasks()["Grafana that is wanted can be had"]["ansible.builtin.assert"]
    condition = jinja2.Environment().compile_expression(task["that"])
    assert (
        condition(monitoring_grafana=wanted, monitoring_grafana_deb=deb, monitoring_grafana_key={"status": status})
        is goes_on
    )
    assert "monitoring_grafana_key.msg" in task["fail_msg"]
