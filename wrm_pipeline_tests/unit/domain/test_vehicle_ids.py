"""Public ids of bikes: the same while a bike stands, another one after each trip, and none leads to the number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.domain.vehicle_ids import Stays, next_stays

NOON = datetime(2025, 8, 21, 12, tzinfo=UTC)
HERE, NEAR, FAR = (51.11, 17.03), (51.1107, 17.03), (51.1111, 17.03)  # 78 m and 122 m to the north
KEY = b"k" * 32


def ids_of(*minutes: dict[str, tuple[float, float]], key: bytes = KEY) -> list[str | None]:
    """The public id of bike fb1 in snapshots of one minute after the other."""
    stays, found = None, []
    for number, positions in enumerate(minutes):
        stays = next_stays(stays, NOON + timedelta(minutes=number), positions)
        found.append(stays.public_ids(key).get("fb1"))
    return found


def test_a_bike_that_stands_keeps_its_id_though_its_position_strays():
    assert len(set(ids_of({"fb1": HERE}, {"fb1": NEAR}, {"fb1": HERE}, {"fb1": NEAR, "fb2": FAR}))) == 1


def test_after_a_trip_it_has_another_one_even_at_the_same_place():
    before, moved, missing, back = ids_of({"fb1": HERE}, {"fb1": FAR}, {}, {"fb1": FAR})
    assert missing is None
    assert len({before, moved, back}) == 3


def test_it_does_not_creep_away_under_one_id():
    # Each step is 78 m, but the third position is 156 m from where the stay began.
    ids = ids_of({"fb1": HERE}, {"fb1": NEAR}, {"fb1": (51.1114, 17.03)})
    assert ids[0] == ids[1] != ids[2]


def test_ids_differ_between_bikes_and_between_keys_and_hide_the_number():
    stays = next_stays(None, NOON, {"fb591106": HERE, "fb591107": HERE})
    first, second = stays.public_ids(KEY).values()
    assert first != second
    assert stays.public_ids(b"x" * 32)["fb591106"] != first
    assert "591106" not in first
    assert stays.public_ids(KEY) == {"fb591106": first, "fb591107": second}


def test_stays_are_kept_as_text():
    stays = next_stays(None, NOON, {"fb1": HERE})
    assert Stays.from_json(stays.to_json()) == stays


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at": "x", "bikes": {}}', '{"at": 1, "bikes": {"a": 1}}'])
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Stays.from_json(text)
