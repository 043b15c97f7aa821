"""How long work says what it is at: a command draws a bar of it, a run of Dagster has no use for it."""

from collections.abc import Callable

Begin = Callable[[str, int], None]
"""Called when a step begins, with its name and the number of all steps, which may change as more is known."""


def unobserved(_what: str, _total: int) -> None:
    """Tell nobody."""
