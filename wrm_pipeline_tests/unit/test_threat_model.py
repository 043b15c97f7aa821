"""What the threat model promises is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")][
    1:
]


def test_each_mechanism_has_a_test_that_is_there() -> None:
    assert len(ROWS) >= 20
    for who, could, stopped_by, tests, _not_stopped in ROWS:
        named = re.findall(r"`([\w/.]+)`", tests)
        assert named, f"{who} {could}: {stopped_by}"
        for name in named:
            folder = ROOT if name.startswith("deploy/") else ROOT / "wrm_pipeline_tests"
            assert (folder / name).exists(), name


def test_everybody_of_the_issue_is_in_it() -> None:
    people = " ".join(row[0] for row in ROWS)
    for word in ("feed", "store", "network", "may look", "may act", "account", "bucket key", "dependency", "backup"):
        assert word in people


def test_it_is_linked_from_where_people_begin() -> None:
    for name in ("README.md", "SECURITY.md", "docs/secrets.md"):
        assert "threat-model.md" in (ROOT / name).read_text(), name
