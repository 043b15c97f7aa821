"""Masks secrets in exceptions and events that Dagster records.

Everything passes one of three places. An exception first becomes a `SerializableErrorInfo`: failures of steps and their
causes, ticks, a code location that does not load. Database content is serialized by `serialize_value` in the storage's
module, for SQLite and PostgreSQL alike: messages, metadata, check results, ticks. So are the code server's answers to
the daemon and the UI. None of them has a hook, so they are wrapped; tests fail if a version of Dagster moves them.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

from wrm_pipeline.domain.masking import redact
from wrm_pipeline.logs import guard_process

# Not the storage of runs: their snapshots are by far the longest, consist of names, and come from this process.
_STORAGES = ("dagster._core.storage.event_log.sql_event_log", "dagster._core.storage.schedules.sql_schedule_storage")
# A code server loads it before our code; other processes do not need it.
_SERVER = "dagster._grpc.server"

# Names used by Dagster for look-ups; they do not contain messages.
_STRUCTURE = frozenset({"__class__", "__enum__", "run_id", "step_key", "job_name", "pipeline_name", "event_type_value"})


def guard_dagster() -> None:
    """Mask secrets in everything that this process reports to Dagster, writes or logs; idempotent."""
    guard_process()
    from dagster_shared.error import SerializableErrorInfo

    present = inspect.getattr_static(SerializableErrorInfo, "from_traceback")
    if not getattr(present.__func__, "masks", False):
        SerializableErrorInfo.from_traceback = _masked_error(present.__func__)  # type: ignore[method-assign]
    for module in (
        *map(importlib.import_module, _STORAGES),
        *([sys.modules[_SERVER]] if _SERVER in sys.modules else []),
    ):
        if not getattr(module.serialize_value, "masks", False):
            module.serialize_value = _masked_text(module.serialize_value)  # type: ignore[attr-defined]


def _masked_error(make: Callable[..., Any]) -> Any:
    def from_traceback(cls: Any, tb: Any) -> Any:
        # Causes and contexts are created by calls of this method.
        made = make(cls, tb)
        return made._replace(message=redact(made.message), stack=[redact(line) for line in made.stack])

    from_traceback.masks = True  # type: ignore[attr-defined]
    return classmethod(from_traceback)


def _masked_text(serialize: Callable[..., str]) -> Callable[..., str]:
    def serialize_value(*args: Any, **kwargs: Any) -> str:
        text = serialize(*args, **kwargs)
        return text if redact(text) == text else json.dumps(_masked(json.loads(text)))

    serialize_value.masks = True  # type: ignore[attr-defined]
    return serialize_value


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in _STRUCTURE else _masked(item) for name, item in value.items()}
    return value
