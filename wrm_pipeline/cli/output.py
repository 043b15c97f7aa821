"""What commands write: much of it comes from the feed, and a terminal obeys what it is sent."""

import sys
from collections.abc import Iterator
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
