"""The paths in Vault: the playbook's reach host and policy, and are the pipeline's own unless it says otherwise."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
import yaml

from wrm_pipeline.resources.vault import kept_in_vault
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.deployed import ANSIBLE

DEFAULTS: dict[str, Any] = yaml.safe_load((ANSIBLE / "roles/vault/defaults/main.yml").read_text())


def rendered(name: str, **variables: object) -> str:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["combine"] = lambda one, other: one | other
    return environment.from_string(DEFAULTS[name]).render({**DEFAULTS, **variables})


def test_the_playbooks_paths_are_the_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_SERVING_HOST", "127.0.0.1")
    assert {DEFAULTS[name] for name in DEFAULTS if name.endswith("_path") and name[6:] in PATHS} == set(
        kept_in_vault(load_settings())
    )


PATHS = ("s3_path", "redis_path", "alerts_path", "postgres_path", "serving_path")


@pytest.mark.parametrize("path", PATHS)
def test_another_path_reaches_the_host_and_the_policy(path: str) -> None:
    name = f"vault_{path}"
    settings = yaml.safe_load(rendered("vault_settings", vault_addr="https://vault.test", **{name: "team/bikes"}))
    assert settings[name.upper()] == "team/bikes"
    policy = rendered("vault_policy", **{name: "team/bikes"}).splitlines()
    assert 'path "secret/data/team/bikes" { capabilities = ["read"] }' in policy
    assert len(policy) == len(PATHS)


def test_a_host_without_a_vault_gets_none_of_its_settings() -> None:
    assert yaml.safe_load(rendered("vault_settings")) == {}
