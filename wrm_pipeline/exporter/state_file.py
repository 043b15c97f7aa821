"""The exporter's state on disk."""

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateFile:
    """A JSON object that is replaced atomically: after a crash it is the old one or the new one."""

    path: Path
    version: int = 1

    def load(self) -> dict[str, Any] | None:
        """The object; None if there is none yet, or it cannot be used (then it is set aside)."""
        try:
            content = json.loads(self.path.read_bytes())
            if isinstance(content, dict) and content.get("version") == self.version:
                return content
        except FileNotFoundError:
            return None
        except ValueError:
            pass
        aside = self.path.with_suffix(".unreadable")
        logger.error("%s cannot be used; it is kept as %s, and counting starts from zero", self.path, aside.name)
        self.path.replace(aside)
        return None

    def save(self, content: dict[str, Any]) -> None:
        """Write the object, durably before this returns.

        Raises:
            OSError: it could not be written; the old one remains.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"version": self.version, **content}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
