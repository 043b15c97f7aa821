"""One log for everything that a run does, both in the Dagster UI and in a file.

Code logs through `get_logger`. Dagster is configured (`python_logs` in dagster.yaml) to record these messages in its
event log, and to pass all messages of a run, including its own, to RunLogHandler, which writes them to
`$WRM_DATA_DIR/logs/`: JSON lines in production, readable lines in local mode. Each line carries run_id, asset and
partition. Secrets are masked last, however they got there (`masking`).
"""

import json
import logging
import resource
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from wrm_pipeline.domain.masking import redact, remember_environment
from wrm_pipeline.domain.shown import MAX_LOG_LINE, MAX_LOG_VALUE, shortened, visible

LOGGER_NAME = "wrm_pipeline"

# A day's log of 1,440 ingest and as many processing runs is about 5 MB.
KEPT_DAYS = 30

_destination: tuple[Path, bool] | None = None


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose messages reach the run's log; `name` is the module's."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(folder: Path, *, as_json: bool) -> None:
    """Route structlog through the standard library, where Dagster picks it up. Opens no file.

    `folder` is where RunLogHandler writes.
    """
    global _destination  # noqa: PLW0603 - logging is configured once for a process
    _destination = (folder, as_json)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)


def guard_process() -> None:
    """Mask secrets in everything that this process writes or logs, and disable core dumps; idempotent.

    Everything that Python writes to stdout and stderr (so also tracebacks, and Dagster's compute logs) and everything
    that libraries log passes through `redact`, even in existing handlers.
    """
    remember_environment()
    # A memory dump would contain every secret. Child processes inherit the limit.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for stream in (sys.stdout, sys.stderr):
        _mask_stream(stream)
    make = logging.getLogRecordFactory()
    if not getattr(make, "masks", False):
        logging.setLogRecordFactory(_masking(make))


def _mask_stream(stream: Any) -> None:
    """On the object itself, since existing handlers hold a reference to it."""
    write = getattr(stream, "write", None)
    if write is None or getattr(write, "masks", False):
        return

    def masked(text: Any) -> int:
        write(redact(text) if isinstance(text, str) else text)
        return len(text)

    masked.masks = True  # type: ignore[attr-defined]
    with suppress(AttributeError, TypeError):
        stream.write = masked


def _masking(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with suppress(Exception):  # the handlers report messages that do not fit their arguments
            _mask_record(record)
        return record

    masked.masks = True  # type: ignore[attr-defined]
    return masked


def _mask_record(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[0] is not None:
        # Formatters use an existing text.
        text = logging.Formatter().formatException(record.exc_info)
        masked = redact(text)
        if masked != text:
            record.exc_text = masked
    message = record.getMessage()
    if redact(message) == message:
        return
    if isinstance(record.args, tuple):
        # Some formatters (of access logs) want their arguments one by one.
        record.args = tuple(redact(value) if isinstance(value, str) else value for value in record.args)
        message = record.getMessage()
        if redact(message) == message:
            return
    record.msg, record.args = redact(message), ()


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """The message shown in the UI: the event, then its values; the values are also kept for the file."""
    message = str(event.pop("event", ""))
    traceback = event.pop("exception", None)
    values = {key: _plain(value) for key, value in event.items()}
    text = " ".join([message, *(f"{key}={value}" for key, value in values.items())])
    if traceback:
        text = f"{text}\n{traceback}"
    return (redact(text),), {"extra": {"wrm_event": message, "wrm_values": values}}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) or value is None else shortened(str(value), MAX_LOG_VALUE)


class RunLogHandler(logging.Handler):
    """Appends each message of a run to a file of its day below the data folder."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a log that cannot be written does not fail the run."""
        if _destination is None:
            return
        folder, as_json = _destination
        try:
            line = format_record(record, as_json=as_json)
            at = datetime.fromtimestamp(record.created, UTC)
            path = folder / f"wrm-{at:%Y-%m-%d}.{'jsonl' if as_json else 'log'}"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                _remove_old(folder, at)
            # A line is written at once in append mode, so lines of concurrent runs do not mix.
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except Exception:  # noqa: BLE001 - logging.Handler's own way to say that it failed
            self.handleError(record)


def format_record(record: logging.LogRecord, *, as_json: bool) -> str:
    """A record as written to the file, redacted."""
    fields = _fields(record)
    if as_json:
        return redact(visible(json.dumps(fields, ensure_ascii=False, default=str)))
    where = " ".join(str(fields[name]) for name in ("asset", "partition") if name in fields)
    text = f"{fields['time']} {fields['level']:<7} {str(fields.get('run_id', '-'))[:8]} {where}: {fields['message']}"
    return redact(visible(text.replace("\n", "\n    ")))


def _remove_old(folder: Path, now: datetime) -> None:
    oldest = f"wrm-{now - timedelta(days=KEPT_DAYS):%Y-%m-%d}"
    for path in folder.glob("wrm-*.*"):
        if path.name < oldest:
            with suppress(OSError):
                path.unlink()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line, whether from our code, from `context.log`, or a Dagster event."""
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", None) or {}
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": meta.get("orig_logger") or record.name,
        "message": meta.get("orig_message") or record.getMessage(),
        "run_id": meta.get("run_id"),
        "job": meta.get("job_name"),
        "asset": meta.get("step_key"),
    }
    fields["partition"] = (meta.get("job_tags") or {}).get("dagster/partition")
    fields |= getattr(record, "wrm_values", {})
    event = getattr(record, "dagster_event", None)
    error = getattr(getattr(event, "event_specific_data", None), "error", None)
    if error is not None:
        # Dagster's tracebacks have no local variables.
        fields["message"] = f"{fields['message']}\n{error.to_string()}"
    if record.exc_info:
        fields["error"] = logging.Formatter().formatException(record.exc_info)
    shown = {name: shortened(v, MAX_LOG_LINE) if isinstance(v, str) else v for name, v in fields.items()}
    return {name: value for name, value in shown.items() if value is not None}
