"""The compose file: what each container may do and see, and that it is the same release as on a host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/container"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DATABASE = {"postgres_password"}
# As the units of a host (test_units.py).
WANTED = {
    "code-blue": DATABASE | {"redis_url"},
    "code-green": DATABASE | {"redis_url"},
    "daemon": DATABASE,
    "web": DATABASE,
    "exporter": DATABASE | {"redis_url"},
    "wrm": DATABASE | {"redis_url"},
}


@pytest.mark.parametrize("name", WANTED)
def test_a_container_of_ours_is_given_only_what_it_uses(name: str) -> None:
    service = SERVICES[name]
    assert set(service["secrets"]) == WANTED[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    files = {variable: value for variable, value in service["environment"].items() if variable.endswith("_FILE")}
    assert set(files.values()) == {f"/run/secrets/{secret}" for secret in WANTED[name]}


def test_no_secret_is_in_the_environment_or_the_arguments() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            assert not re.search(r"PASSWORD$|REDIS_URL$|KEY$", variable), f"{name}: {variable}"
    assert {secret.get("file", "").rpartition("/")[0] for secret in COMPOSE["secrets"].values()} == {
        "${WRM_SECRETS:-./secrets}"
    }


def test_ports_are_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_runs_all_the_time_has_a_health_check() -> None:
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    assert without == {"wrm", "prometheus"}


def test_each_code_server_is_reached_by_its_own_hostname() -> None:
    """By that name it knows its own runs (wrm_dead_runs_sensor)."""
    assert {name: SERVICES[name]["hostname"] for name in ("code-blue", "code-green")} == {
        "code-blue": "code-blue",
        "code-green": "code-green",
    }
    workspace = yaml.safe_load((FOLDER / "workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert server["host"] == {"env": "WRM_CODE_HOST"}
    assert f"--location-name {server['location_name']}" in SERVICES["code-blue"]["command"]
    assert f"--port {server['port']}" in SERVICES["code-blue"]["command"]


def test_a_code_server_has_time_for_its_longest_run() -> None:
    dagster = yaml.safe_load((ROOT / "deploy/dagster/dagster.yaml").read_text())
    longest = dagster["run_monitoring"]["max_runtime_seconds"]
    assert int(SERVICES["code-blue"]["stop_grace_period"].removesuffix("s")) > longest


def test_every_variable_that_the_page_lists_is_in_the_files() -> None:
    page = (ROOT / "docs/containers.md").read_text()
    files = "".join((FOLDER / name).read_text() for name in ("compose.yaml", "compose.s3.yaml", "build", "release"))
    named = set(re.findall(r"`((?:WRM_|S3_|POSTGRES_|REDIS_|PROMETHEUS_)[A-Z_]+|BASE|PIP_CONF|BUCKET_NAME)`", page))
    assert len(named) > 8
    assert {name for name in named if name != "WRM_DATA_DIR" and name not in files} == set()
