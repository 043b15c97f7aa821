"""What a processed partition stores about its raw objects: name, ETag, line counts, and the parser's version."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from wrm_pipeline.domain.snapshot import (
    FileFault,
    LineCounts,
)

# In place of a raw object's ETag: its rows were taken from a file of another writer, whose name follows.
ADOPTED = "adopted "


class AccountingError(RuntimeError):
    """Rows went missing or appeared from nowhere: a bug in this program, so nothing is published."""


@dataclass(frozen=True, slots=True)
class RawObject:
    """One raw object as the store lists it, with the time of its snapshot.

    Attributes:
        key: Its name.
        etag: Changes when its content does.
        size_bytes: Length of its content.
        file_timestamp: Aware. If `readings` is not None it is a placeholder until the time is determined
            (`domain/snapshot_time.py`).
        corrections: An operator's accepted replacements of lines, by line number.
        readings: None if the name gives the time. Else the instants that the name may mean; empty if it has no time.
        fault: Why all of its rows are dead letters, whatever they contain.
    """

    key: str
    etag: str
    size_bytes: int
    file_timestamp: datetime
    corrections: Mapping[int, str] = field(default_factory=dict)
    readings: tuple[datetime, ...] | None = None
    fault: FileFault | None = None

    @property
    def corrections_id(self) -> str:
        """Identifies a set of corrections; empty without any."""
        return json.dumps(sorted(self.corrections.items())) if self.corrections else ""


@dataclass(frozen=True, slots=True)
class Source:
    """What the partition stores about one raw object."""

    etag: str
    file_timestamp: datetime
    corrections_id: str
    parsed_at: datetime
    counts: LineCounts

    @property
    def adopted(self) -> bool:
        """Whether its rows come from another writer's file, because its raw object was gone."""
        return self.etag.startswith(ADOPTED)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The raw objects that a processed partition holds, by key, and the version of the parser that read them.

    Attributes:
        parser_version: The version that parsed the rows.
        sources: What is stored about each raw object.
        refused: ETags of contents with fewer rows than the previous content, by key: without consent the earlier rows
            stay.
        unreadable: Raw objects that could not be read, and why, by key: their published rows stay.
        strict: The strict rules that judged the rows (`StrictRules`); empty for none.
        feeds: The `FeedRecord` of a day of several feeds as JSON: it is large, and few readers need it.
    """

    parser_version: str
    sources: Mapping[str, Source]
    refused: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    strict: str = ""
    feeds: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> LineCounts:
        """The sum over all raw objects."""
        return LineCounts.total(source.counts for source in self.sources.values())

    def to_footer(self) -> dict[str, Any]:
        """As JSON: about 30 compressed bytes per raw object."""
        keys = sorted(self.sources)
        folder = keys[0].rpartition("/")[0] + "/" if keys else ""
        parsed_at = sorted({source.parsed_at for source in self.sources.values()})
        run_index = {at: index for index, at in enumerate(parsed_at)}
        rows = []
        for key in keys:
            source = self.sources[key]
            counts = source.counts
            name = key.removeprefix(folder)
            rows.append(
                [
                    name if name != key and not name.startswith("/") else f"/{key}",
                    source.etag,
                    (source.file_timestamp - _EPOCH) // timedelta(microseconds=1),
                    source.corrections_id,
                    run_index[source.parsed_at],
                    counts.lines_in,
                    counts.rows_out,
                    counts.dead_lettered,
                    counts.duplicate_rows,
                    counts.remark_lines,
                ]
            )
        footer = {
            "parser": self.parser_version,
            "folder": folder,
            "parsed_at": [at.isoformat() for at in parsed_at],
            "sources": rows,
        }
        seldom = {
            "refused": dict(self.refused),
            "unreadable": dict(self.unreadable),
            "strict": self.strict,
            "feeds": self.feeds,
        }
        return footer | {name: value for name, value in seldom.items() if value}

    @classmethod
    def from_footer(cls, footer: Mapping[str, Any]) -> "Manifest | None":
        """Parse; None for a file without such metadata."""
        if "parser" not in footer:
            return None
        parsed_at, folder = _runs(footer), footer["folder"]
        sources = {
            _key(folder, name): Source(etag, _from_micros(micros), corrections_id, parsed_at[run], LineCounts(*counts))
            for name, etag, micros, corrections_id, run, *counts in footer["sources"]
        }
        refused, unreadable = footer.get("refused", {}), footer.get("unreadable", {})
        return cls(footer["parser"], sources, refused, unreadable, footer.get("strict", ""), footer.get("feeds", {}))


def parse_times(footer: Mapping[str, Any]) -> dict[str, datetime] | None:
    """When each raw object was parsed, by key: reads only this part of the manifest, in a third of the time.

    None for a file without such metadata.
    """
    if "parser" not in footer:
        return None
    parsed_at, folder = _runs(footer), footer["folder"]
    return {_key(folder, name): parsed_at[run] for name, _, _, _, run, *_ in footer["sources"]}


def _runs(footer: Mapping[str, Any]) -> list[datetime]:
    return [datetime.fromisoformat(text) for text in footer["parsed_at"]]


def _key(folder: str, name: str) -> str:
    return name[1:] if name.startswith("/") else folder + name


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
