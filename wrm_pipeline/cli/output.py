"""Output of commands: much of it comes from the feed, and must not control the terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wrm_pipeline.domain.shown import visible


class _Visible:
    """A text stream that escapes control characters; everything else is the wrapped stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    @property
    def unguarded(self) -> Any:
        """The wrapped stream, for intended control sequences without foreign text."""
        return self._stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def shown_safely() -> Iterator[None]:
    """During the block, stdout and stderr send no control characters: they are escaped as in JSON."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Visible(before[0]), _Visible(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_json(content: Any, *, default: Callable[[Any], Any] = str) -> None:
    """Print one JSON document; `default` is for values that JSON does not have, such as dates."""
    import json

    print(json.dumps(content, ensure_ascii=False, indent=1, default=default))


def print_table(rows: Iterable[Sequence[Any]], headers: Sequence[str], **style: Any) -> None:
    """Print rows in columns; `style` is tabulate's."""
    from tabulate import tabulate

    print(tabulate(list(rows), headers=headers, **style))


def printer(as_json: bool) -> Callable[[str], None]:
    """Returns a function that prints lines for people: to stdout, or to stderr if stdout is for a JSON document."""

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    return say
