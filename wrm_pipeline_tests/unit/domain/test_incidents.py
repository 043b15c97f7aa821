"""Incidents: one cause, one message; and what a person reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.domain.city import use_city
from wrm_pipeline.domain.incidents import (
    FORGOTTEN,
    MAX_ERROR_LENGTH,
    MAX_INCIDENTS,
    MAX_PARTITIONS,
    QUIET,
    Failure,
    Incidents,
    Message,
    Outcome,
    duration,
    escaped,
    first_line,
    without_variable_parts,
)

START = datetime(2025, 8, 21, 13, 5, tzinfo=UTC).timestamp()
MINUTE = 60.0
UI = "http://ui:3000/"
LATER = QUIET.total_seconds()


def failure(cause: str = "boom", error: str = "ValueError: boom", *, severe: bool = True) -> Failure:
    return Failure(cause, error, "step s", "Look.", severe)


def fails(minute: float, *, job: str = "j", partition: str = "", cause: str = "boom", severe: bool = True) -> Outcome:
    return Outcome(job, START + minute * MINUTE, f"run-{minute}", partition, failure(cause, severe=severe))


def works(minute: float, *, job: str = "j", partition: str = "") -> Outcome:
    return Outcome(job, START + minute * MINUTE, f"run-{minute}", partition)


def delivered(incidents: Incidents, minute: float) -> list[Message]:
    """What is said at that minute, all of it delivered. The state goes through JSON, as between two ticks."""
    now = START + minute * MINUTE
    messages = incidents.to_report(now, UI)
    for message in messages:
        incidents.reported(message, now)
    incidents.__init__(json.loads(json.dumps(incidents.to_json())))  # type: ignore[misc]
    return messages


def signs(messages: list[Message]) -> str:
    return "".join(message.text[0] for message in messages)


# What happens minute by minute: f = fails, s = succeeds, . = nothing; and what is said, with the minute.
STORIES = [
    ("f", "0🔴"),
    ("s", ""),
    ("fffff", "0🔴"),
    ("fffffssssssss", "0🔴 10🟢"),
    ("fs......", "0🔴 6🟢"),
    ("fsfsfsfsfs.......", "0🔴 14🟢"),  # every other minute: one incident
    ("fs.......f", "0🔴 6🟢 9🔴"),  # long after: another one
]


@pytest.mark.parametrize(("story", "said"), STORIES)
def test_one_message_when_it_begins_and_one_when_it_is_over(story, said):
    incidents, heard = Incidents(), []
    for minute, what in enumerate(story):
        if what != ".":
            incidents.observe((fails if what == "f" else works)(minute))
        heard += [f"{minute}{sign}" for sign in signs(delivered(incidents, minute))]
    assert " ".join(heard) == said


def test_jobs_and_causes_are_distinguished():
    incidents = Incidents()
    for outcome in (fails(0), fails(0, job="k"), fails(0, cause="other")):
        incidents.observe(outcome)
    assert len(delivered(incidents, 0)) == 3
    incidents.observe(works(1))
    over = delivered(incidents, 1 + LATER / 60)
    assert [message.text.splitlines()[0] for message in over] == ["🟢 *j* is good again"] * 2


def test_another_partitions_success_does_not_end_it():
    incidents = Incidents()
    incidents.observe(fails(0, partition="2025-08-20"))
    delivered(incidents, 0)
    incidents.observe(works(1, partition="2025-08-21"))
    assert delivered(incidents, 30) == []
    incidents.observe(works(31, partition="2025-08-20"))
    assert signs(delivered(incidents, 31 + LATER / 60)) == "🟢"


def test_one_cause_in_many_partitions_is_one_incident_that_ends_with_the_last():
    incidents = Incidents()
    days = [f"2025-08-{day:02}" for day in range(1, 11)]
    for minute, day in enumerate(days):
        incidents.observe(fails(minute, partition=day))
    (message,) = delivered(incidents, 10)
    assert "10 runs so far" in message.text
    assert "partition 2025-08-10 and 9 more" in message.text
    for minute, day in enumerate(days[:-1], start=11):
        incidents.observe(works(minute, partition=day))
    assert delivered(incidents, 60) == []
    incidents.observe(works(61, partition=days[-1]))
    assert signs(delivered(incidents, 61 + LATER / 60)) == "🟢"


def test_what_nobody_runs_again_is_let_go_after_a_day():
    incidents = Incidents()
    incidents.observe(fails(0))
    delivered(incidents, 0)
    hours = FORGOTTEN / timedelta(hours=1)
    assert delivered(incidents, (hours - 0.1) * 60) == []
    (message,) = delivered(incidents, hours * 60)
    assert "has not failed again for 24 h" in message.text
    assert incidents.to_json() == []


def test_what_began_and_ended_unheard_is_one_message():
    incidents = Incidents()
    incidents.observe(fails(0))
    incidents.observe(fails(1))
    incidents.to_report(START, UI)  # and the webhook is down
    incidents.observe(works(2))
    (message,) = delivered(incidents, 2 + LATER / 60)
    assert message.text.startswith("🟢")
    assert "2 runs" in message.text
    assert delivered(incidents, 60) == []


def test_the_state_is_bounded_and_drops_what_was_reported_first():
    incidents = Incidents()
    incidents.observe(fails(0, cause="reported"))
    delivered(incidents, 0)
    for n in range(MAX_INCIDENTS + 5):
        incidents.observe(fails(n, cause=f"cause {n}", partition="p"))
    for n in range(MAX_PARTITIONS * 3):
        incidents.observe(fails(100 + n, cause=f"cause {MAX_INCIDENTS}", partition=f"p{n}"))
    state = incidents.to_json()
    causes = [entry["cause"] for entry in state]
    assert len(state) == MAX_INCIDENTS
    assert "reported" not in causes
    assert causes[-1] == f"cause {MAX_INCIDENTS + 4}"
    assert max(len(entry["partitions"]) for entry in state) == MAX_PARTITIONS
    assert len(json.dumps(state)) < 64_000
    assert any("at least" in message.text for message in incidents.to_report(START, UI))


def test_the_text_of_a_failure():
    incidents = Incidents()
    incidents.observe(fails(0, partition="2025-08-21"))
    (message,) = delivered(incidents, 0)
    assert message.text.splitlines() == [
        "🔴 *j* failed",
        "```ValueError: boom```",
        "*Where:* step s, partition 2025-08-21",
        "*Since:* 2025-08-21 15:05 (Wrocław), 1 run so far",
        "*What to try:* Look.",
        "<http://ui:3000/runs/run-0|Open the run>",
    ]


def test_the_times_of_an_incident_are_those_of_the_city():
    use_city("St. John's <NL>", ZoneInfo("America/St_Johns"))
    incidents = Incidents()
    incidents.observe(fails(0))
    (message,) = delivered(incidents, 0)
    assert "*Since:* 2025-08-21 10:35 (St. John's &lt;NL&gt;), 1 run so far" in message.text


def test_the_text_of_the_end():
    incidents = Incidents()
    for minute in range(5):
        incidents.observe(fails(minute))
    delivered(incidents, 4)
    incidents.observe(works(65))
    (message,) = delivered(incidents, 65 + LATER / 60)
    assert message.text.splitlines() == [
        "🟢 *j* is good again",
        "*Lasted:* 1 h 5 min, from 2025-08-21 15:05 to 2025-08-21 16:10 (Wrocław)",
        "*Failed:* 5 runs; step s",
        "```ValueError: boom```",
        "<http://ui:3000/runs/run-4|Open the last run that failed>",
    ]


def test_what_is_odd_is_not_called_a_failure():
    incidents = Incidents()
    incidents.observe(fails(0, severe=False))
    (message,) = delivered(incidents, 0)
    assert message.text.startswith("🟡 *j* failed (a warning)")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b & c > d", "a &lt; b &amp; c &gt; d"),
        ("<!channel> <http://evil|click> <@U123>", "&lt;!channel&gt; &lt;http://evil|click&gt; &lt;@U123&gt;"),
        ("ends ``` the block", "ends ''' the block"),
        ("two\nlines\r\x1b[31m\x00", "two lines  [31m "),
        ("Dworzec Główny, południe", "Dworzec Główny, południe"),
    ],
)
def test_text_of_others_is_no_markup(text, shown):
    assert escaped(text) == shown


def test_markup_in_every_field_of_others_is_escaped():
    incidents = Incidents()
    bad = "<!channel> ``` *x*"
    incidents.observe(Outcome(f"job {bad}", START, "r", f"p {bad}", Failure("c", f"E: {bad}", f"step {bad}", "Look.")))
    (message,) = delivered(incidents, 0)
    assert "<!channel>" not in message.text
    assert message.text.count("```") == 2


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.b.c.TransientError: feed get http://f/x: HTTP 503\nmore", "TransientError: feed get http://f/x: HTTP 503"),
        ("ValueError: the number 1.5.2 is not a number\n", "ValueError: the number 1.5.2 is not a number"),
        ("\n\nKeyError: 'this key is missing'", "KeyError: 'this key is missing'"),
        ('pandera.errors.SchemaErrors: {\n  "SCHEMA": {\n "in": 2}}', 'SchemaErrors: { "SCHEMA": { "in": 2}}'),
        ("Exceeded maximum runtime of 900 seconds.", "Exceeded maximum runtime of 900 seconds."),
        ("", "(no message)"),
        ("  \n ", "(no message)"),
    ],
)
def test_the_first_line_of_an_error(message, line):
    assert first_line(message) == line


def test_a_long_line_is_cut():
    assert len(first_line("word " * 1000)) == MAX_ERROR_LENGTH


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("E: processed dt=2025-08-21 has 500 rows", "E: processed dt=2025-08-22 has 1234 rows"),
        ("E: no raw/dt=2025-08-21/a.txt of s3", "E: no raw/dt=2025-08-20/b.txt of s3"),
        ("E: run 3f2504e0-4f89-11d3-9a0c-0305e82c3301 ended", "E: run 6fa459ea-ee8a-3ca4-894e-db77e160355e ended"),
        ("E: at 12:03:04.5 it 'broke'", "E: at 23:59:59 it 'failed'"),
    ],
)
def test_the_same_cause_on_another_day_reads_the_same(one, other):
    assert without_variable_parts(one) == without_variable_parts(other)


def test_other_causes_read_differently():
    assert without_variable_parts("E: disk full after 3 s") != without_variable_parts("E: no such table after 3 s")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (7500, "2 h 5 min"), (86400, "24 h")],
)
def test_lengths_of_time_in_words(seconds, words):
    assert duration(timedelta(seconds=seconds)) == words
