"""One log for everything that a run does, in the Dagster UI and in a file alike.

Code logs through `get_logger`. Dagster is told (`python_logs` in dagster.yaml) to take these messages into its event
log, and to hand all messages of a run, its own included, to RunLogHandler, which writes them to
`$WRM_DATA_DIR/logs/`: JSON lines in production, readable lines in local mode. Each line carries run_id, asset and
partition. Known secrets and credentials in URLs are masked last, whatever brought them there.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

LOGGER_NAME = "wrm_pipeline"

# A day's log of 1,440 ingest and as many processing runs is about 5 MB.
KEPT_DAYS = 30

_MASK = "***"
_URL_CREDENTIALS = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
# Masking "a" or "1" would make a log unreadable and hide nothing.
_SHORTEST_SECRET = 6

_destination: tuple[Path, bool] | None = None

_secrets: set[str] = set()
_secrets_lock = threading.Lock()


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


def remember_secret(value: str) -> None:
    """Mask `value` in every line from now on."""
    if len(value) >= _SHORTEST_SECRET:
        with _secrets_lock:
            _secrets.add(value)


def redact(text: str) -> str:
    """`text` without known secrets and without credentials in URLs."""
    with _secrets_lock:
        secrets = sorted(_secrets, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return _URL_CREDENTIALS.sub(rf"\1{_MASK}@", text)


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """What a person reads in the UI: the event, then its values; the values themselves go along for the file."""
    message = str(event.pop("event", ""))
    traceback = event.pop("exception", None)
    values = {key: _plain(value) for key, value in event.items()}
    text = " ".join([message, *(f"{key}={value}" for key, value in values.items())])
    if traceback:
        text = f"{text}\n{traceback}"
    return (redact(text),), {"extra": {"wrm_event": message, "wrm_values": values}}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) or value is None else str(value)


class RunLogHandler(logging.Handler):
    """Appends each message of a run to a file of its day below the data folder."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a log that cannot be written fails no run."""
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
            # One write of a line in append mode: lines of runs at the same time do not mix.
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except Exception:  # noqa: BLE001 - logging.Handler's own way to say that it failed
            self.handleError(record)


def format_record(record: logging.LogRecord, *, as_json: bool) -> str:
    """A record as it stands in the file, redacted."""
    fields = _fields(record)
    if as_json:
        return redact(json.dumps(fields, ensure_ascii=False, default=str))
    where = " ".join(str(fields[name]) for name in ("asset", "partition") if name in fields)
    text = f"{fields['time']} {fields['level']:<7} {str(fields.get('run_id', '-'))[:8]} {where}: {fields['message']}"
    return redact(text.replace("\n", "\n    "))


def _remove_old(folder: Path, now: datetime) -> None:
    oldest = f"wrm-{now - timedelta(days=KEPT_DAYS):%Y-%m-%d}"
    for path in folder.glob("wrm-*.*"):
        if path.name < oldest:
            with suppress(OSError):
                path.unlink()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, whether it is of our code, of `context.log`, or an event of Dagster's."""
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
    return {name: value for name, value in fields.items() if value is not None}
