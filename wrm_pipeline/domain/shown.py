"""Makes foreign text safe to show: escapes what would act on a terminal or mislead the eye, and limits its length."""

import unicodedata

# One value of Dagster's metadata, one cell, and one line of a log. A station's name has at most a few hundred.
MAX_CELL, MAX_DESCRIPTION, MAX_LOG_VALUE, MAX_LOG_LINE = 300, 2_000, 4_000, 64_000


def _acts(number: int) -> bool:
    """Control characters (escape sequences begin with one) and those that change the direction of writing."""
    character = chr(number)
    return character not in "\n\t" and (
        unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _TURNING
    )


_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
# U+2028 and U+2029 end a line for some readers.
_OTHERS = frozenset({0x200E, 0x200F, 0x2028, 0x2029})
_WRITTEN_OUT = {number: f"\\u{number:04x}" for number in range(0x2100) if number in _OTHERS or _acts(number)}


def visible(text: str) -> str:
    """With control characters other than tabs and line ends escaped, as four hexadecimal digits like in JSON."""
    return text if text.isascii() and text.isprintable() else text.translate(_WRITTEN_OUT)


def shortened(text: str, limit: int) -> str:
    """Cut to `limit` characters; says how much is missing."""
    if len(text) <= limit:
        return text
    tail = f"… ({len(text):,} characters)"
    return text[: max(limit - len(tail), 0)] + tail


def cell(text: str) -> str:
    """One line of at most MAX_CELL characters."""
    return visible(shortened(" ".join(text.split("\n")), MAX_CELL)).replace("\t", " ")
