"""The webhook: what arrives, when it is tried again, and that its URL is never revealed."""

from __future__ import annotations

import json
import logging
import socket
import traceback

import pytest

from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.clients.retry import REQUESTS, RetryPolicy
from wrm_pipeline_tests.fixtures.fault_server import HANG, RESET, Answer, FaultServer, html

QUICK = RetryPolicy(attempts=3, deadline_s=15, base_wait_s=0.01, max_wait_s=0.02, attempt_s=5)
ONCE = RetryPolicy(attempts=1, deadline_s=5, base_wait_s=0.01, max_wait_s=0.02, attempt_s=5)
CANARY = "T0CANARY/B0CANARY/webhook-canary"
OK = Answer(200, b"ok")


@pytest.fixture(scope="module")
def server():
    with FaultServer() as server:
        yield server


def webhook(server: FaultServer, policy: RetryPolicy = QUICK) -> Webhook:
    return Webhook(f"{server.url}/services/{CANARY}", policy)


def test_a_message_arrives_as_slacks_json(server):
    server.play(then=OK)
    webhook(server).post("🔴 *it* failed\n<http://ui|run>")
    (request,) = server.requests
    assert request.method == "POST"
    assert request.path == f"/services/{CANARY}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {"text": "🔴 *it* failed\n<http://ui|run>"}


@pytest.mark.parametrize("fault", [html(503), html(500), html(408), html(429, Retry_After="0"), RESET])
def test_what_may_pass_is_tried_again(server, fault):
    server.play([fault, fault], then=OK)
    webhook(server).post("hello")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [302, 307, 400, 403, 404, 410])
def test_a_refusal_is_final_and_says_what_to_do(server, status):
    server.play(then=Answer(status, b"no_service", {"Location": "/elsewhere"}))
    with pytest.raises(PermanentError, match=f"HTTP {status}.*WRM_ALERT_WEBHOOK_URL") as caught:
        webhook(server).post("hello")
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_a_wait_that_slack_asks_for_and_that_does_not_fit_ends_the_attempts(server):
    server.play(then=html(429, Retry_After="30"))
    with pytest.raises(TransientError, match="HTTP 429"):
        webhook(server).post("hello")
    assert len(server.requests) == 1


def test_it_gives_up_after_a_few_attempts_and_counts_them(server):
    server.play(then=html(503))
    REQUESTS.reset()
    with pytest.raises(TransientError, match="gave up after 3 attempts"):
        webhook(server).post("hello")
    assert REQUESTS.reset().requests == {("webhook", "post", "retried"): 2, ("webhook", "post", "failed"): 1}


def test_a_receiver_that_says_nothing_is_left_alone_within_seconds(server):
    server.play(then=HANG)
    with pytest.raises(TransientError, match=r"no answer from 127\.0\.0\.1 within"):
        webhook(server, ONCE).post("hello")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/" + CANARY,
        "http://host.invalid/" + CANARY,
        "http://127.0.0.1:{port}/with space/" + CANARY,
        "http://user:" + CANARY.replace("/", "-") + "@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/ł/" + CANARY,
        "http:///" + CANARY,
    ],
)
def test_the_url_is_in_no_message_traceback_log_or_repr(url, caplog):
    caplog.set_level(logging.DEBUG)
    hook = Webhook(url.format(port=closed_port()), ONCE)
    with pytest.raises(ExternalError) as caught:
        hook.post("hello")
    error = caught.value
    chain = []
    following: BaseException | None = error
    while following is not None:
        chain += [repr(following), str(following), repr(following.args)]
        following = following.__cause__ or following.__context__
    shown = "\n".join([*chain, *traceback.format_exception(error), caplog.text, repr(hook), str(hook)])
    assert "CANARY" not in shown
    assert "webhook-canary" not in shown


@pytest.mark.parametrize("answer", [html(503), html(404), Answer(200, b"ok")])
def test_nor_where_somebody_answers(server, answer, caplog):
    caplog.set_level(logging.DEBUG)
    server.play(then=answer)
    try:
        webhook(server, ONCE).post("hello")
        shown = ""
    except ExternalError as error:
        shown = "".join([repr(error.__cause__), repr(error.__context__), *traceback.format_exception(error)])
    assert "CANARY" not in shown + caplog.text
