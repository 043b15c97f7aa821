"""An hour and a half of the simulated day; the whole of it is a command of its own."""

from __future__ import annotations

import pytest

from wrm_pipeline_tests.faults import simulated_day


@pytest.mark.parametrize("seed", [2, 3])
def test_everything_at_once(environment, capsys, report, seed):
    report(f"5 % faults everywhere, SIGKILLs, outages, seed {seed}", "published")
    status = simulated_day.main(["--minutes", "90", "--seed", str(seed), "--stations", "12", "--bikes", "20"])
    assert status == 0, capsys.readouterr().out
