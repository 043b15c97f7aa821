"""Interprets one field: the same way for each kind of field, whichever path reads it (data contract, section 1).

Blanks around a field are ignored. Ambiguous values (decimal commas, thousands separators) are not guessed.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

import ftfy
import ftfy.bad_codecs  # registers sloppy-windows-1252

from wrm_pipeline.domain.schemas import PROCESSED, value_range
from wrm_pipeline.domain.snapshot.records import COUNT_COLUMNS, MAX_NAME_CHARACTERS

RANGES = {name: value_range(PROCESSED, name) for name in ("lat", "lon", "battery_pct", *COUNT_COLUMNS)}

_UNKNOWN_WORDS = frozenset({"", "null", "none", "nan", "n/a", "\\n", "\\\\n", "-"})
_TRUE_WORDS = frozenset({"true", "t", "yes", "y"})
_FALSE_WORDS = frozenset({"false", "f", "no", "n"})

# Sign, digits, and the + of a capped count.
_COUNT = re.compile(r"([+-]?)([0-9]+)(?:\.0*)?(\+?)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Sign, digits before and after the point.
_DECIMAL_PLACES = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?")
# More digits overflow.
_MAX_TIME_DIGITS = 18
_MAX_OFFSET_DIGITS = 9
# Longer ids and names do not recur, and 16,384 of 1,000 characters would fill the memory.
_CACHED_CHARACTERS = 128
_MAX_MICROS = 2**62
_MILLISECOND_DIGITS = 13

# Printable ASCII without entities: 279 of the simulated city's 404 names, and ftfy takes 30 us for each of them.
_NOTHING_TO_REPAIR = re.compile(r"(?! )[ -%'-~]+(?<! )")
# The part of a name that is repaired: an entity takes up to 10 characters, and damage at most doubles one twice.
_MAX_REPAIRED_CHARACTERS = 16 * MAX_NAME_CHARACTERS
CUT_MARK = "…"


class BadValueError(ValueError):
    """A value that makes its row invalid; the message says why."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class Report:
    """The combined field: time in microseconds since 1970, offsets in seconds."""

    micros: int
    local_s: int | None
    server_s: int | None


def is_unknown(text: str) -> bool:
    """Whether a field means that its value is unknown."""
    return text.strip().lower() in _UNKNOWN_WORDS


@lru_cache(maxsize=16_384)
def _short_id_of(text: str) -> str:
    return _id_of(text)


def id_of(text: str) -> str:
    """A station's or a bike's id."""
    return _short_id_of(text) if len(text) <= _CACHED_CHARACTERS else _id_of(text)


def _id_of(text: str) -> str:
    value = text.strip()
    if is_unknown(value):
        raise BadValueError("empty_id", "The id is empty." if not value else f"The id is unknown: {value!r}.")
    if value == "src" or value.startswith("#"):
        raise BadValueError("empty_id", f"{value[:80]!r} is not an id but the mark of a remark line.")
    return value


def report_of(text: str) -> Report:
    """The combined field, `time|offset|offset`; offsets may be empty or missing."""
    time, *offsets = (part.strip() for part in text.split("|", 3))
    try:
        local_s, server_s = (offset_of(part) for part in (*offsets, "", "")[: max(2, len(offsets))])
        return Report(_micros(time), local_s, server_s)
    except ValueError:
        message = f"{text[:80]!r} is not a time and two offsets joined by '|'."
        raise BadValueError("bad_timestamp", message) from None


def _micros(text: str) -> int:
    found = _DECIMAL_PLACES.fullmatch(text)
    sign, digits, fraction = found.groups("") if found else ("", "", "")
    digits = digits.lstrip("0")
    if found is None or len(digits) > _MAX_TIME_DIGITS:
        raise ValueError(text)
    places = 3 if len(digits) == _MILLISECOND_DIGITS else 6
    fraction = fraction[: places + 1].ljust(places + 1, "0")
    # Anything that does not fit into 64 bits is out of range, too.
    micros = min(int((digits or "0") + fraction[:places]) + (fraction[places] >= "5"), _MAX_MICROS)
    return -micros if sign == "-" else micros


def offset_of(text: str) -> int | None:
    """An offset in seconds, rounded to the nearest whole one (halves away from 0), or None if unknown."""
    if is_unknown(text):
        return None
    found = _DECIMAL_PLACES.fullmatch(text)
    digits = found[2].lstrip("0") if found else ""
    if found is None or len(digits) > _MAX_OFFSET_DIGITS:
        raise ValueError(text)
    seconds = int(digits or "0") + ((found[3] or "0")[:1] >= "5")
    return -seconds if found[1] == "-" else seconds


def coordinate_of(name: str, text: str) -> float:
    """`lat` or `lon` in degrees."""
    value = text.strip()
    lowest, highest = RANGES[name]
    if not _DECIMAL.fullmatch(value) or not lowest <= float(value) <= highest:
        message = f"{name} {text[:80]!r} is not a number from {lowest} to {highest}."
        raise BadValueError("bad_coordinates", message)
    return float(value)


def count_of(name: str, text: str) -> tuple[int | None, bool]:
    """(count or None if unknown, whether the feed capped it): `5+` is 5 or more. `bikes` must be known."""
    value = text.strip()
    needed = name == "bikes"
    found = _COUNT.fullmatch(value)
    if found is not None:
        digits = found[2].lstrip("0")
        # Twelve digits are out of range anyway, and int() refuses more than 4,300.
        number = int(digits or "0") if len(digits) < 12 else -1
        negative, capped = found[1] == "-" and number != 0, bool(found[3])
        if not negative and RANGES[name][0] <= number <= RANGES[name][1]:
            return number, capped
        if negative and number == 1 and not capped and not needed:
            return None, False
    elif not needed and is_unknown(value):
        return None, False
    lowest, highest = RANGES[name]
    raise BadValueError("bad_count", f"{name} {text[:80]!r} is not a whole number from {lowest} to {highest}.")


def flag_of(name: str, text: str) -> bool | None:
    """A flag, or None if unknown."""
    word = text.strip().lower()
    if word == "1" or word in _TRUE_WORDS:
        return True
    if word == "0" or word in _FALSE_WORDS:
        return False
    if word in _UNKNOWN_WORDS:
        return None
    raise BadValueError("bad_flag", f"{name} {text[:80]!r} is neither true nor false.")


def battery_of(text: str) -> tuple[bool | None, int | None]:
    """(flag, level in percent) of the field with two meanings.

    A number is a level, even 0 and 1. One outside 0-100 is ignored; the row is kept without a level.
    """
    word = text.strip().lower()
    if word in _TRUE_WORDS:
        return True, None
    if word in _FALSE_WORDS:
        return False, None
    if word in _UNKNOWN_WORDS:
        return None, None
    if not _DECIMAL.fullmatch(word):
        raise BadValueError("bad_flag", f"{text[:80]!r} is neither a flag, a battery level nor empty.")
    lowest, highest = RANGES["battery_pct"]
    level = float(word)
    if not lowest <= level <= highest:
        return None, None
    # Decimal refuses absurd exponents; the level is then 0.
    return None, int(Decimal(word).to_integral_value(ROUND_HALF_UP)) if level >= 0.1 else 0


def name_of(text: str) -> str:
    """A name, repaired (mojibake, entities, blanks) and cut at MAX_NAME_CHARACTERS, then with CUT_MARK at its end."""
    if len(text) <= _CACHED_CHARACTERS:
        return _cached_name_of(text)
    if len(text) <= MAX_NAME_CHARACTERS:
        return _short_name_of(text)
    text = text.strip()
    name = _repaired(text[:_MAX_REPAIRED_CHARACTERS])
    if len(name) <= MAX_NAME_CHARACTERS and len(text) <= _MAX_REPAIRED_CHARACTERS:
        return name
    return name[: MAX_NAME_CHARACTERS - 1] + CUT_MARK


@lru_cache(maxsize=16_384)
def _cached_name_of(name: str) -> str:
    return _short_name_of(name)


def _short_name_of(name: str) -> str:
    repaired = _repaired(name)
    # ftfy may replace one character by several.
    return repaired if len(repaired) <= MAX_NAME_CHARACTERS else repaired[: MAX_NAME_CHARACTERS - 1] + CUT_MARK


def _repaired(name: str) -> str:
    if _NOTHING_TO_REPAIR.fullmatch(name):
        return name
    # ftfy's heuristic leaves short names such as "Åšwidnicka" alone, so exact reversals are tried first. A correct name
    # never matches: its letters are not in the codec, or are not UTF-8. Curly quotes and ligatures are spelling, not
    # damage.
    for _ in range(2):
        name = _once_less_encoded(name)
    return ftfy.fix_text(
        name, unescape_html=True, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False
    ).strip()


def _once_less_encoded(name: str) -> str:
    # The sloppy codec encodes U+FFFD, as a control character.
    if name.isascii() or "\ufffd" in name:
        return name
    for codec in ("latin-1", "sloppy-windows-1252"):
        try:
            return name.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
    return name
