"""What `vault.yml` makes in a Vault and how the client reads there: of the fake, and of a real one where it is named.

    WRM_TEST_VAULT_ADDR=http://127.0.0.1:8200 WRM_TEST_VAULT_TOKEN=… pytest THIS_FILE

The real one needs KV version 2 at ``secret/`` and a token that may write policies and AppRoles (`vault server -dev` has
both). Everything that is made there has a name of its own, and is removed again; `approle` stays enabled.
WRM_TEST_VAULT_CACERT names its CA, if that is one of your own.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from wrm_pipeline.clients.vault import AppRole, Token, Vault
from wrm_pipeline.clients.vault_errors import (
    VaultDeniedError,
    VaultLoginError,
    VaultMountError,
    VaultPathMissingError,
    VaultRefusedError,
    VaultVersionDeletedError,
)
from wrm_pipeline.resources.vault import forget_secrets, secrets_of
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.fake_vault import FakeVault

PROJECT = Path(__file__).parents[2]
ANSIBLE = PROJECT / "deploy/ansible"
PLAYBOOK = PROJECT / ".venv-deploy/bin/ansible-playbook"
REAL = os.environ.get("WRM_TEST_VAULT_ADDR", "")

# A play starts some twenty processes of Python, which take minutes on a machine that is busy.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
NEEDS_ANSIBLE = pytest.mark.skipif(not PLAYBOOK.exists(), reason=f"{PLAYBOOK} is missing: make deploy-setup")


@dataclass
class Target:
    """A Vault, and a part of it that is this test's alone."""

    address: str
    token: str
    ca_file: str
    fake: FakeVault | None
    name: str = field(default_factory=lambda: f"wrm-test-{secrets.token_hex(4)}")

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """As root, past our own client."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/v1/{path}", data, method=method)
        request.add_header("X-Vault-Token", self.token)
        context = ssl.create_default_context(cafile=self.ca_file or None) if self.address[:6] == "https:" else None
        handlers = [
            urllib.request.ProxyHandler({}),
            *([urllib.request.HTTPSHandler(context=context)] if context else []),
        ]
        with urllib.request.build_opener(*handlers).open(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    def put(self, path: str, **values: str) -> None:
        self.ask("POST", f"secret/data/{self.name}/{path}", {"data": values})

    def client(self, login: AppRole | Token | None = None, mount: str = "secret") -> Vault:
        login = login or Token(lambda: self.token)
        return Vault(self.address, login, mount_point=mount, verify=self.ca_file or True)


@pytest.fixture(params=["fake", "real"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "real":
        if not REAL:
            pytest.skip("no real Vault: name one in WRM_TEST_VAULT_ADDR, with WRM_TEST_VAULT_TOKEN")
        token = os.environ["WRM_TEST_VAULT_TOKEN"]
        real = Target(REAL, token, os.environ.get("WRM_TEST_VAULT_CACERT", ""), None)
        try:
            yield real
        finally:
            for path in ("s3", "redis", "other", "written"):
                real.ask("DELETE", f"secret/metadata/{real.name}/{path}")
            real.ask("DELETE", f"auth/approle/role/{real.name}")
            real.ask("DELETE", f"sys/policies/acl/{real.name}")
        return
    tls = tmp_path / "tls"
    tls.mkdir()
    with FakeVault(tls=tls) as fake:
        yield Target(fake.url, fake.issue_root_token(), fake.ca_file, fake)


# --- The client -----------------------------------------------------------------------------------------------------


def test_a_token_reads_what_was_written_with_its_version(target: Target) -> None:
    target.put("s3", access_key_id="first")
    target.put("s3", access_key_id="second")
    secret = target.client().read(f"{target.name}/s3")
    assert (secret.require("access_key_id"), secret.version) == ("second", 2)


def test_a_version_is_written_only_over_the_one_that_was_seen(target: Target) -> None:
    vault, path = target.client(), f"{target.name}/written"
    vault.write(path, {"url": "one"}, version=0)
    vault.write(path, {"url": "two"}, version=1)
    with pytest.raises(VaultRefusedError, match="check-and-set"):
        vault.write(path, {"url": "three"}, version=1)
    assert vault.read(path).values() == {"url": "two"}


def test_what_is_not_there_is_told_from_what_is_deleted_and_from_a_mount_that_is_not(target: Target) -> None:
    with pytest.raises(VaultPathMissingError):
        target.client().read(f"{target.name}/other")
    target.put("other", value="gone")
    target.ask("DELETE", f"secret/data/{target.name}/other")
    with pytest.raises(VaultVersionDeletedError) as deleted:
        target.client().read(f"{target.name}/other")
    assert deleted.value.version == 1
    with pytest.raises(VaultMountError):
        target.client(mount=f"no-{target.name}").read("other")


def test_a_token_that_is_none_is_a_login_that_failed(target: Target) -> None:
    with pytest.raises(VaultLoginError):
        target.client(Token(lambda: "hvs.no-such-token")).read(f"{target.name}/s3")


# --- The playbook ---------------------------------------------------------------------------------------------------


class Play:
    """`vault.yml` for one target, from an inventory of its own."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        paths = {
            f"vault_{what}_path": f"{target.name}/{what}" for what in ("s3", "redis", "alerts", "postgres", "serving")
        }
        variables = {
            "vault_addr": target.address,
            "vault_ca_file": target.ca_file,
            "vault_role_name": target.name,
            "vault_more_paths": [f"{target.name}/more/*"],
            **paths,
        }
        hosts = {"wrm": {"hosts": {"host.invalid": None, "other.invalid": None}, "vars": variables}}
        (folder / "hosts.yml").write_text(json.dumps(hosts))
        self.outputs: list[str] = []

    def run(self, *arguments: str, status: int = 0, token: str | None = None) -> int:
        """How many tasks changed something."""
        environment = {
            **os.environ,
            "VAULT_TOKEN": self.target.token if token is None else token,
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible"),
        }
        command = [str(PLAYBOOK), "-vvv", "-i", str(self.folder / "hosts.yml"), "vault.yml", *arguments]
        done = subprocess.run(command, cwd=ANSIBLE, env=environment, capture_output=True, text=True, check=False)
        self.outputs.append(done.stdout + done.stderr)
        assert done.returncode == status, self.outputs[-1][-5000:]
        return sum(int(count) for count in re.findall(r"^\S+\.invalid .*changed=(\d+)", done.stdout, re.MULTILINE))

    def login(self, what: str) -> str:
        return (self.folder / "vault" / what).read_text()

    def approle(self) -> AppRole:
        role_id, secret_id = self.login("role_id"), self.login("secret_id")
        return AppRole(lambda: role_id, lambda: secret_id)


@pytest.fixture
def play(target: Target, tmp_path: Path) -> Play:
    (tmp_path / "inventory").mkdir()
    return Play(target, tmp_path / "inventory")


@NEEDS_ANSIBLE
def test_the_playbook_makes_a_login_once_and_the_product_reads_its_secrets_with_it(
    target: Target, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"access_key_id": "id", "secret_access_key": "of nobody"}
    target.put("s3", **keys, bucket_name="bikes", region_name="fsn1")
    target.put("other", value="not ours")
    assert play.run() > 0
    if target.fake:
        target.fake.administration.age = timedelta(days=14, hours=23)
    assert play.run() == 0
    assert stat.S_IMODE((play.folder / "vault/secret_id").stat().st_mode) == 0o600

    variables = {
        "VAULT_ADDR": target.address,
        "VAULT_ROLE_ID": play.login("role_id"),
        "VAULT_SECRET_ID_FILE": str(play.folder / "vault/secret_id"),
        **{
            f"VAULT_{what}_PATH": f"{target.name}/{what.lower()}"
            for what in ("S3", "REDIS", "ALERTS", "POSTGRES", "SERVING")
        },
        **({"VAULT_CACERT": target.ca_file} if target.ca_file else {}),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_secrets()
    held = secrets_of(load_settings())
    access = held.s3()
    assert access is not None
    assert (access.bucket, access.region_name) == ("bikes", "fsn1")
    assert held.redis_url() is None  # permitted, but nothing is there
    assert held.vault is not None
    with pytest.raises(VaultDeniedError):
        held.vault.read(f"{target.name}/other")

    # What somebody changed by hand is put right.
    target.ask("PUT", f"sys/policies/acl/{target.name}", {"policy": 'path "secret/*" { capabilities = ["read"] }'})
    target.ask("POST", f"auth/approle/role/{target.name}", {"secret_id_num_uses": 1})
    assert play.run() == 2
    assert "secret/*" not in target.ask("GET", f"sys/policies/acl/{target.name}")["data"]["policy"]
    assert target.ask("GET", f"auth/approle/role/{target.name}")["data"]["secret_id_num_uses"] == 0

    shown = "".join(play.outputs)
    assert target.token not in shown
    assert play.login("secret_id") not in shown


@NEEDS_ANSIBLE
def test_a_secret_id_is_rotated_without_a_moment_in_which_none_is_valid(target: Target, play: Play) -> None:
    target.put("s3", access_key_id="id")
    path = f"{target.name}/s3"
    play.run()
    old = play.approle()
    if target.fake:  # a real one cannot be made to believe that days have passed
        target.fake.administration.age = timedelta(days=15)
    assert play.run(*([] if target.fake else ["-e", "vault_rotate=true"])) == 2  # issued, kept
    new = play.approle()
    for login in (old, new):
        assert target.client(login).read(path).require("access_key_id") == "id"
    if target.fake:
        target.fake.administration.age = timedelta()
    assert play.run("-e", "vault_destroy_others=true") == 1
    assert target.client(new).read(path).require("access_key_id") == "id"
    with pytest.raises(VaultLoginError):
        target.client(old).read(path)


@NEEDS_ANSIBLE
def test_a_token_that_may_not_is_told_so(target: Target, play: Play) -> None:
    play.run(token="hvs.no-such-token", status=2)
    assert "answers 403" in play.outputs[-1]
    assert "that VAULT_TOKEN may do this" in play.outputs[-1]
    play.run(token="", status=2)
    assert "Give vault_addr" in play.outputs[-1]
