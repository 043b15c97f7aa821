"""Finds credentials that were left in a folder and in its git history; never shows one.

Three ways to recognize one: its form (a Vault token, a private key), the name that it is assigned to, and, without any
doubt, that it is a value in use now. A line with ``pragma: allowlist secret`` is left alone.
"""

import hashlib
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ALLOW = "pragma: allowlist secret"

_FORMS = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS access key id": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "Vault token": re.compile(r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})"),
    "Slack token": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "Slack webhook": re.compile(r"https://hooks\.slack\.com/services/[A-Za-z0-9_/-]{20,}"),
}
_URL_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"<>]*:(?P<value>[^\s/:@'\"<>]{3,})@", re.IGNORECASE)

_SENSITIVE = r"secret|passw(?:or)?d|passphrase|token|api_?key|access_?key|private_?key|credential|webhook_?url"
_WORD = re.compile(_SENSITIVE, re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<name>[A-Za-z0-9_.-]*(?:{_SENSITIVE})[A-Za-z0-9_]*)[\"']?\s*(?::=|=>|[:=])\s*"
    r"(?:\"(?P<double>[^\"\s]+)\"|'(?P<single>[^'\s]+)'|(?P<bare>[^\s\"'#,;]+))",
    re.IGNORECASE,
)
_NAME_LIKE = re.compile(rf"[A-Za-z0-9_.:/-]*(?:{_SENSITIVE})[A-Za-z0-9_.:/-]*", re.IGNORECASE)
# References, paths, and what stands in documentation for a value.
_PLACEHOLDER = re.compile(
    r"^(?:[<%{(*]|\$[{(A-Za-z_]|!\w|~?/\w[\w.-]*/|\.{1,2}/)"
    r"|example|change.?me|placeholder|redacted|dummy|canary|your[_-]|x{4}|\*{3}|\.\.\.|…",
    re.IGNORECASE,
)

# Where a value stands without quotes. In code, what is unquoted is an expression.
_PLAIN_SUFFIXES = frozenset({".cfg", ".conf", ".ini", ".properties", ".service", ".sh", ".tfvars", ".yaml", ".yml"})

# In characters: of variables that hold secrets, of passwords in URLs, of what has a telling name only.
_SHORTEST_KNOWN = 6
_SHORTEST_MIXED = 8
_SHORTEST_GUESSED = 12
_LEAST_ENTROPY = 3.0  # bits a character; words have less, random base64 of 20 characters has about 4

_LONGEST_LINE = 4_000
_LARGEST_FILE = 5 * 2**20
_NOT_OURS = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".tox"})


@dataclass(frozen=True, slots=True)
class Leak:
    """One credential, by its place.

    Attributes:
        path: Of the file, relative to the folder or repository; ``message`` for a commit's message.
        line: Its number, from 1.
        kind: What it looks like.
        commit: That brought it, where it is in the history.
    """

    path: str
    line: int
    kind: str
    commit: str = ""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}"
        return f"{f'commit {self.commit[:12]}  ' if self.commit else ''}{place}  {self.kind}"


@dataclass(frozen=True, slots=True)
class Scanner:
    """Looks for credentials.

    Attributes:
        variables: Names whose values are secrets, whatever they look like, in files such as .env.
        in_use: Values in use now, by the name of their variable.
    """

    variables: frozenset[str] = frozenset()
    in_use: Mapping[str, str] = field(default_factory=dict)

    def tree(self, root: Path) -> Iterator[Leak]:
        """What is in the files of a folder (or in one file), ignored and untracked ones included."""
        for path in [root] if root.is_file() else _files(root):
            name = path.name if path == root else path.relative_to(root).as_posix()
            try:
                if path.is_symlink() or path.stat().st_size > _LARGEST_FILE:
                    continue
                content = path.read_bytes()
            except OSError:
                continue
            if b"\0" in content[:8192]:
                continue
            for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
                for kind, _ in self.of_line(line, name):
                    yield Leak(name, number, kind)

    def history(self, root: Path) -> Iterator[Leak]:
        """What any commit on any branch added, each credential of a file once, with the commit that brought it."""
        seen = set()
        for commit, path, number, line in _added_lines(root if root.is_dir() else root.parent):
            for kind, value in self.of_line(line, path):
                identity = (path, kind, hashlib.sha256(value.encode()).digest())
                if identity not in seen:
                    seen.add(identity)
                    yield Leak(path, number, kind, commit)

    def of_line(self, line: str, path: str) -> Iterator[tuple[str, str]]:
        """Kind and value of each credential in a line."""
        if ALLOW in line:
            return
        found: set[str] = set()
        for name, value in self.in_use.items():
            if len(value) >= _SHORTEST_KNOWN and value in line:
                found.add(value)
                yield f"the value that {name} has now", value
        line = line[:_LONGEST_LINE]
        for kind, form in _FORMS.items():
            for match in form.finditer(line):
                if not _covered(match[0], found) and not _PLACEHOLDER.search(match[0]):
                    found.add(match[0])
                    yield kind, match[0]
        for match in _URL_PASSWORD.finditer(line) if "://" in line else ():
            value = match["value"]
            if not _covered(value, found) and _is_literal(value) and (_is_plain(path) or _is_mixed(value)):
                found.add(value)
                yield "password in a URL", value
        for match in _ASSIGNED.finditer(line) if _WORD.search(line) else ():
            value = match["double"] or match["single"] or match["bare"]
            if (match["bare"] and not _is_plain(path)) or _covered(value, found) or not _is_literal(value):
                continue
            known = match["name"] in self.variables and _is_plain(path) and len(value) >= _SHORTEST_KNOWN
            if known or (_looks_random(value) and not match["name"].lower().endswith(("_file", "_path"))):
                yield f"assigned to {match['name']}", value


def is_repository(root: Path) -> bool:
    """Whether there is a git history to look at."""
    try:
        return _git(root if root.is_dir() else root.parent, "rev-parse", "--git-dir").returncode == 0
    except OSError:
        return False


def _covered(value: str, found: set[str]) -> bool:
    """Whether this is (part of) what was found already, or contains it."""
    return any(value in other or other in value for other in found)


def _is_literal(value: str) -> bool:
    return not _PLACEHOLDER.search(value) and "(" not in value and not value.startswith(("http://", "https://"))


def _looks_random(value: str) -> bool:
    if len(value) < _SHORTEST_GUESSED or _NAME_LIKE.fullmatch(value) or "{" in value:
        return False
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return _is_mixed(value) and entropy >= _LEAST_ENTROPY


def _is_mixed(value: str) -> bool:
    return len(value) >= _SHORTEST_MIXED and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _is_plain(path: str) -> bool:
    name = Path(path).name
    return name.startswith((".env", "env")) or name.endswith(".env") or Path(name).suffix in _PLAIN_SUFFIXES


def _files(root: Path) -> Iterator[Path]:
    if is_repository(root):
        tracked = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
        # `--directory` names an ignored folder (a virtual environment) instead of what is in it.
        ignored = _git(root, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory").stdout
        names = {name for listing in (tracked, ignored) for name in listing.split(b"\0")}
        for name in sorted(names):
            path = root / name.decode("utf-8", "surrogateescape")
            if name and not name.endswith(b"/") and path.is_file():
                yield path
        return
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - _NOT_OURS)
        for file in sorted(files):
            yield Path(folder) / file


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - no shell, and the arguments are our own
        ["git", "-C", str(folder), "-c", "core.quotePath=off", *arguments],  # noqa: S607 - whichever git there is
        capture_output=True,
        check=False,
    )


_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(?P<start>\d+)(?:,(?P<count>\d+))? @@")


def _added_lines(root: Path) -> Iterator[tuple[str, str, int, str]]:
    """Commit, path, line number and text of each line that was ever added, the oldest commit first."""
    command = ["git", "-C", str(root), "-c", "core.quotePath=off", "log", "--all", "--reverse", "--format=commit %H"]
    options = ["--patch", "--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"]
    with subprocess.Popen(  # noqa: S603 - no shell, and the arguments are our own
        [*command, *options, "--diff-merges=first-parent", "--", "."],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as log:
        if log.stdout is None:
            raise AssertionError("stdout is a pipe")
        commit, path, number, left = "", "", 0, 0
        for raw in log.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if left and line.startswith("+"):
                yield commit, path, number, line[1:]
                number, left = number + 1, left - 1
            elif line.startswith("commit "):
                commit = line.removeprefix("commit ")
            elif line.startswith("+++ "):
                # git puts a tab after a path with spaces.
                path = line.removeprefix("+++ ").removeprefix("b/").rstrip("\t")
            elif match := _HUNK.match(line):
                number, left = int(match["start"]), int(match["count"] or 1)
    messages = _git(root, "log", "--all", "--reverse", "--format=%H%x00%B%x01").stdout.decode("utf-8", "replace")
    for entry in messages.split("\x01"):
        commit, _, message = entry.strip().partition("\0")
        for number, line in enumerate(message.splitlines(), start=1):
            yield commit, "message", number, line
