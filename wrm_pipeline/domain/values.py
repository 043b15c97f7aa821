"""What a configured value may hold: one line of characters that can be seen."""

import unicodedata

_AROUND = " \t\r\n\f\v\ufeff\u200b\u2060"
_NAMES = {"\n": "a line break", "\r": "a carriage return", "\t": "a tab", "\0": "a NUL"}


def stripped(value: str) -> str:
    """Without what copying and editors leave around a value: blanks, line ends, byte-order marks."""
    return value.strip(_AROUND).strip()


def unusable_character(value: str, *, secret: bool, in_header: bool = False) -> str | None:
    """What is wrong with a value that holds a character which none of ours has; None if nothing is.

    A line break in a key ends up in an HTTP header, whose errors quote it whole. Says what and where, never the value.
    """
    for place, character in enumerate(value, start=1):
        kind = unicodedata.category(character)
        if kind == "Cc" or (secret and kind in {"Cf", "Zl", "Zp"}) or (in_header and not character.isascii()):
            name = _NAMES.get(character) or unicodedata.name(character, f"the character U+{ord(character):04X}")
            shown = " (not shown)" if secret else ""
            return (
                f"holds {name} at place {place} of {len(value)}{shown}. Write the value again, on one line, without "
                "what was pasted along with it."
            )
    return None
