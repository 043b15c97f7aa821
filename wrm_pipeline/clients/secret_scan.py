"""Finds credentials in use that were left in a folder or its git history; never prints their values.

Strings that merely look like credentials are left to detect-secrets (`make check`, pre-commit): it knows more formats,
while this process knows the values. A line with ``pragma: allowlist secret`` is ignored.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ALLOW = "pragma: allowlist secret"

# In characters: a shorter value would be found in ordinary words.
_SHORTEST = 6
_LARGEST_FILE = 5 * 2**20
_NOT_OURS = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".tox"})


@dataclass(frozen=True, slots=True)
class Leak:
    """The place of one credential.

    Attributes:
        path: Of the file, relative to the folder or repository; ``message`` for a commit's message.
        line: Its number, from 1.
        variable: Whose value it is.
        commit: The commit that added it, if it is in the history.
    """

    path: str
    line: int
    variable: str
    commit: str = ""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}"
        return f"{f'commit {self.commit[:12]}  ' if self.commit else ''}{place}  the value that {self.variable} has now"


@dataclass(frozen=True, slots=True)
class Scanner:
    """Looks for values in use.

    Attributes:
        in_use: Values, by the name of their variable.
    """

    in_use: Mapping[str, str]

    def tree(self, root: Path) -> Iterator[Leak]:
        """Values in the files of a folder (or in one file), including ignored and untracked ones."""
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
                for variable in self._of_line(line):
                    yield Leak(name, number, variable)

    def history(self, root: Path) -> Iterator[Leak]:
        """Values that any commit on any branch added: each value once per file, with the commit that added it."""
        seen = set()
        for commit, path, number, line in _added_lines(root if root.is_dir() else root.parent):
            for variable in self._of_line(line):
                if (path, variable) not in seen:
                    seen.add((path, variable))
                    yield Leak(path, number, variable, commit)

    def _of_line(self, line: str) -> list[str]:
        if ALLOW in line:
            return []
        return [name for name, value in self.in_use.items() if len(value) >= _SHORTEST and value in line]


def is_repository(root: Path) -> bool:
    """Whether there is a git history to look at."""
    try:
        return _git(root if root.is_dir() else root.parent, "rev-parse", "--git-dir").returncode == 0
    except OSError:
        return False


def _files(root: Path) -> Iterator[Path]:
    if is_repository(root):
        tracked = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
        # `--directory` lists an ignored folder (a virtual environment) instead of its content.
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
