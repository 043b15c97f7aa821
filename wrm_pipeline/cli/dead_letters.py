"""`wrm dlq`: look at dead letters and settle them."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from wrm_pipeline.cli.command import (
    DAY,
    NOTHING_CHANGED,
    AnyFunction,
    CommandError,
    Group,
    dry_run_option,
    json_option,
    lazy_choice,
    pass_settings,
)
from wrm_pipeline.cli.output import print_json, print_table, printer
from wrm_pipeline.cli.progress import progress

if TYPE_CHECKING:
    from wrm_pipeline.domain.dead_letters import DeadLetter
    from wrm_pipeline.domain.layout import Layout
    from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue, Entries, UnreadableLetter
    from wrm_pipeline.settings import Settings

_SHOWN_RECORDS = 50
_SHOWN_BYTES = 300
_UNREADABLE_REMEDY = "Correct the object, or take it out of the queue: wrm dlq discard ID --reason '...'"


def _statuses() -> Sequence[str]:
    from wrm_pipeline.domain.dead_letters import STATUSES, UNREADABLE

    return [*STATUSES, UNREADABLE]


def _selection(function: AnyFunction) -> AnyFunction:
    """Options that select entries."""
    function = click.option("--error-type", "--error", "error_types", multiple=True, help="May be repeated.")(function)
    return click.option("--date", "days", type=DAY, multiple=True, help="May be repeated.")(function)


@click.group(
    cls=Group,
    examples=[
        ("wrm dlq list", "all entries, newest first"),
        ("wrm dlq show 3f2a91", "one entry, with its lines and their errors"),
        ("wrm dlq replay", "try pending entries again"),
    ],
)
def dlq() -> None:
    """Look at dead letters, and settle them."""


@dlq.command(
    "list",
    examples=[
        ("wrm dlq list --date 2025-08-21", "the entries of a day"),
        ("wrm dlq list --status parked", "those that need a person"),
        ("wrm dlq list --error bad_count --json", "one kind of error, as stored"),
    ],
)
@_selection
@click.option("--status", "statuses", type=lazy_choice(_statuses), multiple=True, help="May be repeated.")
@json_option
@pass_settings
def list_letters(
    settings: "Settings",
    days: tuple[date, ...],
    error_types: tuple[str, ...],
    statuses: tuple[str, ...],
    as_json: bool,
) -> int:
    """List entries of the queue, newest first."""
    queue = _queue(settings)
    _print(_chosen(queue, days, error_types, statuses), queue, as_json=as_json)
    return 0


def _queue(settings: "Settings") -> "DeadLetterQueue":
    from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
    from wrm_pipeline.resources.lake import connect_store

    return DeadLetterQueue(connect_store(settings), settings.layout)


def _chosen(
    queue: "DeadLetterQueue", days: Sequence[date], error_types: Sequence[str], statuses: Sequence[str]
) -> "Entries":
    """The selected entries, newest first."""
    from wrm_pipeline.domain.dead_letters import UNREADABLE
    from wrm_pipeline.lake.dead_letter_queue import Entries

    parts = [queue.entries(dt) for dt in sorted(set(days))] if days else [queue.entries()]
    letters = [
        letter
        for part in parts
        for letter in part.letters
        if (not error_types or letter.error_type in error_types) and (not statuses or letter.status in statuses)
    ]
    letters.sort(key=lambda letter: letter.timestamp, reverse=True)
    unreadable = [letter for part in parts for letter in part.unreadable]
    wanted = not error_types and (not statuses or UNREADABLE in statuses)
    return Entries(tuple(letters), tuple(unreadable) if wanted else ())


def _print(entries: "Entries", queue: "DeadLetterQueue", *, as_json: bool) -> None:
    if as_json:
        contents = [json.loads(letter.to_json()) for letter in entries.letters]
        print_json(contents + [_unreadable_content(letter) for letter in entries.unreadable])
        return
    if not entries.letters and not entries.unreadable:
        print(f"No such entries in {queue.layout.dead_letter_prefix} of {queue.store.name}.")
        return
    headers = ["id", "date", "error", "status", "retries", "records", "source", "message"]
    rows = [_row(letter, queue.layout) for letter in entries.letters] + [
        _unreadable_row(letter) for letter in entries.unreadable
    ]
    print_table(rows, headers, disable_numparse=True)
    if entries.unreadable:
        print(
            f"\n{len(entries.unreadable)} objects cannot be read as dead letters. `wrm dlq show ID` says why. "
            f"{_UNREADABLE_REMEDY}"
        )


def _row(letter: "DeadLetter", layout: "Layout") -> list[Any]:
    from wrm_pipeline.domain.asset_letters import of_another_asset

    # An asset's name is in it; of a snapshot the file's name says all.
    whole = of_another_asset(letter, layout)
    return [
        _shown(letter.entry_id, 8, more=""),
        letter.partition_date,
        _shown(letter.error_type, 30),
        letter.status,
        letter.retry_count,
        letter.records_total,
        _shown(letter.source_key if whole else PurePosixPath(letter.source_key).name, 60),
        _shown(letter.error_message, 60),
    ]


def _unreadable_row(letter: "UnreadableLetter") -> list[Any]:
    from wrm_pipeline.domain.dead_letters import UNREADABLE

    size = f"{letter.size_bytes} bytes"
    return [_shown(letter.name, 8, more=""), _day(letter), "", UNREADABLE, "", "", size, _shown(letter.reason, 60)]


def _unreadable_content(letter: "UnreadableLetter") -> dict[str, Any]:
    from wrm_pipeline.domain.dead_letters import UNREADABLE

    return {
        "entry_id": letter.name,
        "status": UNREADABLE,
        "partition_date": _day(letter),
        "key": letter.key,
        "size_bytes": letter.size_bytes,
        "error_message": letter.reason,
    }


def _day(letter: "UnreadableLetter") -> str:
    from wrm_pipeline.domain.layout import folder_date

    dt = folder_date(letter.key.rpartition("/")[0])
    return dt.isoformat() if dt else ""


def _shown(text: str, length: int = 10_000, more: str = "…") -> str:
    """Foreign text made safe for a terminal: no control characters, and limited in length."""
    cut = text[:length] + (more if len(text) > length else "")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def _find(queue: "DeadLetterQueue", entry_id: str) -> "DeadLetter | UnreadableLetter":
    letter = queue.find(entry_id)
    if letter is None:
        raise CommandError(f"not exactly one entry has an id that starts with {entry_id!r}; see `wrm dlq list`")
    return letter


def _find_readable(queue: "DeadLetterQueue", entry_id: str) -> "DeadLetter":
    from wrm_pipeline.lake.dead_letter_queue import UnreadableLetter

    letter = _find(queue, entry_id)
    if isinstance(letter, UnreadableLetter):
        raise CommandError(f"{letter.key} cannot be read: {letter.reason}. Correct the object first")
    return letter


@dlq.command(
    examples=[
        ("wrm dlq show 3f2a91", "the entry whose id begins with 3f2a91"),
        ("wrm dlq show 3f2a91 --json", "as it is stored"),
    ]
)
@click.argument("entry_id", metavar="ID")
@json_option
@pass_settings
def show(settings: "Settings", entry_id: str, as_json: bool) -> int:
    """Show one entry with its records. ID may be the beginning of its id."""
    from wrm_pipeline.lake.dead_letter_queue import UnreadableLetter

    queue = _queue(settings)
    letter = _find(queue, entry_id)
    if isinstance(letter, UnreadableLetter):
        _show_unreadable(queue, letter, as_json=as_json)
    elif as_json:
        print(letter.to_json().decode())
    else:
        _show(letter)
    return 0


def _show(letter: "DeadLetter") -> None:
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


def _show_unreadable(queue: "DeadLetterQueue", letter: "UnreadableLetter", *, as_json: bool) -> None:
    from wrm_pipeline.domain.dead_letters import MAX_READ_BYTES

    if as_json:
        print_json(_unreadable_content(letter))
        return
    print(f"{letter.key} cannot be read: {_shown(letter.reason)}")
    if letter.size_bytes <= MAX_READ_BYTES:
        print(f"It begins with {queue.store.get(letter.key)[:_SHOWN_BYTES]!r}")
    print(_UNREADABLE_REMEDY)


@dlq.command(
    examples=[
        ("wrm dlq correct 3f2a91 --line 8 --data '…' --dry-run", "show the line before and after"),
        ("wrm dlq correct 3f2a91 --line 8 --data '…'", "store it; the next build of its day uses it"),
    ]
)
@click.argument("entry_id", metavar="ID")
@click.option("--line", type=int, required=True, help="Line number in the raw object, as in `show`.")
@click.option("--data", required=True, help="The whole line as it should have been.")
@dry_run_option
@pass_settings
def correct(settings: "Settings", entry_id: str, line: int, data: str, apply: bool) -> int:
    """Give the right line for a dead one; the next build uses it. ID may be the beginning of an id."""
    from wrm_pipeline.domain.asset_letters import of_another_asset
    from wrm_pipeline.domain.dead_letters import PENDING
    from wrm_pipeline.lake.dead_letter_queue import DeadLetterTooLargeError

    queue = _queue(settings)
    letter = _find_readable(queue, entry_id)
    _refuse_correction(letter, line, data)
    records = tuple(
        replace(record, corrected_data=data) if record.line_number == line else record for record in letter.records
    )
    if not apply:
        for record in letter.records:
            if record.line_number == line:
                print(f"line {line}: {_shown(repr(record.raw_data))}\n  would be: {_shown(repr(data))}")
        print(NOTHING_CHANGED)
        return 0
    try:
        queue.put(replace(letter, records=records, status=PENDING, retry_count=0))
    except DeadLetterTooLargeError as error:
        raise CommandError(str(error)) from None
    then = f"`wrm dlq replay --id {letter.entry_id}` publishes it"
    if of_another_asset(letter, queue.layout):
        then = f"The asset {letter.asset_name} finds it in its entry"
    print(f"Line {line} is corrected. {then}.")
    return 0


def _refuse_correction(letter: "DeadLetter", line: int, data: str) -> None:
    from wrm_pipeline.domain.dead_letters import MAX_RAW_DATA_BYTES

    known = sorted({record.line_number for record in letter.records if record.line_number})
    if line not in known:
        lines = ", ".join(map(str, known[:20]))
        raise CommandError(f"entry {letter.entry_id} has no record of line {line}; it has {lines or 'none'}")
    if "\n" in data or "\r" in data:
        raise CommandError("--data is one line")
    size = len(data.encode("utf-8", "replace"))
    if size > MAX_RAW_DATA_BYTES:
        raise CommandError(f"--data has {size} bytes; a line has at most {MAX_RAW_DATA_BYTES}")


@dlq.command(
    examples=[
        ("wrm dlq discard 3f2a91 --reason 'test bike'", "one entry"),
        ("wrm dlq discard --error bad_count --date 2025-08-21 --reason '…'", "show how many; --apply does it"),
    ]
)
@click.argument("entry_id", metavar="[ID]", required=False)
@_selection
@click.option("--reason", required=True, help="Kept in the entry.")
@click.option(
    "--apply/--dry-run", "apply", default=None, help="Do it (default for one ID), or only print what would happen."
)
@click.option("--write", "apply", flag_value=True, hidden=True)
@json_option
@pass_settings
def discard(
    settings: "Settings",
    entry_id: str | None,
    days: tuple[date, ...],
    error_types: tuple[str, ...],
    reason: str,
    apply: bool | None,
    as_json: bool,
) -> int:
    """Give entries up; they stay in the queue with the reason.

    One whose id begins with ID, or all open ones selected by --error and --date.
    """
    note = f"discarded {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {reason}"
    if bool(entry_id) == bool(days or error_types):
        raise CommandError("select entries: one id, or --error TYPE and --date DAY for many")
    if entry_id:
        _discard_one(_queue(settings), entry_id, note, apply=apply is not False, as_json=as_json)
    else:
        _discard_many(_queue(settings), days, error_types, note, apply=bool(apply), as_json=as_json)
    return 0


def _discard_one(queue: "DeadLetterQueue", entry_id: str, note: str, *, apply: bool, as_json: bool) -> None:
    from wrm_pipeline.domain.dead_letters import DISCARDED
    from wrm_pipeline.lake.dead_letter_queue import UnreadableLetter

    say, letter = printer(as_json), _find(queue, entry_id)
    name = letter.name if isinstance(letter, UnreadableLetter) else letter.entry_id
    if not apply:
        say(f"{name} would be discarded. {NOTHING_CHANGED}")
    elif isinstance(letter, UnreadableLetter):
        say(f"{letter.key} is no longer in the queue; its bytes are in {queue.set_aside(letter)}.")
    else:
        queue.put(replace(letter, status=DISCARDED, note=note))
        say(f"{letter.entry_id} is discarded. The raw object stays.")
    if as_json:
        print_json({"entries": [{"entry_id": name}], "count": 1, "applied": apply})


def _discard_many(
    queue: "DeadLetterQueue",
    days: Sequence[date],
    error_types: Sequence[str],
    note: str,
    *,
    apply: bool,
    as_json: bool,
) -> None:
    from wrm_pipeline.domain.dead_letters import DISCARDED, PARKED, PENDING

    say = printer(as_json)
    letters = _chosen(queue, days, error_types, [PENDING, PARKED]).letters
    counts = Counter((letter.partition_date, letter.error_type, letter.status) for letter in letters)
    rows = [[dt, _shown(error, 30), status, count] for (dt, error, status), count in sorted(counts.items())]
    headers = ["date", "error", "status", "entries"]
    if rows and not as_json:
        print_table(rows, headers, disable_numparse=True)
    if apply:
        with progress("discard", say) as bar:
            for letter in letters:
                bar.begin(letter.partition_date.isoformat(), len(letters))
                queue.put(replace(letter, status=DISCARDED, note=note))
        say(f"{len(letters)} entries are discarded. The raw objects stay.")
    else:
        say(f"{len(letters)} entries would be discarded. Nothing was written. Add --apply to do it.")
    if as_json:
        entries = [dict(zip(headers, row, strict=True)) for row in rows]
        print_json({"entries": entries, "count": len(letters), "applied": apply})


@dlq.command(
    examples=[
        ("wrm dlq replay --dry-run", "show what would be tried"),
        ("wrm dlq replay", "try it, as the job reprocess_dlq does"),
        ("wrm dlq replay --id 3f2a91", "one entry, parked or not"),
        ("wrm dlq replay --drift", "after a release that can read a changed format"),
    ]
)
@_selection
@click.option("--id", "ids", multiple=True, help="Only this entry, even if parked; may be repeated.")
@click.option(
    "--drift",
    is_flag=True,
    help="After a release that can read a changed format: its bodies and entries, parked ones included.",
)
@click.option("--parked", is_flag=True, help="Include parked entries.")
@click.option("--max-retries", type=click.IntRange(min=1), help="Failures after which an entry is parked.")
@dry_run_option
@json_option
@pass_settings
def replay(
    settings: "Settings",
    days: tuple[date, ...],
    error_types: tuple[str, ...],
    ids: tuple[str, ...],
    drift: bool,
    parked: bool,
    max_retries: int | None,
    apply: bool,
    as_json: bool,
) -> int:
    """Try pending entries again, in this process."""
    from wrm_pipeline.domain.dead_letters import MAX_RETRIES
    from wrm_pipeline.flows import replay as replaying
    from wrm_pipeline.lake.dead_letter_queue import Entries
    from wrm_pipeline.resources.lake import area_of

    queue = _queue(settings)
    found = [_find_readable(queue, entry_id).entry_id for entry_id in ids]
    selection = replaying.Selection(days, error_types, found, parked, drift)
    if not apply:
        selected = replaying.select(queue, selection)
        _print(Entries(selected.letters), queue, as_json=as_json)
        _print_left(selected.left)
        printer(as_json)(NOTHING_CHANGED)
        return 0
    with progress("replay", printer(as_json)) as bar:
        result = replaying.replay(
            queue.store,
            settings.layout,
            selection,
            area=area_of(settings, queue.store),
            strict=settings.strict,
            now=datetime.now(UTC),
            max_retries=MAX_RETRIES if max_retries is None else max_retries,
            begin=bar.begin,
        )
    _print(Entries(result.letters), queue, as_json=as_json)
    _print_left(result.left)
    for dt, problem in result.failed:
        print(f"wrm: {dt} was left unchanged: {problem}", file=sys.stderr)
    return 1 if result.failed else 0


def _print_left(left: str) -> None:
    if left:
        print(f"wrm: {_shown(left)}.", file=sys.stderr)
