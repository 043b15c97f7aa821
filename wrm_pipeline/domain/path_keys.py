"""Finds keys in the path of a URL, where some services expect them (`https://host/api/9f86d081884c7d65…/stations`).

Nothing marks a part of a path as a key, so the rule goes by its appearance (documented in docs/secrets.md): 16 or more
hexadecimal digits with letters among them (UUIDs included); 20 or more digits; or 20 or more characters in which
letters and digits alternate every eighth character or more often, or with capitals every fifth. Of 1,000 random keys of
24 characters it finds 999 or more; words, dates and versions do not match, however they are joined.
"""

import re
from urllib.parse import unquote

MASK = "***"

_PIECE = re.compile(r"[A-Za-z0-9_~+-]{16,}")
_JOINTS = re.compile(r"[-_~+]")
_HEXADECIMAL = re.compile(r"(?=.*[0-9])(?=.*[A-Fa-f])[0-9A-Fa-f]{16,}")
_RUNS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_RUNS_WITHOUT_CASE = re.compile(r"[A-Za-z]+|[0-9]+")


def keys_in_path(path: str) -> list[str]:
    """The parts of a URL's path that look like keys, without percent-encoding."""
    return [piece for piece in _PIECE.findall(unquote(path)) if _looks_like_a_key(piece)]


def without_keys(path: str) -> str:
    """A path with `***` in place of parts that look like keys; without percent-encoding if there are any."""
    if not keys_in_path(path):
        return path
    return _PIECE.sub(lambda found: MASK if _looks_like_a_key(found[0]) else found[0], unquote(path))


def _looks_like_a_key(piece: str) -> bool:
    words = _JOINTS.split(piece)
    dense = "".join(words)
    if _HEXADECIMAL.fullmatch(dense) or (dense.isdecimal() and len(dense) >= 20):
        return True
    return len(dense) >= 20 and (
        _changes(_RUNS, words) * 5 >= len(dense) or _changes(_RUNS_WITHOUT_CASE, words) * 8 >= len(dense)
    )


def _changes(runs: re.Pattern[str], words: list[str]) -> int:
    return sum(max(len(runs.findall(word)) - 1, 0) for word in words)
