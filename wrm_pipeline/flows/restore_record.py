"""When a backup was last opened and read to its end on this machine, or restored."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from wrm_pipeline.clients.whole_files import write_whole

NAME = "restore-tried.json"


def note_tried(data_dir: Path, key: str, at: datetime) -> None:
    """Note that the backup `key` was tried with success.

    Raises:
        OSError: it cannot be written.
    """
    note = {"at": at.astimezone(UTC).isoformat(timespec="seconds"), "key": key}
    write_whole(data_dir / NAME, json.dumps(note).encode())


def last_tried(data_dir: Path) -> datetime | None:
    """When one was last tried with success; None if never, or if the note cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        at = datetime.fromisoformat(json.loads((data_dir / NAME).read_bytes())["at"])
        return at if at.tzinfo else None
    return None
