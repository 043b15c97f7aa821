"""What commands write: much of it comes from the feed, and a terminal obeys what it is sent."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wrm_pipeline.domain.shown import visible


class _Visible:
    """A text stream that writes out what would act on a terminal; all else is the stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    @property
    def unguarded(self) -> Any:
        """The stream itself, for what is meant to act on a terminal and has no foreign text."""
        return self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def shown_safely() -> Iterator[None]:
    """While the block runs, stdout and stderr send no control characters: they are written out as JSON does."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Visible(before[0]), _Visible(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_json(content: Any, *, default: Callable[[Any], Any] = str) -> None:
    """Print one JSON document; `default` is for values that JSON does not have, as dates."""
    import json

    print(json.dumps(content, ensure_ascii=False, indent=1, default=default))


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str], **style: Any) -> None:
    """Print rows in columns; `style` is tabulate's."""
    from tabulate import tabulate

    print(tabulate(list(rows), headers=headers, **style))


def printer(as_json: bool) -> Callable[[str], None]:
    """Gives what prints lines for people: to stdout, or to stderr where stdout is for one JSON document."""

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    return say
