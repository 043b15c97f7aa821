"""What a configured value may contain: one line of visible characters."""

import unicodedata

_AROUND = " \t\r\n\f\v\ufeff\u200b\u2060"
_NAMES = {"\n": "a line break", "\r": "a carriage return", "\t": "a tab", "\0": "a NUL"}


def stripped(value: str) -> str:
    """Strip what copying and editors leave around a value: blanks, line ends, byte-order marks."""
    return value.strip(_AROUND).strip()


def unusable_character(value: str, *, secret: bool, in_header: bool = False) -> str | None:
    """Describe a character that no configured value may contain; None if there is none.

    A line break in a key ends up in an HTTP header, whose errors quote it in full. Reports what and where, never the
    value.
    """
    for place, character in enumerate(value, start=1):
        kind = unicodedata.category(character)
        if kind == "Cc" or (secret and kind in {"Cf", "Zl", "Zp"}) or (in_header and not character.isascii()):
            name = _NAMES.get(character) or unicodedata.name(character, f"the character U+{ord(character):04X}")
            shown = " (not shown)" if secret else ""
            return (
                f"contains {name} at position {place} of {len(value)}{shown}. Enter the value again, on one line, "
                f"without anything that was pasted with it."
            )
    return None
