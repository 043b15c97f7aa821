"""`wrm secrets`: imports credentials into Vault, and finds those left elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wrm_pipeline.cli.command import CommandError, Group, apply_option, json_option, pass_settings
from wrm_pipeline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wrm_pipeline.cli.config import ImportPlan
    from wrm_pipeline.clients.secret_scan import Scanner
    from wrm_pipeline.settings import Settings


@click.group(
    cls=Group,
    examples=[
        ("wrm secrets import .env", "which variables would go where"),
        ("wrm secrets scan", "search this folder and its git history for them"),
    ],
)
def secrets() -> None:
    """Move credentials to Vault, and find those left elsewhere."""


@secrets.command(
    "import",
    examples=[
        ("wrm secrets import .env", "names only, nothing is written"),
        ("wrm secrets import .env --apply", "write them, and read them back"),
    ],
)
@click.argument("file", type=click.Path(path_type=Path))
@apply_option("--write")
@json_option
@pass_settings
def import_file(settings: "Settings", file: Path, apply: bool, as_json: bool) -> int:
    """Move the credentials of a .env FILE to Vault; shows names only."""
    from wrm_pipeline.cli.config import plan_import
    from wrm_pipeline.resources.vault import kept_in_vault, open_vault

    vault = open_vault(settings)
    if vault is None:
        raise CommandError("VAULT_ADDR is not set: there is no Vault to write to")
    try:
        plan = plan_import(file, vault, kept_in_vault(settings))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
    done = apply and bool(plan.versions)
    if not as_json:
        rows = [[move.variable, f"{vault.mount_point}/{move.path}", move.key, move.change] for move in plan.moves]
        print_table(rows, ["variable", "path in Vault", "key", ""])
        if plan.staying:
            print(f"\nNot for Vault, these stay: {', '.join(plan.staying)}")
    if done:
        plan.write(vault)
    if as_json:
        print_json(_as_json(plan, vault.mount_point, done))
    elif not plan.versions:
        print("\nNothing to write.")
    elif done:
        print(
            f"\nWritten to {', '.join(plan.versions)} and read back. Now remove these lines from {file}, and "
            "run `wrm secrets scan`: a credential that was ever committed must be replaced."
        )
    else:
        print(f"\nNothing is written yet. Add --apply to write {', '.join(plan.versions)}.")
    return 0


def _as_json(plan: "ImportPlan", mount_point: str, done: bool) -> dict[str, Any]:
    moves = [
        {"variable": move.variable, "path": f"{mount_point}/{move.path}", "key": move.key, "change": move.change}
        for move in plan.moves
    ]
    return {"moves": moves, "staying": plan.staying, "paths": list(plan.versions), "applied": done}


@secrets.command(
    examples=[
        ("wrm secrets scan", "this folder; exit status 1 if anything is found"),
        ("wrm secrets scan /etc/wrm --json", "another folder, for a program"),
    ]
)
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@json_option
@pass_settings
def scan(settings: "Settings", path: Path, as_json: bool) -> int:
    """Find values of secrets in use in files and git history.

    It searches PATH (default: this folder), and shows only their places.
    """
    from dataclasses import asdict

    from wrm_pipeline.clients.secret_scan import is_repository

    if not path.exists():
        raise CommandError(f"there is no {path}")
    scanner = _scanner(settings)
    leaks = list(scanner.tree(path))
    has_history = is_repository(path)
    if has_history:
        leaks += scanner.history(path)
    if as_json:
        print_json([asdict(leak) for leak in leaks])
        return 1 if leaks else 0
    for leak in leaks:
        print(leak)
    looked_at = "the files and the git history" if has_history else "the files (there is no git history)"
    print(f"{len(leaks)} found in {looked_at} of {path.resolve()}.")
    if leaks:
        print("Issue a new one for each: removing the line does not undo the leak.")
    return 1 if leaks else 0


def _scanner(settings: "Settings") -> "Scanner":
    from wrm_pipeline.clients.secret_scan import Scanner
    from wrm_pipeline.settings import is_secret, variables_of

    values = {name: getattr(settings, name) for name in type(settings).model_fields if is_secret(name)}
    return Scanner({variables_of(name)[0]: value.get_secret_value() for name, value in values.items() if value})
