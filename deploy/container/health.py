"""`python health.py code|daemon|web|exporter`: exit status 0 if that service of this container works.

`health.py snapshot SECONDS`, in the web server's container, is for `release`: whether a run that was created after that
time (Unix) has taken a snapshot.

Dagster's own commands for this import all of Dagster, 1.5 s of processor time each; only the daemon needs one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

TIMEOUT_S = 5


def code_server_answers() -> bool:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with grpc.insecure_channel("localhost:4000") as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service="DagsterApi"), timeout=TIMEOUT_S)
    return bool(answer.status == HealthCheckResponse.SERVING)


def page_answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return bool(answer.status == 200)


def daemon_has_a_heartbeat() -> bool:
    return subprocess.run(["dagster-daemon", "liveness-check"], check=False).returncode == 0


def snapshot_was_taken(since: float) -> bool:
    query = """query ($since: Float!) { runsOrError(limit: 1, filter: {
        pipelineName: "wrm_stations_ingest_job", statuses: [SUCCESS], createdAfter: $since}) {
        ... on Runs { results { runId } } } }"""
    body = json.dumps({"query": query, "variables": {"since": since}}).encode()
    request = urllib.request.Request("http://localhost:3000/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return bool(json.load(answer)["data"]["runsOrError"]["results"])


CHECKS = {
    "code": code_server_answers,
    "daemon": daemon_has_a_heartbeat,
    "web": lambda: page_answers("http://localhost:3000/server_info"),
    "exporter": lambda: page_answers("http://localhost:8000/healthz"),
    "snapshot": lambda: snapshot_was_taken(float(sys.argv[2])),
}


if __name__ == "__main__":
    # An exception is a failure, too, and its last line is in the container's health log.
    sys.exit(not CHECKS[sys.argv[1]]())
