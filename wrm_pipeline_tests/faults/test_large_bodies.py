"""A body or a line of any size costs a bounded amount of memory and time, and every line of it is accounted for."""

from pathlib import Path

import pytest

from wrm_pipeline_tests.faults.large_bodies import cost, write

# In proportion to the 300 MB that 200 MB may take, with room for the table that a file may have at most.
SIZE, MAX_MEMORY_MB = 50 * 10**6, 110
# Of processor time; all but two take less than 5.
MAX_SECONDS = 30

OUTCOMES = {
    "zeros": "file_not_text",
    "a page of HTML in one line": "file_no_header",
    "line feeds without a header": "file_empty",
    "remarks without a header": "file_over_limit",
    "remarks of 60 kB without a header": "file_no_header",
    "a header of a million columns": "file_over_limit",
    "headers of 60 kB that lack a column": "file_over_limit",
    "line feeds": "rows",
    "blank lines": "rows",
    "one-letter lines": "file_over_limit",
    "remarks": "file_over_limit",
    "dead rows of 1 kB of every kind": "file_no_valid_row",
    "remarks of 1 kB in quotes": "file_no_valid_row",
    "one row again and again": "file_over_limit",
    "distinct stations": "file_over_limit",
    "distinct stations in UTF-16": "file_over_limit",
    "distinct stations that end in CR": "file_over_limit",
    "distinct stations and a column of 1 kB": "rows",
    "a dead row among each hundred": "wrong_field_count",
    "rows of 1,000 columns": "rows",
    "rows between blank lines": "rows",
    "names of 1,000 letters": "file_over_limit",
    "names of 1 MB": "rows",
    "ids of 1 MB": "file_over_limit",
    "carriage returns without end": "line_too_long",
    "lines of 15 MB of quotes": "line_too_long",
    "lines of 1 MB of quotes": "wrong_field_count",
    "lines of 1 MB of quotes behind blanks": "wrong_field_count",
    "lines of 1 MB of blanks and a quote": "unclosed_quote",
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_a_large_body_costs_a_bounded_amount_of_memory_and_time(kind: str, tmp_path: Path):
    path = tmp_path / "body"
    write(kind, SIZE, path)
    found = cost(path)
    path.unlink()
    assert found.outcome == OUTCOMES[kind]
    assert found.memory_mb < MAX_MEMORY_MB
    assert found.cpu_s < MAX_SECONDS
