"""Which backups stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.domain.backup_retention import Retention

START = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


def after(days: int, retention: Retention) -> set[datetime]:
    """What is left when a backup is taken each day, and what is too old removed each time."""
    stored: set[datetime] = set()
    for day in range(days):
        stored.add(START + timedelta(days=day))
        stored = retention.kept(stored)
    return stored


def test_a_year_of_daily_backups_leaves_days_weeks_and_months() -> None:
    stored = sorted(after(365, Retention()), reverse=True)
    newest = START + timedelta(days=364)  # Thursday, 31 December 2026
    assert stored[:7] == [newest - timedelta(days=day) for day in range(7)]
    # The Sundays of the weeks before, then the last days of the months before.
    assert [f"{at:%m-%d}" for at in stored[7:]] == ["12-20", "12-13", "11-30", "10-31", "09-30", "08-31", "07-31"]


def test_the_newest_stays_and_several_of_a_day_count_once() -> None:
    hourly = [START + timedelta(hours=hour) for hour in range(10)]
    assert Retention(daily=0, weekly=0, monthly=1).kept(hourly) == {hourly[-1]}
    assert Retention(daily=3, weekly=0, monthly=0).kept([]) == set()


def test_after_a_long_pause_the_days_before_it_are_still_there() -> None:
    stored = after(60, Retention())
    later = START + timedelta(days=200)
    kept = Retention().kept(stored | {later})
    assert {START + timedelta(days=day) for day in range(54, 60)} | {later} <= kept


def test_what_is_no_retention_is_refused() -> None:
    assert Retention.parse("30, 8, 12") == Retention(30, 8, 12)
    for text in ("7", "7,4", "a,b,c", "-1,4,6", "0,0,0", ""):
        with pytest.raises(ValueError, match="three numbers"):
            Retention.parse(text)
