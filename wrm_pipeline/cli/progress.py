"""A progress bar for long work: on stderr if that is a terminal, and otherwise nothing."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from wrm_pipeline.domain.shown import cell

_CLEAR_LINE = "\r\x1b[K"
# Label, bar, numbers, time and this fit in a line of 80 characters.
_ITEM_LENGTH = 16


class Progress:
    """Progress of long work. Without a terminal it only prints lines."""

    def __init__(self, say: Callable[[str], None], bar: Any = None, stream: TextIO | None = None) -> None:
        self._say, self._bar, self._stream, self._under_way = say, bar, stream, False

    def begin(self, what: str, total: int) -> None:
        """A step begins, so the previous one is done; `total` is the number of all steps."""
        if self._bar is None:
            return
        self._bar.length = total
        name = cell(what)[:_ITEM_LENGTH]
        if self._under_way:
            self._bar.update(1, name)
        else:
            self._bar.current_item = name
            self._bar.render_progress()
        self._under_way = True

    def say(self, text: str) -> None:
        """Print a line for people without mixing it with the bar, which the next step draws again."""
        if self._stream is not None:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()
        self._say(text)

    def finish(self) -> None:
        """Everything is done."""
        if self._bar is not None and self._under_way:
            self._bar.update(1, "")


@contextmanager
def progress(label: str, say: Callable[[str], None]) -> Iterator[Progress]:
    """A bar during the block, with the remaining time once a few steps are done; `say` prints lines."""
    stream = _terminal()
    if stream is None:
        yield Progress(say)
        return
    with click.progressbar(
        length=1, label=label, file=stream, show_pos=True, show_percent=False, item_show_func=lambda item: item
    ) as bar:
        shown = Progress(say, bar, stream)
        yield shown
        shown.finish()


def _terminal() -> TextIO | None:
    """The unwrapped stderr, as a bar needs control characters, if it is a terminal that supports them."""
    stream = getattr(sys.stderr, "unguarded", sys.stderr)
    if stream is None or not stream.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return None
    terminal: TextIO = stream
    return terminal
