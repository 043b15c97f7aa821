"""What the host under test talks to: a simulated feed, an S3 server, a fake Vault; all on loopback, until stdin ends.

    python -m deploy.test.world FOLDER      (from the root of the repository, in the pipeline's own environment)

Writes FOLDER/world.json: where everything is, and the secrets, each of them random and easy to find in any text.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.fake_vault import ROLE_ID, FakeVault
from wrm_pipeline_tests.integration.conftest import free_ports

BUCKET = "wrm-bikes"
PREFIX = "bike-data/gen_info/"


def canary(name: str) -> str:
    """A secret that can be found wherever it goes."""
    return f"canary-{name}-{secrets.token_hex(12)}"


def s3_client(world: dict[str, Any]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=world["s3_url"],
        aws_access_key_id=world["secrets"]["s3_access_key_id"],
        aws_secret_access_key=world["secrets"]["s3_secret_access_key"],
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=2,
            read_timeout=10,
            request_checksum_calculation="when_required",
        ),
    )


class Webhook(BaseHTTPRequestHandler):
    """The receiver of alerts."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def start_s3(folder: Path, world: dict[str, Any]) -> subprocess.Popen[bytes]:
    """SeaweedFS with one identity and one bucket."""
    folder.mkdir()
    key = {"accessKey": world["secrets"]["s3_access_key_id"], "secretKey": world["secrets"]["s3_secret_access_key"]}
    identity = {"name": "wrm", "credentials": [key], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(2 * len(names)), strict=True))
    options = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": str(folder),
        "master.volumePreallocate": "false",
        "master.volumeSizeLimitMB": "64",
        "volume.max": "500",
        "volume.preStopSeconds": "0",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.config": str(folder / "s3.json"),
        **ports,
    }
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "weed"), "server", "-s3", *(f"-{k}={v}" for k, v in options.items())],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    world["s3_url"] = f"http://127.0.0.1:{ports['s3.port']}"
    client = s3_client(world)
    for _ in range(300):
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
        else:
            return process
    raise RuntimeError(f"SeaweedFS takes no objects; see {folder / 'log'}")


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        "s3_access_key_id",
        "s3_secret_access_key",
        "vault_secret_id",
        "postgres",
        "redis",
        "web",
        "web_viewer",
        "webhook",
        "ansible_vault",
    )
    world: dict[str, Any] = {"secrets": {name: canary(name.replace("_", "-")) for name in names}}
    # Of the form that `wrm backup --new-key` gives.
    world["secrets"]["backup_key"] = secrets.token_urlsafe(32)
    host_ports = ("ssh", "https", "http", "postgres", "redis", "exporter", "prometheus", "alertmanager", "node")
    world["ports"] = dict(zip(host_ports, free_ports(len(host_ports)), strict=True))
    s3 = start_s3(folder / "s3", world)
    webhook = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    world["webhook_url"] = f"http://127.0.0.1:{webhook.server_address[1]}/{world['secrets']['webhook']}"
    tls = folder / "vault"
    tls.mkdir()
    with (
        serve(City(7), clock=lambda: datetime.now(UTC)) as feed,
        FakeVault(world["secrets"]["vault_secret_id"], tls=tls) as vault,
    ):
        secret, ports = world["secrets"], world["ports"]
        vault.put(
            "wrm/s3",
            endpoint_url=world["s3_url"],
            access_key_id=secret["s3_access_key_id"],
            secret_access_key=secret["s3_secret_access_key"],
            region_name="us-east-1",
            bucket_name=BUCKET,
        )
        vault.put("wrm/redis", url=f"redis://:{secret['redis']}@127.0.0.1:{ports['redis']}/0")
        vault.put("wrm/alerts", webhook_url=world["webhook_url"])
        vault.put("wrm/postgres", password=secret["postgres"])
        world |= {"feed_url": feed.url, "vault_url": vault.url, "vault_ca": vault.ca_file, "vault_role_id": ROLE_ID}
        (folder / "world.json").write_text(json.dumps(world, indent=1))
        print("ready", flush=True)
        sys.stdin.read()
    s3.kill()
    s3.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
