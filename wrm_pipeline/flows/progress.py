"""How long work reports its progress: a command draws a bar from it, a Dagster run ignores it."""

from collections.abc import Callable

Begin = Callable[[str, int], None]
"""Called when a step begins, with its name and the total number of steps, which may change on the way."""


def unobserved(_what: str, _total: int) -> None:
    """Ignore progress."""
