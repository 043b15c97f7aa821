"""`python -m wrm_pipeline.exporter`: Prometheus metrics from durable state, on one port.

Runs live for seconds in their own processes, so nothing is counted in them: this process reads what they left behind.
Each source is read in its own thread, and a scrape only returns the result of the last complete read. While a source is
down or hangs, its last values are served, and `exporter_up{source=…}` is 0.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.retry import SENSOR_POLICY
from wrm_pipeline.clients.server_clock import seconds_apart
from wrm_pipeline.exporter.backups import BackupSource
from wrm_pipeline.exporter.bounded_server import BoundedServer, Request, Response
from wrm_pipeline.exporter.dagster_health import HealthSource, TickSource
from wrm_pipeline.exporter.families import Source, gauge
from wrm_pipeline.exporter.feeds import FeedSource
from wrm_pipeline.exporter.host import CertificateSource, ClockSource
from wrm_pipeline.exporter.lake import DeadLetterSource, SnapshotSource
from wrm_pipeline.exporter.lake_files import LakeFilesSource
from wrm_pipeline.exporter.machine import BreakerSource, DiskSource, MemorySource, SpoolSource
from wrm_pipeline.exporter.runs import RunSource
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.vocabulary import Vocabulary
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.logs import guard_process
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.resources.lake import connect_store
from wrm_pipeline.settings import Settings, SettingsError, load_settings

logger = logging.getLogger("wrm_pipeline.exporter")

DEFAULT_PORT = 8000
DEFAULT_INTERVAL_S = 15.0

# A source without a complete read for this many intervals is down, even if it only hangs.
STALE_INTERVALS = 4

# Well within the unit's WatchdogSec.
SIGN_OF_LIFE_S = 10.0

# libpq has no default time-outs; a database that does not answer must not block a source forever.
POSTGRES_LIMITS = {"PGCONNECT_TIMEOUT": "5", "PGOPTIONS": "-c statement_timeout=20000"}


class Watcher(threading.Thread):
    """Reads one source periodically."""

    def __init__(self, source: Source, interval_s: float, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(name=f"watch-{source.name}", daemon=True)
        self.source = source
        self.interval_s = interval_s
        self.last_success: float | None = None
        self.duration_s = 0.0
        self.error = ""
        self._clock = clock
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Read until `stop`."""
        while not self._stop_event.is_set():
            self.look()
            self._stop_event.wait(self.interval_s)

    def look(self) -> None:
        """Read once; a failure is logged when it begins and when it is over."""
        started = time.monotonic()
        try:
            self.source.collect()
        except Exception as error:
            if not self.error:
                logger.warning(
                    "%s cannot be read; the last values are served meanwhile", self.source.name, exc_info=True
                )
            self.error = type(error).__name__
        else:
            if self.error:
                logger.info("%s can be read again", self.source.name)
            self.error = ""
            self.last_success = self._clock()
        self.duration_s = time.monotonic() - started

    def stop(self) -> None:
        """End soon; a hanging read is abandoned."""
        self._stop_event.set()

    def is_up(self, now: float) -> bool:
        """Whether the source's values are current."""
        within_s = STALE_INTERVALS * self.interval_s
        # A time equally far in the future is just as stale: the clock has been set back since.
        return self.last_success is not None and abs(now - self.last_success) < within_s and not self.error


class SourcesCollector(Collector):
    """All sources and how fresh they are, as one scrape sees them."""

    def __init__(self, watchers: Sequence[Watcher], clock: Callable[[], float] = time.time) -> None:
        self._watchers = watchers
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Reads memory only."""
        now = self._clock()
        for watcher in self._watchers:
            yield from watcher.source.families(now)
        watchers = {watcher.source.name: watcher for watcher in self._watchers}
        yield gauge(
            "exporter_up",
            "1 if the source's values are current, 0 if they are stale",
            "source",
            {key: int(watcher.is_up(now)) for key, watcher in watchers.items()},
        )
        yield gauge(
            "exporter_last_success_timestamp_seconds",
            "When the source was last read (Unix time; 0: never)",
            "source",
            {key: watcher.last_success or 0.0 for key, watcher in watchers.items()},
        )
        yield gauge(
            "exporter_collect_duration_seconds",
            "How long the last read took",
            "source",
            {key: watcher.duration_s for key, watcher in watchers.items()},
        )


class Server(BoundedServer):
    """`/metrics` and `/healthz`."""

    def __init__(self, address: tuple[str, int], watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers
        self._next_sign = 0.0
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(SourcesCollector(watchers))
        ProcessCollector(registry=self.registry)
        super().__init__(address)

    def service_actions(self) -> None:
        """A sign of life for systemd's watchdog, as long as every source has a live thread."""
        if time.monotonic() >= self._next_sign and all(watcher.is_alive() for watcher in self.watchers):
            self._next_sign = time.monotonic() + SIGN_OF_LIFE_S
            notify_systemd("WATCHDOG=1")

    def answer(self, request: Request) -> Response:
        """`/metrics`, `/healthz`, or a 404 that names them."""
        path = request.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
            return Response(200, content_type, encode(self.registry))
        if path == "/healthz":
            status, report = self.health()
            return Response(status, "application/json", json.dumps(report, indent=1).encode())
        if path == "/":
            page = b'<a href="/metrics">metrics</a> <a href="/healthz">health</a>'
            return Response(200, "text/html; charset=utf-8", page)
        return Response(404, "text/plain; charset=utf-8", b"There are /metrics and /healthz.\n")

    def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body; a source that is down is not a reason to restart this process."""
        now = time.time()
        sources = {
            watcher.source.name: {
                "up": watcher.is_up(now),
                "last_success": watcher.last_success,
                "error": watcher.error,
            }
            for watcher in self.watchers
        }
        alive = all(watcher.is_alive() for watcher in self.watchers)
        return (200 if alive else 503), {"status": "ok" if alive else "a thread has ended", "sources": sources}


def notify_systemd(state: str) -> None:
    """Notify systemd if this runs as a unit of Type=notify; otherwise do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
            channel.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def vocabulary(definitions: dg.Definitions) -> Vocabulary:
    """The names that the code location defines."""
    return Vocabulary(
        assets=tuple(sorted("/".join(spec.key.path) for spec in definitions.resolve_all_asset_specs())),
        jobs=tuple(sorted(job.name for job in definitions.resolve_all_job_defs())),
        instigators=tuple(
            sorted(found.name for found in (*(definitions.sensors or ()), *(definitions.schedules or ())))
        ),
    )


def build_sources(settings: Settings, words: Vocabulary, folder: Path) -> list[Source]:
    """All sources; makes no request."""
    spool = Spool(settings.spool_dir, settings.spool_max_bytes)
    volumes = {"data": settings.data_dir}
    if os.environ.get("DAGSTER_HOME"):
        volumes["dagster"] = Path(os.environ["DAGSTER_HOME"])
    store = partial(connect_store, settings, SENSOR_POLICY)
    kind = settings.feed_kinds[0]
    feed = Feed(settings.url_of(kind), settings.feed_max_bytes, private_hosts=settings.private_host_names, kind=kind)
    return [
        RunSource(dg.DagsterInstance.get, words, StateFile(folder / "runs.json"), metrics=settings.metrics_dir),
        HealthSource(dg.DagsterInstance.get),
        TickSource(dg.DagsterInstance.get, words, StateFile(folder / "ticks.json")),
        SnapshotSource(store, settings.layout, spool, settings.area, StateFile(folder / "snapshots.json")),
        DeadLetterSource(store, settings.layout),
        LakeFilesSource(store, settings.layout),
        FeedSource(store, settings.layout),
        BackupSource(
            store,
            settings.layout,
            data_dir=settings.data_dir,
            expected=settings.env == "production" or settings.backup_key is not None,
        ),
        SpoolSource(spool),
        BreakerSource(lambda: connect_breakers(settings)),
        DiskSource(volumes),
        MemorySource(),
        ClockSource(partial(seconds_apart, feed.outgoing, feed.url)),
        CertificateSource(settings.ui_url),
    ]


class AlreadyRunningError(RuntimeError):
    """Another exporter counts in the same folder."""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which is released when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"Another exporter uses {folder}. Stop it, or give this one another WRM_DATA_DIR."
            ) from None
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; exit status 2 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m wrm_pipeline.exporter", description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--interval", type=float, default=DEFAULT_INTERVAL_S, help="seconds between two reads")
    options = parser.parse_args(arguments)
    guard_process()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Each read creates new breakers; without Redis each would warn again that files are used.
    logging.getLogger("wrm_pipeline.clients.breaker").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Lets a scrape run a little sooner while a long history is counted.
    sys.setswitchinterval(0.001)
    for name, value in POSTGRES_LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        settings = load_settings()
        from wrm_pipeline.definitions import defs  # which may not load

        folder = settings.data_dir / "exporter"
        with only_one(folder):
            return serve(
                options.host, options.port, build_sources(settings, vocabulary(defs), folder), options.interval
            )
    except (SettingsError, AlreadyRunningError, OSError) as error:
        print(f"exporter: {error}", file=sys.stderr)  # noqa: T201 - before there is anything to serve
        return 2


def serve(host: str, port: int, sources: Sequence[Source], interval_s: float) -> int:
    """Read and serve until SIGTERM or SIGINT."""
    watchers = [Watcher(source, interval_s) for source in sources]
    server = Server((host, port), watchers)
    for watcher in watchers:
        watcher.start()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    logger.info("metrics on http://%s:%d/metrics", host, server.server_address[1])
    notify_systemd("READY=1")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    for watcher in watchers:
        watcher.stop()
    server.server_close()
    return 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
