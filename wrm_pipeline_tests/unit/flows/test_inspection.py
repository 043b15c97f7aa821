"""A body that is inspected by a process of its own."""

from __future__ import annotations

from wrm_pipeline.flows.inspection import inspect_apart, inspect_here
from wrm_pipeline_tests.fixtures.lake import NOON, snapshot


def test_another_process_reports_dead_rows_as_this_one_does() -> None:
    body = snapshot(NOON) + b"1,2\n1,2,3\n"
    here, apart = inspect_here(body, NOON), inspect_apart(body, NOON)
    assert here.dead_counts == {"wrong_field_count": 2}
    assert (apart.fault, apart.counts, apart.dead_rows) == (here.fault, here.counts, here.dead_rows)
    assert apart.dead_counts == here.dead_counts
