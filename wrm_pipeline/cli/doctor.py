"""`wrm doctor`: check everything that the pipeline needs, and report what was tried, the result, and what to do."""

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Literal

from wrm_pipeline.analytics.database import AnalyticsDatabase, httpfs_path
from wrm_pipeline.analytics.database_files import moved_aside
from wrm_pipeline.analytics.enhanced_files import describe_by, look_at_enhanced
from wrm_pipeline.clients.cache_values import BYTES
from wrm_pipeline.clients.causes import cause_of, host_and_port
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.redis_client import TIMEOUT_S, connect_redis
from wrm_pipeline.clients.retry import VAULT_POLICY, RetryPolicy
from wrm_pipeline.clients.server_clock import seconds_apart
from wrm_pipeline.clients.vault_errors import VaultPathMissingError
from wrm_pipeline.domain.dead_letters import PARKED, STATUSES
from wrm_pipeline.domain.feeds import FeedKind
from wrm_pipeline.domain.layout import folder_dates, local_date
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.flows.drift import look_for_drift
from wrm_pipeline.flows.future_raw import future_raw
from wrm_pipeline.flows.inspection import inspect_stored
from wrm_pipeline.flows.lake_files import look_at_files
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.cache import RedisCacheResource, connect_cache
from wrm_pipeline.resources.lake import connect_store, s3_access
from wrm_pipeline.resources.postgres import PostgresResource
from wrm_pipeline.resources.vault import Secrets, kept_in_vault, open_vault, secrets_of
from wrm_pipeline.settings import Settings, env_file_in_use

Status = Literal["ok", "warning", "failed", "not used"]

# One attempt each: the user is waiting.
_ONE_TRY = RetryPolicy(attempts=1, deadline_s=20, base_wait_s=0, max_wait_s=0, attempt_s=18)

# A day of raw, processed and enhanced objects is about 70 MB; the database and its copy come on top.
_CONNECT_S = 3

_DISK_WARNING_BYTES = 5 * 2**30
_DISK_FAILURE_BYTES = 500 * 2**20

# File names and partitions come from the clock; a report's time is compared with it.
_CLOCK_WARNING_S = 5.0
_CLOCK_FAILURE_S = 60.0

# Snapshots from around midnight that a wrong clock may have put into the wrong day.
_FEW_OF_OTHER_DAYS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Objects listed by name.
MOST_NAMED = 3

# Objects listed in a line.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was tried, the result, and what to do about a problem."""

    name: str
    status: Status
    tried: str
    got: str
    todo: str = ""
    seconds: float = 0.0


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, one after the other."""
    file = env_file_in_use()
    yield Finding(
        "configuration",
        "warning" if settings.warnings else "ok",
        f"read the environment{f' and {file.path}' if file else ''}",
        f"{settings.env}, data in {settings.data_dir}",
        " ".join(settings.warnings),
    )
    checks: list[tuple[str, Callable[[Settings], Finding], str]] = [
        *_feed_checks(settings),
        ("vault", _vault, "See `wrm config`; snapshots wait in the spool meanwhile"),
        (
            "storage",
            _storage,
            "Check the endpoint, the bucket and its credentials; snapshots wait in the spool meanwhile",
        ),
        ("feed format", _feed_format, "See the storage check first"),
        ("lake files", _lake_files, "See the storage check first"),
        ("time zone", _time_zone, "See the storage check first"),
        ("dead letters", _dead_letters, "See the storage check first"),
        ("spool", _spool, "Check the folder and its owner"),
        ("redis", _redis, "Correct REDIS_URL; files are used meanwhile"),
        ("cache", _cache, "See the redis check, and check the folder; meanwhile runs are slower, but correct"),
        ("postgresql", _postgres, "Correct the POSTGRES_ variables"),
        ("serving", _serving, "Correct the POSTGRES_SERVING_ variables; tables in the lake are not touched by it"),
        (
            "duckdb",
            _duckdb,
            "Materialize create_duckdb_enhanced_views: it moves a damaged file aside and makes a new one",
        ),
        ("enhanced files", _enhanced_files, "See the storage check first"),
        ("disk", _disk, "Check the data folder and its owner"),
        ("history", _history, "Check DAGSTER_HOME and the storage of Dagster"),
        ("clock", _clock, "The time comes from the feed's server; see the feed check first"),
        ("future", _future, "See the storage check first"),
    ]
    for name, check, default_todo in checks:
        started = time.monotonic()
        try:
            finding = check(settings)
        except Exception as error:  # noqa: BLE001 - the point of the command is to say what fails, and go on
            todo = (error.remedy if isinstance(error, ExternalError) else "") or default_todo
            got = str(error) if isinstance(error, ExternalError) else f"{type(error).__name__}: {error}"
            finding = Finding(name, "failed", f"try the {name}", got, todo)
        tried, got, todo = redact(finding.tried), redact(finding.got), redact(finding.todo)
        yield Finding(name, finding.status, tried, got, todo, round(time.monotonic() - started, 2))


def _feed_checks(settings: Settings) -> Iterator[tuple[str, Callable[[Settings], Finding], str]]:
    for kind in settings.feed_kinds:
        name = "feed" if len(settings.feed_kinds) == 1 else f"feed {kind.name}"
        todo = f"Open the URL by hand from this machine; check DNS and {kind.url_variable}"
        yield name, partial(_feed, name=name, kind=kind), todo


def _feed_of(settings: Settings, kind: FeedKind) -> Feed:
    return Feed(
        settings.url_of(kind),
        settings.feed_max_bytes,
        policy=_ONE_TRY,
        redirect_hosts=settings.feed_redirect_host_names,
        private_hosts=settings.private_host_names,
        kind=kind,
    )


def _feed(settings: Settings, *, name: str, kind: FeedKind) -> Finding:
    feed = _feed_of(settings, kind)
    tried = f"GET {feed.url}"
    fetched = feed.fetch(correlation_id="doctor")
    report = inspect_stored(fetched.body, fetched.fetched_at, feed.kind, apart=False)
    fault, counts = report.fault, report.counts
    if fault:
        return Finding(name, "failed", tried, fault.error_message, "Open the URL by hand; is it still the feed?")
    status: Status = "warning" if counts.dead_lettered else "ok"
    todo = "See `wrm dlq list` for what is wrong with these rows" if counts.dead_lettered else ""
    return Finding(name, status, tried, f"{counts.rows_out} rows, {counts.dead_lettered} dead", todo)


def _vault(settings: Settings) -> Finding:
    vault = open_vault(settings, policy=replace(VAULT_POLICY, attempts=1))
    if vault is None:
        return Finding("vault", "not used", "VAULT_ADDR is not set", "credentials come from the variables")
    tried = f"log in and read below {vault.mount_point}/ at {vault.address}"
    keys, absent = [], []
    for path in kept_in_vault(settings):
        try:
            keys.append(f"{path} ({', '.join(vault.read(path).keys)})")
        except VaultPathMissingError:
            absent.append(path)
    got = f"{'; '.join(keys)}{'; missing: ' if absent else ''}{', '.join(absent)}"
    secrets = Secrets(settings, vault)
    for ask in (secrets.s3, secrets.redis_url, secrets.webhook_url, secrets.smtp_url, secrets.postgres):
        ask()
    return Finding("vault", "ok", tried, got)


def _storage(settings: Settings) -> Finding:
    store = connect_store(settings, _ONE_TRY)
    key = f"{settings.prefix}probe/{uuid.uuid4()}.txt"
    body = b"wrm doctor"
    store.put(key, body)
    try:
        if store.get(key) != body:
            return Finding(
                "storage", "failed", f"put and get {key}", "other bytes came back", "Look at the store's own log"
            )
        listed = [info.key for info in store.list(f"{settings.prefix}probe/")]
    finally:
        store.delete(key)
    if key not in listed:
        return Finding("storage", "failed", f"list {settings.prefix}probe/", "the probe is not in the listing", "")
    return Finding("storage", "ok", "put, get, list, delete a probe object", store.name)


def _feed_format(settings: Settings) -> Finding:
    found, looked_at = look_for_drift(
        connect_store(settings, _ONE_TRY), settings.layout, now=datetime.now(UTC), cache=connect_cache(settings)
    )
    tried = f"read the newest {looked_at} bodies"
    if found is None:
        return Finding("feed format", "ok", tried, "they are read")
    todo = "Nothing is lost; once a release can read it, `wrm dlq replay --drift` publishes everything"
    return Finding("feed format", "failed", tried, str(found), todo)


def _lake_files(settings: Settings) -> Finding:
    files = look_at_files(connect_store(settings, _ONE_TRY), settings.layout, local_date(datetime.now(UTC)))
    tried = f"list raw/ and the partitions below {settings.prefix or 'the root'}"
    if not any(files.wrong.values()):
        return Finding("lake files", "ok", tried, files.text)
    todo = (
        "Rows of raw objects that vanished, shrank or cannot be read stay published: bring the objects back, or run "
        "the day with `allow_shrink: true`. `wrm rebuild --dry-run` shows what would happen to foreign and damaged "
        "files"
    )
    return Finding("lake files", "warning", tried, files.text, todo)


def _time_zone(settings: Settings) -> Finding:
    """Whether the newest days' snapshots are of these days: a lake of another zone cuts them elsewhere."""
    layout, raw = settings.layout, connect_store(settings, _ONE_TRY)
    days = folder_dates(raw.list_folders(layout.raw_prefix))
    keys = [layout.parse_raw_key(info.key) for dt in days[-2:] for info in raw.list(layout.raw_folder(dt))]
    taken = [key for key in keys if key is not None and key.file_timestamp is not None]
    others = [key for key in taken if local_date(key.file_timestamp or _EPOCH) != key.dt]
    tried = f"compare the newest days with the times of their snapshots in {settings.timezone} (WRM_TIMEZONE)"
    if len(others) <= _FEW_OF_OTHER_DAYS:
        return Finding("time zone", "ok", tried, f"{len(taken)} snapshots, {len(others)} of another day")
    example = max(others, key=lambda key: key.file_timestamp or _EPOCH)
    got = f"{len(others)} of {len(taken)} snapshots are of another day, as {example.key}"
    todo = (
        "Set WRM_TIMEZONE to the zone in which this lake was made, or give the city a lake of its own "
        "(WRM_STATIONS_S3_PREFIX, WRM_DATA_DIR); names in another zone than UTC need WRM_RAW_NAME_TIMEZONE"
    )
    return Finding("time zone", "failed", tried, got, todo)


def _dead_letters(settings: Settings) -> Finding:
    store = connect_store(settings, _ONE_TRY)
    entries = DeadLetterQueue(store, settings.layout, connect_cache(settings)).entries()
    counts = Counter(letter.status for letter in entries.letters)
    parts = [f"{counts[status]} {status}" for status in STATUSES]
    got = f"{len(entries.letters)} entries: {', '.join(parts)}; {len(entries.unreadable)} objects cannot be read"
    tried = f"read {settings.layout.dead_letter_prefix}"
    if entries.unreadable:
        named = "; ".join(f"{letter.key}: {letter.reason}" for letter in entries.unreadable[:_NAMED])
        todo = (
            "Correct these objects, or take them out of the queue with `wrm dlq discard ID --reason '…'`; "
            "they block nothing else"
        )
        return Finding("dead letters", "warning", tried, f"{got}: {named}", todo)
    if counts[PARKED]:
        return Finding("dead letters", "warning", tried, got, "`wrm dlq list --status parked`: these need a person")
    return Finding("dead letters", "ok", tried, got)


def _spool(settings: Settings) -> Finding:
    spool = Spool(settings.spool_dir, settings.spool_max_bytes)
    strangers = spool.strangers()
    if strangers:
        named = ", ".join(str(stranger) for stranger in strangers[:_NAMED])
        got = f"{len(strangers)} files cannot be delivered: {named}"
        todo = (
            "Correct the owner or mode of a snapshot and move it back into the spool under a name like its "
            "neighbours'; remove anything else. They block nothing"
        )
        return Finding("spool", "warning", f"look into {spool.folder}", got, todo)
    waiting = list(spool.waiting())
    got = f"{len(waiting)} snapshots wait, {spool.size_bytes} of {spool.max_bytes} bytes"
    if not waiting:
        return Finding("spool", "ok", f"look into {spool.folder}", got)
    todo = f"The oldest is from {waiting[0].fetched_at:%Y-%m-%d %H:%M} UTC; the next run delivers them if storage is ok"
    return Finding("spool", "failed" if spool.filling else "warning", f"look into {spool.folder}", got, todo)


def _redis(settings: Settings) -> Finding:
    url = secrets_of(settings).redis_url()
    if url is None:
        return Finding("redis", "not used", "REDIS_URL is not set", "state is kept in files")
    import redis

    try:
        connect_redis(url).ping()
    except redis.RedisError as error:
        todo = "Start Redis or correct REDIS_URL; meanwhile files are used, and nothing fails"
        return Finding("redis", "warning", "PING", cause_of(error, *host_and_port(url), waited_s=TIMEOUT_S), todo)
    return Finding("redis", "ok", "PING", "PONG")


def _cache(settings: Settings) -> Finding:
    place = RedisCacheResource.of(settings).place
    if settings.cache_max_bytes == 0:
        return Finding("cache", "not used", "WRM_CACHE_MAX_BYTES is 0", "each object is fetched again")
    cache, key = connect_cache(settings), f"probe:{uuid.uuid4()}"
    cache.put(key, b"wrm doctor", BYTES, ttl_s=60)
    if cache.get(key, BYTES) == b"wrm doctor":
        return Finding("cache", "ok", "store and look up a value", place)
    got = cache.problem or "the value was not stored: the disk or Redis is full"
    todo = "Make room, or check the folder's owner, or Redis; meanwhile runs use the store directly, and nothing fails"
    return Finding("cache", "warning", f"store and look up a value in {place}", got, todo)


def _postgres(settings: Settings) -> Finding:
    access = secrets_of(settings).postgres()
    if access is None:
        return Finding("postgresql", "not used", "POSTGRES_HOST is not set", "Dagster keeps its history in SQLite")
    import psycopg2

    where = f"{access.host}:{access.port}/{access.db}"
    try:
        connection = psycopg2.connect(
            host=access.host,
            port=access.port,
            dbname=access.db,
            user=access.user,
            password=access.password,
            connect_timeout=_CONNECT_S,
        )
    except psycopg2.OperationalError as error:
        got = cause_of(error, access.host, access.port, waited_s=_CONNECT_S)
        todo = "Start PostgreSQL, or correct the POSTGRES_ variables; Dagster cannot run without it"
        return Finding("postgresql", "failed", f"connect to {where}", got, todo)
    connection.close()
    return Finding("postgresql", "ok", f"connect to {where}", "connected")


def _serving(settings: Settings) -> Finding:
    resource = PostgresResource.of(settings)
    if resource.host is None:
        return Finding("serving", "not used", "POSTGRES_SERVING_HOST is not set", "no tables are published")
    login, schema = resource.login, resource.schema_name
    sql = (
        "SELECT CASE WHEN to_regnamespace(%s) IS NULL THEN has_database_privilege(current_database(), 'CREATE') "
        "ELSE has_schema_privilege(%s, 'CREATE') END"
    )
    with login.connect(read_only=True) as connection:
        ((may_write,),) = connection.execute(sql, [schema, schema]).fetchall()
    tried = f"connect to {login.place} and look at the schema {schema}"
    if may_write:
        return Finding("serving", "ok", tried, "tables can be made there")
    todo = f"Let {login.user} own the database, or the schema (docs/serving.md)"
    return Finding("serving", "failed", tried, f"{login.user} may not make tables there", todo)


def _duckdb(settings: Settings) -> Finding:
    database = AnalyticsDatabase(settings.database_path, s3_access(settings))
    extension = httpfs_path()
    if not database.path.exists():
        todo = "It appears with the first run of wrm_stations_processing_job"
        return Finding("duckdb", "warning", f"open {database.path}", "there is no database yet", todo)
    with database.reading(heal=False) as connection:
        row = connection.execute("SELECT count(*) FROM wrm_analytics.wrm_stations_latest").fetchone()
    got = f"{row[0] if row else 0} stations; {extension.name} is installed"
    aside = [path.name for path in moved_aside(settings.database_path)]
    if aside:
        todo = "Look at the files moved aside, then delete them: nothing uses them"
        return Finding("duckdb", "warning", "count wrm_stations_latest", f"{got}; beside it: {', '.join(aside)}", todo)
    return Finding("duckdb", "ok", "count wrm_stations_latest", got)


def _enhanced_files(settings: Settings) -> Finding:
    store = connect_store(settings, _ONE_TRY)
    describe = describe_by(AnalyticsDatabase(settings.database_path, s3_access(settings)))
    tried = f"look at the files below {settings.layout.layer_prefix('enhanced')}"
    found = look_at_enhanced(store, settings.layout, settings.enhanced_index_path, describe)
    if not found.problems:
        return Finding("enhanced files", "ok", tried, f"{len(found.files)} days, all can be read")
    first = found.problems[0]
    got = f"{len(found.problems)} of {len(found.files)} days cannot be read, first {first.key}: {first.problem}"
    todo = f"`wrm rebuild --from {first.dt} --to {first.dt}`; the views and tables omit such days"
    return Finding("enhanced files", "failed", tried, got, todo)


def _disk(settings: Settings) -> Finding:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.data_dir).free
    status: Status = "ok" if free > _DISK_WARNING_BYTES else "warning" if free > _DISK_FAILURE_BYTES else "failed"
    todo = "" if status == "ok" else f"Make room on the disk of {settings.data_dir}"
    return Finding("disk", status, f"free space at {settings.data_dir}", f"{free / 2**30:.1f} GiB", todo)


def _history(settings: Settings) -> Finding:
    """Dagster's own history, and what it will take."""
    import dagster as dg

    from wrm_pipeline.jobs.history_size import measure_history

    if not os.environ.get("DAGSTER_HOME"):
        return Finding("history", "not used", "DAGSTER_HOME is not set", "it is unknown where Dagster's history is")
    with dg.DagsterInstance.get() as instance:
        size = measure_history(instance, datetime.now(UTC))
    days, most = settings.history_days, settings.history_max_bytes
    to_come = size.after(days)
    got = (
        f"{size.runs:,} runs take {size.bytes / 2**20:,.0f} MiB; at {size.runs_a_day:,.0f} runs a day, "
        f"{days} days will take {to_come / 2**20:,.0f} MiB"
    )
    tried = "measure Dagster's history"
    if to_come <= most:
        return Finding("history", "ok", tried, got)
    todo = (
        f"`wrm prune` keeps fewer days, down to two, to stay below WRM_HISTORY_MAX_BYTES ({most / 2**20:,.0f} MiB): "
        "raise it, or lower WRM_HISTORY_DAYS"
    )
    return Finding("history", "warning", tried, got, todo)


def _clock(settings: Settings) -> Finding:
    feed = _feed_of(settings, settings.feed_kinds[0])
    apart = seconds_apart(feed.outgoing, feed.url)
    if apart is None:
        return Finding("clock", "warning", "compare with the feed server's Date", "it sends none", "Check NTP by hand")
    skew = abs(apart)
    status: Status = "ok" if skew <= _CLOCK_WARNING_S else "warning" if skew <= _CLOCK_FAILURE_S else "failed"
    todo = "" if status == "ok" else "Start time synchronisation (systemd-timesyncd or chrony)"
    return Finding("clock", status, "compare with the feed server's Date", f"{skew:.0f} s apart", todo)


def _future(settings: Settings) -> Finding:
    """Traces of a clock that was ahead: in Dagster's storage, if there is one, and in the lake."""
    import dagster as dg

    from wrm_pipeline.resources.clock_repair import ClockTraces, find_traces

    now = datetime.now(UTC)
    tried = "look for anything dated in the future"
    traces = ClockTraces()
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as instance:
            traces = find_traces(instance, now)
    got, todo = [str(traces)] if traces else [], []
    if traces.in_the_way:
        todo.append("`wrm repair-clock --apply`, then restart the daemon; a running daemon does both by itself.")
    store = connect_store(settings, _ONE_TRY)
    ahead = list(islice(future_raw(store, settings.layout, now), MOST_NAMED + 1))
    if ahead:
        more = " and more" if len(ahead) > MOST_NAMED else ""
        got.append(f"snapshots dated in the future: {', '.join(info.key for info in ahead[:MOST_NAMED])}{more}")
        todo.append("`wrm raw move-future` shows where these belong, and with --apply moves them there.")
    if not got:
        return Finding("future", "ok", tried, "nothing")
    if traces and not todo:
        todo.append("Nothing: it is history and blocks nothing. Find out why the clock was wrong (`timedatectl`).")
    return Finding("future", "failed" if traces.in_the_way else "warning", tried, "; ".join(got), " ".join(todo))
