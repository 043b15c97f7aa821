"""The effective configuration with the origin of each value, and the import of an existing .env file into Vault."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values  # comes with pydantic-settings

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.vault import Vault, VaultSecret
from wrm_pipeline.clients.vault_errors import VaultPathMissingError, VaultVersionDeletedError
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.resources.vault import Secrets, kept_in_vault
from wrm_pipeline.settings import Settings, find, is_secret, variables_of

MASK = "********"


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """One setting, safe to show.

    Attributes:
        name: Its variable.
        value: As text, masked if it is a secret; empty if there is none.
        origin: Where it comes from.
        secret: Whether it is masked.
        description: Its purpose.
    """

    name: str
    value: str
    origin: str
    secret: bool
    description: str


def effective_values(secrets: Secrets) -> tuple[list[EffectiveValue], list[str]]:
    """Each setting, and the problem with Vault, if there is one."""
    held = _read_all(secrets)
    vault_keys = {
        name: (path, key) for path, keys in kept_in_vault(secrets.settings).items() for key, name in keys.items()
    }
    values = []
    for name in Settings.model_fields:
        value, origin = _given(secrets.settings, name)
        if secrets.vault is not None and name in vault_keys:
            path, key = vault_keys[name]
            value, origin = _with_vault(secrets, name, held[path], key, (value, origin))
            if origin == "Vault":
                origin = f"Vault {secrets.vault.mount_point}/{path} ({key})"
        variable = next((n for n in variables_of(name) if n in origin), variables_of(name)[0])
        description = Settings.model_fields[name].description or ""
        values.append(EffectiveValue(variable, _shown(name, value), origin, is_secret(name), description))
    return values, _problems(secrets)


def _problems(secrets: Secrets) -> list[str]:
    """The credentials as clients will get them, each read once."""
    problems: dict[str, None] = {}
    asks = (secrets.s3, secrets.redis_url, secrets.webhook_url, secrets.smtp_url, secrets.postgres)
    for ask in asks if secrets.vault else ():
        try:
            ask()
        except ExternalError as error:
            problems[str(error)] = None
    return list(problems)


def _read_all(secrets: Secrets) -> dict[str, VaultSecret | None]:
    """The secret at each path; None: unknown."""
    held: dict[str, VaultSecret | None] = {}
    vault = secrets.vault
    for path in kept_in_vault(secrets.settings) if vault else ():
        try:
            held[path] = vault.read(path) if vault else None
        except VaultPathMissingError as error:
            held[path] = VaultSecret(error.name, {})
        except ExternalError:
            held[path] = None
    return held


def _given(settings: Settings, name: str) -> tuple[Any, str]:
    value = getattr(settings, name)
    if found := find(name):
        return value, found.origin
    is_default = value == Settings.model_fields[name].default or (
        name == "data_dir" and value == Path("data").resolve()
    )
    return value, "default" if is_default else "argument"


def _with_vault(
    secrets: Secrets, name: str, held: VaultSecret | None, key: str, given: tuple[Any, str]
) -> tuple[Any, str]:
    """The effective value if Vault may have one, as chosen by `Secrets`."""
    if name == "redis_url" and secrets.settings.redis_url_without_password:
        return given
    if held is not None and (value := held.get(key)):
        return value, "Vault"
    if is_secret(name) and not secrets.settings.variables_are_enough:
        return None, "Vault did not say" if held is None else "not in Vault"
    if held is None and given[0] is None:
        return None, "Vault did not say"
    return given


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    return MASK if is_secret(name) else redact(str(value))


Change = Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Move:
    """One variable to be imported into Vault. Names only."""

    variable: str
    path: str
    key: str
    change: Change


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Which parts of a .env file go into Vault.

    Attributes:
        moves: The variables that Vault has a place for.
        staying: The others.
        versions: For each path that changes: the current version in Vault, and the content of the next one.
    """

    moves: list[Move]
    staying: list[str]
    versions: Mapping[str, tuple[int, Mapping[str, str]]] = field(repr=False)

    def write(self, vault: Vault) -> None:
        """Write a new version of each path that changes, and read it back.

        Raises:
            ExternalError: Vault refused; paths before the one in the message are written.
        """
        for path, (version, values) in self.versions.items():
            vault.write(path, values, version=version)
            if vault.read(path).values() != values:
                raise ExternalError("read back something else", "vault", "write", path, "Is somebody else writing?")


def plan_import(file: Path, vault: Vault, kept: Mapping[str, Mapping[str, str]]) -> ImportPlan:
    """Compare a .env file with Vault at the paths in `kept` (`kept_in_vault`); changes nothing.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
        SettingsError: a file that a `NAME_FILE` in it names cannot be read.
        ExternalError: Vault cannot be read.
    """
    with file.open(encoding="utf-8") as stream:
        # No interpolation: a password may have a dollar sign.
        lines = {name: value for name, value in dotenv_values(stream=stream, interpolate=False).items() if value}
    moves: list[Move] = []
    versions = {}
    for path, keys in kept.items():
        given = {key: found for key, name in keys.items() if (found := find(name, lines))}
        if not given:
            continue
        version, held = _present(vault, path)
        changes: dict[str, Change] = {
            key: "new" if key not in held else "unchanged" if held[key] == found.value else "changed"
            for key, found in given.items()
        }
        moves += [Move(found.variable, path, key, changes[key]) for key, found in given.items()]
        if set(changes.values()) != {"unchanged"}:
            versions[path] = (version, {**held, **{key: found.value for key, found in given.items()}})
    moved = {move.variable for move in moves}
    staying = [name for name in lines if name not in moved and name.removesuffix("_FILE") not in moved]
    return ImportPlan(moves, staying, versions)


def _present(vault: Vault, path: str) -> tuple[int, dict[str, str]]:
    try:
        secret = vault.read(path)
    except VaultPathMissingError:
        return 0, {}
    except VaultVersionDeletedError as error:
        return error.version, {}
    return secret.version, secret.values()
