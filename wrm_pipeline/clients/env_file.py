"""The `.env` in the working directory: variables with the lowest precedence, for people who work in a checkout.

It is not read if the environment has WRM_ENV=production: otherwise a file that somebody left in a service's folder
would configure the service. WRM_DOTENV names another file, which is always read; /dev/null disables it.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from wrm_pipeline.domain.values import stripped

CHOICE = "WRM_DOTENV"
_NAME = ".env"


class EnvFileError(ValueError):
    """The file cannot be read; the message has the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file of variables.

    Attributes:
        path: Absolute.
        values: Its variables, without empty ones.
        open_to_others: Accounts other than its owner may read or write it.
    """

    path: Path
    values: Mapping[str, str] = field(repr=False)
    open_to_others: bool = False


def find_env_file(environment: Mapping[str, str]) -> EnvFile | None:
    """The current content of the file that applies in this environment; None if there is none.

    Raises:
        EnvFileError: it cannot be read.
    """
    chosen = environment.get(CHOICE)
    if not chosen and environment.get("WRM_ENV") == "production":
        return None
    path = Path(chosen or _NAME).absolute()
    if not chosen and not path.is_file():  # virtual environments may have this name, too
        return None
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size, found.st_mode)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise EnvFileError(
            f"{path} cannot be read ({why}). Correct its owner or mode, or set {CHOICE} to another file; "
            f"{os.devnull} does without one."
        ) from None


def ignored_env_file(environment: Mapping[str, str]) -> Path | None:
    """A file in the working directory of a service in production, which is not read."""
    path = Path(_NAME).absolute()
    is_ignored = not environment.get(CHOICE) and environment.get("WRM_ENV") == "production"
    return path if is_ignored and path.is_file() else None


@lru_cache(maxsize=4)
def _read(path: Path, _changed_ns: int, _size: int, mode: int) -> EnvFile:
    from dotenv import dotenv_values  # comes with pydantic-settings

    with path.open(encoding="utf-8") as stream:
        # No interpolation: a password may have a dollar sign.
        lines = dotenv_values(stream=stream, interpolate=False)
    values = {name: value for name, text in lines.items() if text and (value := stripped(text))}
    return EnvFile(path, values, bool(stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO)))
