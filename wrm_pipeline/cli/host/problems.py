"""What a check of the host finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, with its value, and the remedy.

    Attributes:
        got: The thing and its value.
        todo: The remedy.
        is_error: Something does not work or is open; else it only will be, if nothing is done.
        unsafe: A release must not be tried while this is so.
    """

    got: str
    todo: str
    is_error: bool = True
    unsafe: bool = False
