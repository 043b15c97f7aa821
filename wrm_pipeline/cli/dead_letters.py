"""`wrm dlq`: look at dead letters and settle them."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Any

from tabulate import tabulate

from wrm_pipeline.domain.dead_letters import (
    DISCARDED,
    MAX_RAW_DATA_BYTES,
    MAX_READ_BYTES,
    MAX_RETRIES,
    PARKED,
    PENDING,
    STATUSES,
    UNREADABLE,
    DeadLetter,
)
from wrm_pipeline.domain.layout import folder_date
from wrm_pipeline.lake.dead_letter_queue import (
    DeadLetterQueue,
    DeadLetterTooLargeError,
    Entries,
    UnreadableLetter,
)
from wrm_pipeline.settings import Settings

_SHOWN_RECORDS = 50
_SHOWN_BYTES = 300


class DeadLetterCommandError(Exception):
    """The command cannot be done as it was given; the message says why."""


def add_commands(commands: Any) -> None:
    """Add `dlq` and its verbs to argparse's subparsers."""
    dlq = commands.add_parser("dlq", help="look at and settle dead letters")
    verbs = dlq.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="entries of the queue, the newest first")
    listing.set_defaults(command=_list)
    _add_selection(listing)
    listing.add_argument("--status", action="append", choices=[*STATUSES, UNREADABLE], default=[])
    listing.add_argument("--json", action="store_true", help="one JSON array")

    show = verbs.add_parser("show", help="one entry with its records")
    show.set_defaults(command=_show)
    show.add_argument("id", help="entry id, or enough of its beginning")
    show.add_argument("--json", action="store_true", help="the stored JSON")

    correct = verbs.add_parser("correct", help="give the right line for a dead one; the next build uses it")
    correct.set_defaults(command=_correct)
    correct.add_argument("id", help="entry id, or enough of its beginning")
    correct.add_argument("--line", type=int, required=True, help="line number in the raw object, as `show` gives it")
    correct.add_argument("--data", required=True, help="the whole line as it should have been")

    discard = verbs.add_parser("discard", help="give entries up; they stay in the queue with the reason")
    discard.set_defaults(command=_discard)
    discard.add_argument("id", nargs="?", help="entry id, or enough of its beginning: one entry, at once")
    _add_selection(discard)
    discard.add_argument("--reason", required=True)
    discard.add_argument(
        "--write", action="store_true", help="for many (--error, --date): do it; without, only say how many"
    )

    again = verbs.add_parser("replay", help="try pending entries again, now and here (as the job reprocess_dlq does)")
    again.set_defaults(command=_replay)
    _add_selection(again)
    again.add_argument(
        "--id", action="append", default=[], dest="ids", help="only this entry, parked ones, too; may be repeated"
    )
    again.add_argument(
        "--drift",
        action="store_true",
        help="after a release that reads a changed format: the bodies and entries of that change, parked ones, too",
    )
    again.add_argument("--parked", action="store_true", help="entries that are parked, too")
    again.add_argument("--max-retries", type=int, default=MAX_RETRIES, help="failures after which an entry is parked")
    again.add_argument("--dry-run", action="store_true", help="only say what would be tried")
    again.add_argument("--json", action="store_true", help="one JSON array")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--date", action="append", type=date.fromisoformat, default=[], help="YYYY-MM-DD; repeatable")
    parser.add_argument("--error-type", "--error", action="append", default=[], help="may be repeated")


def _queue(settings: Settings) -> DeadLetterQueue:
    from wrm_pipeline.resources.lake import connect_store

    return DeadLetterQueue(connect_store(settings), settings.layout)


def _chosen(queue: DeadLetterQueue, options: argparse.Namespace, statuses: Sequence[str]) -> Entries:
    """The entries that the options name, the newest first."""
    parts = [queue.entries(dt) for dt in sorted(set(options.date))] if options.date else [queue.entries()]
    letters = [
        letter
        for part in parts
        for letter in part.letters
        if (not options.error_type or letter.error_type in options.error_type)
        and (not statuses or letter.status in statuses)
    ]
    letters.sort(key=lambda letter: letter.timestamp, reverse=True)
    unreadable = [letter for part in parts for letter in part.unreadable]
    wanted = not options.error_type and (not statuses or UNREADABLE in statuses)
    return Entries(tuple(letters), tuple(unreadable) if wanted else ())


def _list(options: argparse.Namespace, settings: Settings) -> int:
    queue = _queue(settings)
    _print(_chosen(queue, options, options.status), queue, as_json=options.json)
    return 0


def _print(entries: Entries, queue: DeadLetterQueue, *, as_json: bool) -> None:
    if as_json:
        contents = [json.loads(letter.to_json()) for letter in entries.letters]
        contents += [_unreadable_content(letter) for letter in entries.unreadable]
        print(json.dumps(contents, ensure_ascii=False, indent=1))
        return
    if not entries.letters and not entries.unreadable:
        print(f"No such entries in {queue.layout.dead_letter_prefix} of {queue.store.name}.")
        return
    rows: list[list[Any]] = [
        [
            _shown(letter.entry_id, 8, more=""),
            letter.partition_date,
            _shown(letter.error_type, 30),
            letter.status,
            letter.retry_count,
            letter.records_total,
            _shown(PurePosixPath(letter.source_key).name, 60),
            _shown(letter.error_message, 60),
        ]
        for letter in entries.letters
    ]
    rows += [
        [
            _shown(letter.name, 8, more=""),
            _day(letter),
            "",
            UNREADABLE,
            "",
            "",
            f"{letter.size_bytes} bytes",
            _shown(letter.reason, 60),
        ]
        for letter in entries.unreadable
    ]
    headers = ["id", "date", "error", "status", "retries", "records", "source", "message"]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    if entries.unreadable:
        print(
            f"\n{len(entries.unreadable)} objects cannot be read as dead letters. `wrm dlq show ID` says why. Correct "
            "the object, or take it out of the queue: wrm dlq discard ID --reason '...'"
        )


def _unreadable_content(letter: UnreadableLetter) -> dict[str, Any]:
    return {
        "entry_id": letter.name,
        "status": UNREADABLE,
        "partition_date": _day(letter),
        "key": letter.key,
        "size_bytes": letter.size_bytes,
        "error_message": letter.reason,
    }


def _day(letter: UnreadableLetter) -> str:
    dt = folder_date(letter.key.rpartition("/")[0])
    return dt.isoformat() if dt else ""


def _shown(text: str, length: int = 10_000, more: str = "…") -> str:
    """Text of others as a terminal may have it: nothing that moves its cursor, and not too much."""
    cut = text[:length] + (more if len(text) > length else "")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def _find(queue: DeadLetterQueue, entry_id: str) -> DeadLetter | UnreadableLetter:
    letter = queue.find(entry_id)
    if letter is None:
        raise DeadLetterCommandError(
            f"there is no one entry whose id starts with {entry_id!r}; `wrm dlq list` shows the ids"
        )
    return letter


def _find_readable(queue: DeadLetterQueue, entry_id: str) -> DeadLetter:
    letter = _find(queue, entry_id)
    if isinstance(letter, UnreadableLetter):
        raise DeadLetterCommandError(f"{letter.key} cannot be read: {letter.reason}. Correct the object first")
    return letter


def _show(options: argparse.Namespace, settings: Settings) -> int:
    queue = _queue(settings)
    letter = _find(queue, options.id)
    if isinstance(letter, UnreadableLetter):
        return _show_unreadable(queue, letter, as_json=options.json)
    if options.json:
        print(letter.to_json().decode())
        return 0
    for name in (
        "entry_id",
        "status",
        "retry_count",
        "error_type",
        "error_message",
        "partition_date",
        "source_key",
        "timestamp",
        "last_seen",
        "asset_name",
        "note",
    ):
        print(f"{name:<15} {_shown(str(getattr(letter, name)))}")
    for name, value in letter.extra.items():
        print(f"{_shown(name, 40):<15} {_shown(json.dumps(value, ensure_ascii=False), 1000)}")
    print(f"{'records':<15} {letter.records_total}, of which {len(letter.records)} are kept here")
    for record in letter.records[:_SHOWN_RECORDS]:
        line = f"line {record.line_number}" if record.line_number else "a line"
        print(f"\n{line}: {_shown(record.error_message)}\n  {_shown(repr(record.raw_data))}")
        if record.corrected_data is not None:
            print(f"  corrected: {_shown(repr(record.corrected_data))}")
    return 0


def _show_unreadable(queue: DeadLetterQueue, letter: UnreadableLetter, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(_unreadable_content(letter), ensure_ascii=False, indent=1))
        return 0
    print(f"{letter.key} cannot be read: {_shown(letter.reason)}")
    if letter.size_bytes <= MAX_READ_BYTES:
        print(f"It begins with {queue.store.get(letter.key)[:_SHOWN_BYTES]!r}")
    print("Correct the object, or take it out of the queue: wrm dlq discard ID --reason '...'")
    return 0


def _correct(options: argparse.Namespace, settings: Settings) -> int:
    queue = _queue(settings)
    letter = _find_readable(queue, options.id)
    known = sorted({record.line_number for record in letter.records if record.line_number})
    if options.line not in known:
        lines = ", ".join(map(str, known[:20]))
        raise DeadLetterCommandError(
            f"entry {letter.entry_id} has no record of line {options.line}; it has {lines or 'none'}"
        )
    if "\n" in options.data or "\r" in options.data:
        raise DeadLetterCommandError("--data is one line")
    size = len(options.data.encode("utf-8", "replace"))
    if size > MAX_RAW_DATA_BYTES:
        raise DeadLetterCommandError(f"--data has {size} bytes; a line has at most {MAX_RAW_DATA_BYTES}")
    records = tuple(
        replace(record, corrected_data=options.data) if record.line_number == options.line else record
        for record in letter.records
    )
    try:
        queue.put(replace(letter, records=records, status=PENDING, retry_count=0))
    except DeadLetterTooLargeError as error:
        raise DeadLetterCommandError(str(error)) from None
    print(f"Line {options.line} is corrected. `wrm dlq replay --id {letter.entry_id}` publishes it.")
    return 0


def _discard(options: argparse.Namespace, settings: Settings) -> int:
    queue = _queue(settings)
    note = f"discarded {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {options.reason}"
    if bool(options.id) == bool(options.date or options.error_type):
        raise DeadLetterCommandError("say which: one id, or --error TYPE and --date DAY for many")
    if options.id:
        letter = _find(queue, options.id)
        if isinstance(letter, UnreadableLetter):
            print(f"{letter.key} is no longer in the queue; its bytes are in {queue.set_aside(letter)}.")
            return 0
        queue.put(replace(letter, status=DISCARDED, note=note))
        print(f"{letter.entry_id} is discarded. The raw object stays.")
        return 0
    letters = _chosen(queue, options, [PENDING, PARKED]).letters
    counts = Counter((letter.partition_date, letter.error_type, letter.status) for letter in letters)
    rows = [[dt, _shown(error, 30), status, count] for (dt, error, status), count in sorted(counts.items())]
    if rows:
        print(tabulate(rows, headers=["date", "error", "status", "entries"], disable_numparse=True))
    if not options.write:
        print(f"{len(letters)} entries would be discarded. Nothing was written. Add --write to do it.")
        return 0
    for letter in letters:
        queue.put(replace(letter, status=DISCARDED, note=note))
    print(f"{len(letters)} entries are discarded. The raw objects stay.")
    return 0


def _replay(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.flows.replay import InvalidReplayError, Selection, replay, select

    queue = _queue(settings)
    ids = [_find_readable(queue, entry_id).entry_id for entry_id in options.ids]
    selection = Selection(options.date, options.error_type, ids, options.parked, options.drift)
    if options.dry_run:
        _print(Entries(tuple(select(queue, selection))), queue, as_json=options.json)
        return 0
    try:
        result = replay(
            queue.store,
            settings.layout,
            selection,
            area=settings.area,
            now=datetime.now(UTC),
            max_retries=options.max_retries,
        )
    except InvalidReplayError as error:
        raise DeadLetterCommandError(f"--max-retries: {error}") from None
    _print(Entries(result.letters), queue, as_json=options.json)
    return _print_failed(result.failed)


def _print_failed(failed: Sequence[tuple[date, str]]) -> int:
    import sys

    for dt, problem in failed:
        print(f"wrm: {dt} was left as it is: {problem}", file=sys.stderr)
    return 1 if failed else 0
