"""The counts of a day as the page gets them."""

from datetime import date

import pyarrow as pa

from wrm_pipeline.report.replay import FIRST, UNKNOWN, pack, replays


def test_a_count_is_one_character_and_none_is_a_blank():
    counts = pa.chunked_array([[[0, 1, None, 34]], [[], [7]]], pa.list_(pa.int32()))
    texts = pack(counts)
    assert [len(text) for text in texts] == [4, 0, 1]
    assert [None if c == UNKNOWN else ord(c) - FIRST for c in texts[0]] == [0, 1, None, 34]
    assert texts[2] == chr(FIRST + 7)


def test_each_day_begins_at_its_local_midnight():
    days = [date(2025, 10, 26), date(2025, 10, 25)]
    rows = pa.table(
        {
            "dt": days,
            "station_id": ["15001", "15002"],
            "name": ["A", "B"],
            "lat": [51.1, 51.2],
            "lon": [17.0, 17.1],
            "total_docks": [10, None],
            "bikes": pa.array([[3], [None, 4]], pa.list_(pa.int32())),
        }
    )
    found = replays(rows)
    assert found[days[0]] == {"begin": "2025-10-25T22:00:00Z", "rows": [["15001", "A", 51.1, 17, 10, "`"]]}
    assert found[days[1]]["rows"] == [["15002", "B", 51.2, 17.1, None, " a"]]
    assert replays(None) == replays(rows[:0]) == {}
