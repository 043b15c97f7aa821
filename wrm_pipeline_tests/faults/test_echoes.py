"""A feed that quotes the credential in its URL: the minute is kept, the credential nowhere."""

from __future__ import annotations

import pytest

from wrm_pipeline_tests.faults.harness import DEAD_LETTERED, NOON, QUARANTINED, Harness, local_day
from wrm_pipeline_tests.fixtures.canaries import SPELLINGS, canary, shows
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

TOKEN = canary("the feed's token")
WHOLE = ["plain", "percent-encoded", "repr", "JSON in JSON", "HTML with numbers", "base64 of user:password", "in hex"]


def kept(world: Harness) -> str:
    """Everything in the lake, in the spool, and in messages."""
    objects = [world.truth.get(info.key) for info in world.truth.list(world.layout.prefix)]
    spooled = [body.read() for body in world.spool.waiting()]
    return "\n".join([*(body.decode("utf-8", "replace") for body in (*objects, *spooled)), *world.failures])


WAYS = ["a page", "a row", "an error", "a redirect", "a broken redirect"]


@pytest.mark.parametrize(
    ("spelling", "how", "store_is_away"),
    [*((spelling, how, False) for spelling in WHOLE for how in WAYS), *(("plain", how, True) for how in WAYS)],
)
def test_feed_quotes_its_credential(world: Harness, report, spelling: str, how: str, store_is_away: bool) -> None:
    outcome = {"a page": QUARANTINED, "a row": DEAD_LETTERED}.get(how, "failed, and the next minute published")
    report(f"{how} with the token, {spelling}{', and no store' if store_is_away else ''}", outcome)
    quoted = SPELLINGS[spelling](TOKEN)
    answers = {
        "a page": Answer(200, f"<html>{quoted}</html>".encode()),
        "a row": Answer(200, snapshot(NOON, 10, line(lat="north", name=quoted.replace('"', "'").replace(",", ";")))),
        "an error": Answer(404, quoted.encode(), {"X-Echo": quoted}),
        "a broken redirect": Answer(302, b"", {"Location": f"http://[::1/?token={quoted}"}),
        "a redirect": Answer(302, b"", {"Location": f"/?again={quoted}"}),
    }
    with FaultServer(then=answers[how]) as server:
        world.feed_url = f"{server.url}/?scheme=wroclaw&token={TOKEN}"
        if store_is_away:
            world.store.fails = lambda _operation, _key: True
        first = world.fetch()
        assert not shows(kept(world), TOKEN)
        world.store.fails = lambda _operation, _key: False
        server.play(then=Answer(200, snapshot(world.now, 12)))
        world.fetch()
    assert isinstance(first, Exception) == (how not in {"a page", "a row"})
    if how == "a row":
        assert world.process(local_day(NOON))
        assert any(world.truth.list(f"{world.layout.prefix}dlq/"))
        assert not shows(kept(world), TOKEN)
    assert len(list(world.truth.list(f"{world.layout.prefix}raw/"))) == 1 + (how == "a row")
    assert len(list(world.truth.list(f"{world.layout.prefix}quarantine/"))) == (how == "a page")
