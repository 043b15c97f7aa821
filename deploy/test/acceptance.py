"""`make deploy-test`: the deployment tried for real, on a throw-away Debian with systemd; prints a table.

    python -m deploy.test.acceptance [--folder FOLDER] [--keep | --attach] [--only STAGE …]

DEPLOY_SUITE in the environment is the release of Debian (default: bookworm).
While a call with --folder and --keep waits for Enter, others with --attach run stages on its host.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow.parquet as pq
from tabulate import tabulate

from deploy.test.faults import FAULTS
from deploy.test.host import ANSIBLE, IN_PROGRESS, REPOSITORY, TOOLS, Host, Outage, wait_until
from deploy.test.world import BUCKET, PREFIX, s3_client

OUR_SOCKETS = ("dagster-webserver.socket", "dagster-look.socket")
OUR_UNITS = ("dagster-daemon.service", "dagster-webserver.service", "wrm-exporter.service")
WORST_EXPOSURE = 2.5
# Columns that differ from one build of the same rows to the next: its time, and the ETags of what it was built from.
# Times and files of a build; the catalog's examples are whichever rows the database gave first.
OF_THE_BUILD = ("processed_at", "refreshed_at", "etag", "source", "samples")


class Acceptance:
    """The host, and what was found out about it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.s3 = s3_client(host.world)
        self.rows: list[tuple[str, str, str, str]] = []
        self.stage = ""
        self.seeded = 0

    def check(self, point: str, holds: bool, measured: object = "") -> None:
        word = "ok" if holds else "FAILED"
        self.rows.append((self.stage, point, word, str(measured)))
        print(f"{datetime.now():%H:%M:%S} {word:<7} {point}: {measured}", flush=True)

    # Data

    def names(self, folder: str = "") -> list[str]:
        """Keys of the objects in the lake or a folder of it, without the lake's own prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}{folder}")
        return [item["Key"].removeprefix(PREFIX) for page in pages for item in page.get("Contents", [])]

    def snapshot_times(self) -> list[datetime]:
        names = [name.rpartition("wrm_stations_")[2] for name in self.names("raw/")]
        return sorted(datetime.strptime(name, "%Y-%m-%d_%H-%M-%S.txt").replace(tzinfo=UTC) for name in names)

    def check_minutes(self, begin: float) -> None:
        """Each minute from then until now has its snapshot; what is fetched late in a minute is waited for."""
        first = datetime.fromtimestamp(begin, UTC).replace(second=0, microsecond=0)
        last = datetime.now(UTC).replace(second=0, microsecond=0)
        wanted = {first + timedelta(minutes=n) for n in range(int((last - first) / timedelta(minutes=1)) + 1)}

        def missing() -> list[str]:
            times = [at for at in self.snapshot_times() if at >= first]
            return [f"{at:%H:%M}" for at in sorted(wanted - {at.replace(second=0) for at in times})]

        wait_until(lambda: not missing(), 60, every=3)
        times = [at for at in self.snapshot_times() if at >= first]
        gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
        text = f"{len(wanted)} minutes, longest time between two snapshots {max(gaps, default=0):.0f} s"
        self.check("No snapshot minute is missing", not missing(), f"{text} {missing() or ''}")

    def seed(self, days: int, each: int) -> list[str]:
        """Raw snapshots of past days, as an older archive would have them; each call gives new ones."""
        self.seeded += 1
        today = datetime.now(ZoneInfo("Europe/Warsaw")).date()
        chosen = [today - timedelta(days=n + 2) for n in range(days)]

        def put(job: tuple[date, int]) -> None:
            at = datetime(job[0].year, job[0].month, job[0].day, 6, tzinfo=UTC) + timedelta(
                minutes=job[1], seconds=self.seeded
            )
            url = f"{self.host.world['feed_url']}&at={at:%Y-%m-%dT%H:%M:%SZ}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                body = answer.read()
            key = f"{PREFIX}raw/dt={job[0]}/wrm_stations_{at:%Y-%m-%d_%H-%M-%S}.txt"
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, [(day, minute) for day in chosen for minute in range(each)]))
        return [str(day) for day in chosen]

    # Releases

    def spoil(
        self,
        version: str,
        name: str = "wrm_pipeline/__init__.py",
        change: Callable[[str], str] | None = None,
        *,
        recorded: bool = True,
    ) -> Path:
        """A release like the first one, but for one file of its wheel, which `recorded` says so or not."""
        source = Path((self.host.folder / "release").read_text())
        target = self.host.folder / "releases" / version
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        wheel = next(target.glob("*.whl"))
        changed = wheel.with_suffix(".new")
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
            for item in old.infolist():
                body = old.read(item)
                if item.filename == name:
                    text = (change or (lambda text: f"{text}\n# {version}\n"))(body.decode())
                    assert text != body.decode(), f"{name} was not changed"
                    body = text.encode()
                    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
                elif recorded and item.filename.endswith(".dist-info/RECORD"):  # the last one
                    body = re.sub(
                        rf"^{re.escape(name)},.*$", f"{name},sha256={digest},", body.decode(), flags=re.MULTILINE
                    ).encode()
                new.writestr(item, body)
        changed.rename(wheel)
        names = [wheel.name, "runtime.lock", "dagster.yaml"]
        sums = [f"{hashlib.sha256((target / file).read_bytes()).hexdigest()}  {file}\n" for file in names]
        (target / "SHA256SUMS").write_text("".join(sums))
        return target

    def deploy(self, release: Path) -> Any:
        return self.host.play("site.yml", "--tags", "release", "-e", f"wrm_release={release}")

    def current(self) -> str:
        return self.host.run("wrm-release", "current").strip()

    # Stages

    def install(self) -> None:
        """A fresh host becomes the running system."""
        host = self.host
        key = host.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "deploy-test", "-f", key], check=True)
        host.boot()
        releases = host.folder / "releases"
        built = subprocess.run(
            [REPOSITORY / "deploy/build-release", releases], check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        (host.folder / "release").write_text(built)
        play = host.play("site.yml", "-vvv", "-e", f"wrm_release={built}")
        self.check(
            "Fresh host to running system, one command, under 15 min",
            play.status == 0 and play.seconds < 900,
            f"{play.seconds:.0f} s",
        )
        if play.status:
            print(play.output[-6000:])
            raise SystemExit(1)

    def idempotence(self) -> None:
        """The same command again."""
        release = (self.host.folder / "release").read_text()
        play = self.host.play("site.yml", "-e", f"wrm_release={release}")
        self.check(
            "Second run changes nothing",
            play.status == 0 and play.changed == 0,
            f"changed={play.changed}, {play.seconds:.0f} s",
        )
        play = self.host.play("site.yml", "--check", "--diff", "-e", f"wrm_release={release}")
        self.check(
            "--check --diff works on the installed host",
            play.status == 0 and play.changed == 0,
            f"changed={play.changed}",
        )
        if play.status:
            print(play.output[-3000:])

    def web(self) -> None:
        """What listens, and who may look."""
        host = self.host
        lines = [line.split() for line in host.run("ss", "-ltnpH").splitlines() if "users:" in line]
        open_ones = [line[3] for line in lines if not line[3].startswith(("127.0.0.1:", "[::1]:"))]
        self.check("Everything listens on loopback", not open_ones, f"{len(lines)} sockets {open_ones or ''}")
        settings = host.run("cat", "/etc/nginx/sites-enabled/wrm.conf")
        self.check(
            "The UI, /metrics and the report need a login",
            {host.get(p, login="")[0] for p in ("/", "/look/", "/metrics", "/reports/x")} == {401}
            and host.get("/graphql", login="", body={})[0] == 401,
            "401",
        )
        status, headers, body = host.get("/")
        self.check("The UI with a login", status == 200 and b"Dagster" in body, status)
        wanted = (
            "Strict-Transport-Security",
            "Content-Security-Policy",
            "X-Content-Type-Options",
            "X-Frame-Options",
            "Referrer-Policy",
        )
        self.check(
            "Security headers", all(name in headers or name.lower() in headers for name in wanted), ", ".join(wanted)
        )
        status, headers, _ = host.get("/", login="", scheme="http")
        self.check(
            "http is sent to https",
            status == 301 and headers["Location"].startswith("https://"),
            headers.get("Location"),
        )
        answers = list(ThreadPoolExecutor(16).map(lambda _: host.get("/metrics", login="")[0], range(400)))
        self.check("Too many requests are refused", 429 in answers, f"{answers.count(429)} of 400 answers are 429")
        protocols = re.search(r"ssl_protocols (.*);", settings)
        self.check(
            "TLS 1.2 and 1.3 only",
            protocols is not None and protocols[1] == "TLSv1.2 TLSv1.3",
            protocols and protocols[1],
        )

    def rights(self) -> None:
        """Who may act, who may look, and which account of the host may open which socket."""
        host = self.host
        pause = {"query": "mutation { setAutoMaterializePaused(paused: false) }"}
        acts, looks = host.get("/graphql", body=pause), host.get("/look/graphql", login="guest", body=pause)
        self.check("Who may act can act", acts[0] == 200 and b"errors" not in acts[2], acts[0])
        self.check("Who may look cannot", b"errors" in looks[2], looks[2][:100])
        page, act = host.get("/look/runs", login="guest")[0], host.get("/", login="guest")[0]
        self.check("… sees pages, and those of the others not", (page, act) == (200, 401), f"{page}, {act}")
        foreign = [
            host.get("/graphql", body=pause, origin="https://evil.example")[0],
            host.get("/graphql?query=mutation%7BwipeAssets%7D")[0],
            host.get("/look/graphql", login="guest", body=pause, origin="https://evil.example")[0],
        ]
        self.check("No other site's page reaches GraphQL", set(foreign) == {403}, foreign)
        opens = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        slot = host.active_code_unit().partition("@")[2].removesuffix(".service")
        paths = ["/run/wrm-web/ui.sock", "/run/wrm-web/look.sock", f"/run/wrm-code-{slot}/grpc.sock"]
        can = {
            account: [
                host.run(
                    "sh",
                    "-c",
                    f"runuser -u {account} -- python3 -c '{opens}' {path} 2>/dev/null && echo yes",
                    check=False,
                )
                == "yes\n"
                for path in paths
            ]
            for account in ("nobody", "www-data", "wrm")
        }
        wanted = {"nobody": [False] * 3, "www-data": [True, True, False], "wrm": [False, False, True]}
        self.check("Sockets of UI, look and code server open to whom they should", can == wanted, can)
        healthy = host.get("/healthz", login="")[0]
        host.run("systemctl", "stop", *OUR_SOCKETS[:1], "dagster-webserver.service")
        login, dead = host.get("/", login="")[0], host.get("/healthz", login="")[0]
        host.run("systemctl", "start", *OUR_SOCKETS[:1], "dagster-webserver.service")
        self.check(
            "/healthz is bad while the web server is away",
            (healthy, login, dead) == (204, 401, 500),
            (healthy, login, dead),
        )

    def credentials(self) -> None:
        """Each unit sees the credentials that it uses, and no others."""
        host = self.host
        database, everything = {"postgres_password"}, {*host.credentials, "postgres_password", "redis_url"}
        store = {"s3_access_key_id", "s3_secret_access_key"}
        wanted = {
            host.active_code_unit(): everything,
            "wrm-exporter.service": database | store | {"redis_url"},
            "dagster-daemon.service": database,
            "dagster-webserver.service": database,
            "dagster-look.service": database,
        }
        if host.vault:
            wanted = {unit: {"vault_secret_id"} for unit in wanted}
        wait_until(lambda: host.get("/look/", login="guest")[0] == 200, 60)  # it starts by this
        found = {unit: set(host.run("ls", f"/run/credentials/{unit}", check=False).split()) for unit in wanted}
        kind = "with Vault" if host.vault else "without Vault"
        self.check(f"Each unit has its credentials, {kind}", found == wanted, {k: len(v) for k, v in found.items()})
        for unit in ("wrm-reports.service", "wrm-prune.service", "wrm-backup.service"):
            host.run("systemctl", "start", unit, check=False)
            result = host.property(unit, "Result")
            self.check(f"{unit} works with its own, {kind}", result == "success", result)
        limits = {unit: host.property(unit, "LimitCORE") for unit in (*wanted, "nginx.service")}
        self.check("No core dumps", set(limits.values()) == {"0"}, limits)

    def hostile(self) -> None:
        """Arguments of wrm-release that are no names, and files that do not belong to it."""
        host = self.host
        host.run("mkdir", "-p", "/opt/wrm/incoming/V")
        state = "find /opt/wrm /etc/wrm -xdev -not -path '*/site-packages/*' | sort | sha256sum"
        before = host.run("sh", "-c", state)
        words = [
            ".",
            "..",
            "V/..",
            "V/../..",
            "V/",
            "./V",
            "/opt/wrm/incoming/V",
            "../releases",
            "",
            "*",
            "-rf",
            "V\n",
            "~",
        ]
        statuses = {}
        script = 'cd /opt/wrm/incoming/V && exec wrm-release "$@"'
        for verb in ("install", "activate", "rollback"):
            for word in words:
                done = subprocess.run(
                    [REPOSITORY / "deploy/test/container", "run", host.root, "sh", "-c", script, "sh", verb, word],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                statuses[verb, word] = done.returncode
        self.check(
            "wrm-release takes names only, and removes nothing",
            0 not in statuses.values() and host.run("sh", "-c", state) == before,
            f"{len(statuses)} calls refused",
        )
        host.run("sh", "-c", "cd /opt/wrm/releases && touch stray.txt && ln -sfn /etc stray-link && mkdir -p .stray")
        host.run("sh", "-c", 'printf \'{"at": "20\' >>/var/lib/wrm-release/history.jsonl')
        said = host.run("wrm-release", "list")
        self.check(
            "It lists releases among stray files and a damaged history", "cannot be read" in said, self.current()
        )

    def data(self) -> None:
        """Snapshots arrive, are queryable, measured and shown."""
        host = self.host
        begin = time.time()
        before = len(self.snapshot_times())
        wait_until(lambda: len(self.snapshot_times()) >= before + 2, 150)
        self.check(
            "Snapshots arrive every minute",
            len(self.snapshot_times()) >= before + 2,
            f"{len(self.snapshot_times()) - before} in {time.time() - begin:.0f} s",
        )

        def queried() -> dict[str, Any]:
            findings = json.loads(host.run("/usr/local/sbin/wrm", "doctor", "--json", check=False))
            return next(finding for finding in findings if finding["name"] == "duckdb")

        wait_until(lambda: queried()["status"] == "ok", 120, every=3)
        found = queried()
        self.check("They can be queried", found["status"] == "ok", f"{found['tried']}: {found['got']}")
        text = host.get("/metrics")[2].decode()
        newest = re.search(r"^wrm_last_snapshot_timestamp_seconds (\S+)", text, re.MULTILINE)
        age = time.time() - float(newest[1]) if newest else float("inf")
        self.check("/metrics shows it", age < 180, f"newest snapshot is {age:.0f} s old")
        took = wait_until(lambda: host.get("/reports/bike_density_map.html")[0] == 200, 240, every=3)
        status, _, body = host.get("/reports/bike_density_map.html")
        self.check("The report is served", took is not None and b"<html" in body, f"{status}, {len(body)} bytes")
        targets = json.loads(
            urllib.request.urlopen(
                f"http://127.0.0.1:{host.world['ports']['prometheus']}/api/v1/targets", timeout=10
            ).read()
        )
        health = {t["labels"]["job"]: t["health"] for t in targets["data"]["activeTargets"]}
        self.check("Prometheus scrapes all", set(health.values()) == {"up"}, health)

    def hardening(self) -> None:
        """How far the units are shut in, and that they work so."""
        host = self.host
        units = [
            host.active_code_unit(),
            *OUR_UNITS,
            "dagster-look.service",
            "wrm-reports.service",
            "wrm-gate@x.service",
            "wrm-migrate@x.service",
        ]
        units += [
            line.split()[0]
            for line in host.run("systemctl", "list-unit-files", "--no-legend", "wrm-*.service").splitlines()
            if "@" not in line.split()[0]
        ]
        scores = {}
        for unit in dict.fromkeys(units):
            words = host.run("systemd-analyze", "security", "--no-pager", unit, check=False)
            found = re.search(r"Overall exposure level for \S+: ([\d.]+)", words)
            scores[unit] = float(found[1]) if found else 10.0
        self.check(
            f"systemd-analyze security <= {WORST_EXPOSURE} for each unit",
            max(scores.values()) <= WORST_EXPOSURE,
            scores,
        )
        files = host.run(
            "sh", "-c", "ls -d /etc/systemd/system/wrm* /etc/systemd/system/dagster-* | grep -v wants"
        ).split()
        files = [path.replace("@.", "@blue." if "code" in path else "@x.") for path in files]
        words = subprocess.run(
            [REPOSITORY / "deploy/test/container", "run", host.root, "systemd-analyze", "verify", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        ours = [line for line in (words.stdout + words.stderr).splitlines() if "wrm" in line or "dagster" in line]
        self.check(
            "systemd-analyze verify", words.returncode == 0 and not ours, "; ".join(ours) or f"{len(files)} units clean"
        )
        bits = host.run(
            "sh", "-c", f"grep SigIgn /proc/{host.property(host.active_code_unit(), 'MainPID')}/status"
        ).split()[1]
        self.check("The code server heeds SIGTERM", not int(bits, 16) & (1 << 14 | 1 << 1), f"SigIgn {bits}")
        spill = (
            "import duckdb; db = duckdb.connect(config={'memory_limit': '60MB', 'threads': 1, "
            "'temp_directory': '/var/lib/wrm/data/spill-test'}); "
            "db.execute('SET preserve_insertion_order = false'); "
            "db.execute('CREATE TABLE t AS SELECT range AS a, hash(range)::VARCHAR AS b FROM range(3000000)'); "
            "print(db.execute('SELECT count(*) FROM (SELECT * FROM t ORDER BY b)').fetchone()[0]); "
            "from wrm_pipeline.analytics.database import httpfs_path; "
            "db.execute(f\"LOAD '{httpfs_path()}'\"); print('httpfs')"
        )
        text = host.run("cat", "/etc/systemd/system/wrm-reports.service")
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("ExecStart", "MemoryMax")))
        spec = f'{text}\nExecStart=/opt/wrm/current/venv/bin/python -c "{spill.replace(chr(34), chr(92) + chr(34))}"\n'
        target = host.root / "run-spill-test.service"
        target.write_text(spec)
        host.run("mv", "/run-spill-test.service", "/run/systemd/system/wrm-spill-test.service")
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", "wrm-spill-test.service", check=False)
        output = host.run("journalctl", "-u", "wrm-spill-test", "-o", "cat", "--no-pager")
        self.check(
            "DuckDB spills and loads httpfs in that sandbox",
            "3000000" in output and "httpfs" in output,
            output.splitlines()[-4:] if "httpfs" not in output else "3,000,000 rows sorted in 60 MB",
        )
        host.run("rm", "-rf", "/run/systemd/system/wrm-spill-test.service", "/var/lib/wrm/data/spill-test")
        host.run("systemctl", "daemon-reload")

    def secrets(self) -> None:
        """No secret where it can be read by who should not."""
        host = self.host
        words = "\n".join(host.world["secrets"].values())
        (host.root / "var/lib/canaries").write_text(words)
        (host.root / "var/lib/canaries").chmod(0o600)

        def leaks(text: str) -> list[str]:
            return [name for name, value in host.world["secrets"].items() if value in text]

        output = (host.folder / "ansible.log").read_text()
        self.check(
            "No secret in the playbook's output with -vvv",
            not leaks(output),
            leaks(output) or f"{len(output.splitlines())} lines",
        )
        shown = host.run("systemctl", "show", "*")
        self.check("No secret in systemctl show", not leaks(shown), leaks(shown) or f"{len(shown.splitlines())} lines")
        found = host.run(
            "sh", "-c", "journalctl --no-pager -o export | grep -a -c -F -f /var/lib/canaries", check=False
        ).strip()
        lines = int(host.run("sh", "-c", "journalctl --no-pager -o export | wc -l"))
        self.check("No secret in the journal", found == "0" and lines > 1000, f"{found} of {lines} lines")
        search = (
            "find / -xdev \\( -path /proc -o -path /sys -o -path /opt/wrm/releases \\) -prune -o "
            "-type f -perm -o=r -print0 | xargs -0 grep -l -a -F -f /var/lib/canaries 2>/dev/null"
        )
        found = host.run("sh", "-c", search, check=False).strip()
        self.check("No secret in a file that all may read", not found, found or "none")
        found = host.run(
            "sh",
            "-c",
            "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -v canaries | grep -c -F -f /var/lib/canaries",
            check=False,
        ).strip()
        self.check("No secret in a command line", found == "0", f"{found}")
        snapshot = json.dumps(
            host.graphql(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name "
                "allTopLevelResourceDetails { name configuredValues { key value } } } } } }"
            )
        )
        self.check("No secret in the UI's resources", not leaks(snapshot), leaks(snapshot) or "none")
        host.run("rm", "/var/lib/canaries")

    def good_release(self) -> None:
        """A release in the middle of runs and ingest."""
        host = self.host
        begin = time.time()
        release = self.spoil("9.0.0-next")
        self.process(6, 120)
        wait_until(lambda: any(r["status"] == "STARTED" for r in self.processing_runs(begin)), 120)
        with Outage(lambda: host.get("/")[0] == 200) as ui, self.busy():
            play = self.deploy(release)
        self.check(
            "A release while runs go on",
            play.status == 0 and self.current() == "9.0.0-next",
            f"{play.seconds:.0f} s, runs {self.current()}",
        )
        if play.status:
            print(play.output[-3000:])
        switched = float(host.run("stat", "-c", "%Y", "/opt/wrm/active").strip())
        self.check("Time without a UI <= 30 s", ui.longest_s <= 30, f"{ui.longest_s:.1f} s")
        self.runs_end_well(begin, switched)
        took = wait_until(lambda: self.code_servers() == 1, 300)
        self.check(
            "The old code server ends when its runs have", took is not None, f"{self.code_servers()} code server"
        )
        self.check_minutes(begin)

    def code_servers(self) -> int:
        states = [self.host.property(f"dagster-code@{slot}.service", "ActiveState") for slot in ("blue", "green")]
        return sum(state not in {"inactive", "failed"} for state in states)

    def process(self, days: int, each: int) -> None:
        """New raw snapshots of some past days, and a processing run for each of these."""
        for day in self.seed(days, each):
            self.host.process(day)

    def processing_runs(self, begin: float) -> list[dict[str, Any]]:
        return [r for r in self.host.runs(begin) if r["jobName"] == "wrm_stations_processing_job"]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Meanwhile, there is always a processing run, and never a long queue of them."""
        begin, ended = time.time(), threading.Event()

        def work() -> None:
            while not ended.wait(1):
                with suppress(OSError, ValueError, RuntimeError):  # the UI is away for some seconds
                    if sum(not has_ended(run) for run in self.processing_runs(begin)) < 3:
                        self.process(2, 60)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def runs_end_well(self, begin: float, switched: float | None = None) -> None:
        host = self.host

        def all_ended() -> bool:
            runs = self.processing_runs(begin)
            return bool(runs) and all(map(has_ended, runs))

        def failed_for_good() -> list[str]:
            runs = host.runs(begin)
            retried = {tag["value"] for r in runs for tag in r["tags"] if tag["key"] == "dagster/parent_run_id"}
            return [
                f"{r['jobName']} {r['runId'][:8]}: {host.why_failed(r['runId'])}"
                for r in runs
                if r["status"] in {"FAILURE", "CANCELED"} and r["runId"] not in retried
            ]

        wait_until(all_ended, 400, every=3)
        # Between the end of a run that was killed and its repetition are some seconds.
        wait_until(lambda: not failed_for_good() and all_ended(), 120, every=3)
        runs, failed = host.runs(begin), failed_for_good()
        retried = {tag["value"] for r in runs for tag in r["tags"] if tag["key"] == "dagster/parent_run_id"}
        if switched is None:
            self.check(
                "Runs end SUCCESS, those that were killed by their repetition",
                not failed,
                f"{len(runs)} runs, {len(retried)} repeated {failed or ''}",
            )
            return
        launched = host.launch_times(begin)
        across = [r for r in runs if launched.get(r["runId"], 1e12) < switched < (r["endTime"] or 0)]
        jobs = ", ".join(sorted(r["jobName"] for r in across))
        self.check(
            "Processing runs across the switch end SUCCESS",
            "processing" in jobs and all(r["status"] == "SUCCESS" for r in across),
            f"{len(across)} across it ({jobs})",
        )
        self.check("No run failed", not failed, f"{len(runs)} runs {failed or ''}")

    def bad_releases(self) -> None:
        """Releases that must not stay."""
        before = self.current()
        begin = time.time()
        fail = "\ndef _fail(*_: object) -> None:\n    raise RuntimeError('no such column: of_the_test')\n\n"
        module = "dagster_postgres.run_storage.run_storage"
        patch = f"{fail}import {module} as _storage\n_storage.PostgresRunStorage.upgrade = _fail\n"
        cases: list[tuple[str, str, str, Callable[[str], str], str]] = [
            (
                "an import error",
                "9.1.0-import",
                "wrm_pipeline/definitions.py",
                lambda t: f"{t}\nimport of_the_test\n",
                "No module named 'of_the_test'",
            ),
            (
                "a failing migration",
                "9.2.0-migration",
                "wrm_pipeline/resources/dagster_storage.py",
                lambda t: t + patch,
                "no such column: of_the_test",
            ),
        ]
        for name, version, file, change, reason in cases:
            play = self.deploy(self.spoil(version, file, change))
            printed = reason in play.output
            self.check(
                f"A release with {name} is refused, the old one goes on",
                play.status != 0 and self.current() == before and self.all_active(),
                f"{play.seconds:.0f} s",
            )
            self.check("The reason is printed", printed, reason if printed else play.output[-1500:])
        play = self.deploy(self.spoil("9.2.5-altered", recorded=False))
        printed = "wrm_pipeline/__init__.py is not as its wheel recorded it" in play.output
        self.check(
            "A release whose files are not those of its record is refused",
            play.status != 0 and self.current() == before and printed,
            "named" if printed else play.output[-1500:],
        )
        self.check_minutes(begin)
        quiet = self.spoil(
            "9.3.0-quiet",
            "wrm_pipeline/schedules/ingest.py",
            lambda t: t.replace("DefaultScheduleStatus.RUNNING", "DefaultScheduleStatus.STOPPED"),
        )
        play = self.deploy(quiet)
        printed = "no snapshot was taken" in play.output
        self.check(
            "A release that starts but does not ingest is rolled back",
            play.status != 0 and self.current() == before and self.all_active(),
            f"{play.seconds:.0f} s",
        )
        self.check("The reason is printed", printed, "no snapshot was taken" if printed else play.output[-1500:])
        back = time.time()
        wait_until(lambda: any(at.timestamp() > back for at in self.snapshot_times()), 120)
        self.check(
            "The old one ingests again",
            any(at.timestamp() > back for at in self.snapshot_times()),
            f"{self.snapshot_times()[-1].timestamp() - back:.0f} s after the playbook",
        )

    def all_active(self) -> bool:
        return all(
            self.host.property(unit, "ActiveState") == "active" for unit in (self.host.active_code_unit(), *OUR_UNITS)
        )

    def by_hand(self) -> None:
        """rollback.yml."""
        begin = time.time()
        before = self.current()
        play = self.host.play("rollback.yml")
        self.check(
            "rollback.yml goes back to the release before",
            play.status == 0 and self.current() != before,
            f"{before} -> {self.current()}, {play.seconds:.0f} s",
        )
        if play.status:
            print(play.output[-3000:])
        kept = self.host.run("sh", "-c", "ls -A /opt/wrm/releases").split()
        strays = {name for name in kept if "stray" in name}
        kept = [name for name in kept if name not in strays]
        self.check("Stray files among releases stay", len(strays) in {0, 3}, strays)
        self.check(
            "Old releases are kept, refused ones are not",
            len(kept) <= 3 and not any("9.1" in k or "9.2" in k or "9.3" in k for k in kept),
            kept,
        )
        self.check_minutes(begin)

    def backups(self) -> None:
        """What the timers start, started now."""
        host = self.host
        for unit in ("wrm-backup.service", "wrm-prune.service"):
            host.run("systemctl", "start", unit, check=False)
            result = host.property(unit, "Result")
            said = host.run("journalctl", "-u", unit, "-o", "cat", "-n", "5", "--no-pager").strip().splitlines()
            self.check(f"{unit} does its work", result == "success", f"{result}: {' | '.join(said)[-300:]}")
            timer = unit.replace(".service", ".timer")
            self.check(f"{timer} waits", host.property(timer, "ActiveState") == "active", "active")

    def host_findings(self) -> list[dict[str, Any]]:
        """What `wrm doctor --production` finds wrong."""
        found = json.loads(self.host.run("/usr/local/sbin/wrm", "doctor", "--production", "--json", check=False))
        return [finding for finding in found if finding["status"] != "ok"]

    def planted_faults(self) -> None:
        """Nothing is found on a good host, and each planted fault with its remedy."""
        host = self.host
        # What the stage `hostile` left for the next releases to meet.
        host.run("sh", "-c", "cd /opt/wrm && rm -rf releases/stray.txt releases/stray-link releases/.stray incoming/V")
        for unit in ("wrm-backup.service", "wrm-restore-test.service"):
            host.run("systemctl", "start", unit)
        host.run("systemctl", "restart", "wrm-exporter.service")  # else it looks for backups every 5 minutes only
        wait_until(lambda: not self.host_findings(), 90, every=5)
        wrong = [f"{finding['name']}: {finding['got']}" for finding in self.host_findings()]
        self.check("wrm doctor --production has no finding on a good host", not wrong, wrong or "none")
        missed = []
        for fault in FAULTS:
            host.run("sh", "-c", fault.plant)
            try:
                findings = self.host_findings()
            finally:
                host.run("sh", "-c", fault.undo)
            if not any(fault.value in found["got"] and fault.remedy in found["todo"] for found in findings):
                missed.append(f"{fault.name}: {[found['got'] for found in findings]}")
        self.check(
            "It finds each planted fault and names the remedy",
            not missed,
            missed or f"{len(FAULTS)} faults: {', '.join(fault.name for fault in FAULTS)}",
        )
        host.run("rm", "/var/lib/wrm/data/restore-tried.json")
        kept = {
            name: self.s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}{name}")["Body"].read()
            for name in self.names("backups/")
        }
        self.remove_from_bucket(lambda name: name in kept)
        old = f"{PREFIX}backups/wrm-backup_{datetime.now(UTC) - timedelta(hours=40):%Y-%m-%d_%H-%M-%S}.sealed"
        self.s3.put_object(Bucket=BUCKET, Key=old, Body=b"old")
        host.run("systemctl", "restart", "wrm-exporter.service")

        def found() -> set[str]:
            return {finding["got"] for finding in self.host_findings() if finding["name"] == "backup"}

        wanted = {"the newest backup is 40 hours old", "it was last tried never whether a backup can be restored"}
        wait_until(lambda: found() == wanted, 90, every=5)
        self.check("… and an old backup that nobody tried", found() == wanted, found())
        self.s3.delete_object(Bucket=BUCKET, Key=old)
        for name, body in kept.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}{name}", Body=body)

    def kills(self) -> None:
        """SIGKILL to the main process of each unit, one after another, while it works."""
        host = self.host
        begin = time.time()
        self.process(4, 60)
        wait_until(lambda: any(r["status"] == "STARTED" for r in host.runs(begin)), 120)
        code = host.active_code_unit()
        self.priorities()
        works: dict[str, Callable[[], bool]] = {
            code: lambda: "repositoriesOrError" in host.graphql("{ repositoriesOrError { __typename } }"),
            "dagster-daemon.service": lambda: True,
            "dagster-webserver.service": lambda: host.get("/")[0] == 200,
            "wrm-exporter.service": lambda: host.get("/metrics")[0] == 200,
            "nginx.service": lambda: host.get("/")[0] == 200,
        }
        with self.busy():
            for unit, condition in works.items():
                pid = host.property(unit, "MainPID")
                host.run("kill", "-KILL", pid)

                def is_back(unit: str = unit, pid: str = pid, condition: Callable[[], bool] = condition) -> bool:
                    state = host.run("systemctl", "show", "--value", "-p", "MainPID", "-p", "ActiveState", unit)
                    new, active = state.split()
                    return new not in {"0", pid} and active == "active" and condition()

                took = wait_until(is_back, 120, every=0.2)
                load = os.getloadavg()[0]
                self.check(
                    f"{unit} is back within 15 s of kill -9",
                    took is not None and took <= 15,
                    f"{took or -1:.1f} s (load {load:.0f})",
                )
                time.sleep(5)
        self.runs_end_well(begin)

        def stuck() -> list[str]:
            since = time.time() - 120
            runs = [r for r in host.runs(begin) if r["status"] in IN_PROGRESS]
            return [r["runId"][:8] for r in runs if (r["startTime"] or r["creationTime"]) < since]

        wait_until(lambda: not stuck(), 240, every=3)
        self.check("No run is stuck afterwards", not stuck(), stuck() or "none")
        self.check_minutes(begin)

    def priorities(self) -> None:
        """Runs, whose code server is ahead of them, have the ordinary priority."""
        host = self.host
        services = {host.property(unit, "MainPID"): unit for unit in (host.active_code_unit(), *OUR_UNITS)}
        niceness: dict[str, list[str]] = {}
        for line in host.run("ps", "-u", "wrm", "-o", "ni=,pid=,args=").splitlines():
            nice, pid, arguments = line.split(maxsplit=2)
            if pid in services or "warm_parent" in arguments:
                niceness.setdefault(nice, []).append(services.get(pid, "run"))
        wanted = {"-5": sorted(services.values()), "0": ["run"]}
        found = {nice: sorted(set(names)) for nice, names in niceness.items()}
        self.check("Services are ahead of runs", found == wanted, f"niceness {found}")

    def reboot(self) -> None:
        """The host restarts."""
        host = self.host
        since = datetime.now(UTC)
        host.run("systemctl", "reboot", check=False)
        begin = time.monotonic()
        time.sleep(3)
        took = wait_until(lambda: host.run("systemctl", "is-system-running").strip() in {"running", "degraded"}, 300)
        units = [
            host.active_code_unit(),
            *OUR_UNITS,
            *OUR_SOCKETS,
            "wrm.target",
            "wrm-reports.timer",
            "nginx.service",
            "redis-server.service",
            f"postgresql@{host.postgresql_version()}-main.service",
            "prometheus.service",
            "prometheus-alertmanager.service",
            "prometheus-node-exporter.service",
        ]
        wait_until(lambda: all(host.property(unit, "ActiveState") == "active" for unit in units), 120)
        down = [unit for unit in units if host.property(unit, "ActiveState") != "active"]
        failed = host.run("systemctl", "--failed", "--no-legend", "--plain", check=False).split()
        self.check(
            "All units are active after a reboot",
            took is not None and not down and not failed,
            f"{len(units)} units in {time.monotonic() - begin:.0f} s {down or ''} {failed or ''}",
        )
        up = wait_until(lambda: any(at > since + timedelta(seconds=5) for at in self.snapshot_times()), 180)
        self.check(
            "Snapshots arrive after it", up is not None, f"{time.monotonic() - begin:.0f} s after the order to reboot"
        )

    def second_host(self) -> None:
        """The machine is lost, and of the bucket everything that is made from something else."""
        first, begin = self.host, time.time()
        self.process(3, 60)
        self.runs_end_well(begin)
        first.run("systemctl", "stop", "wrm.target")
        wait_until(lambda: self.code_servers() == 0, 600)
        first.run("/usr/local/sbin/wrm", "rebuild", "--apply")  # what sensors would have done in the next minutes
        first.run("systemctl", "start", "wrm-backup.service")
        snapshots, run_ids = self.snapshot_times(), self.run_ids
        rows, tables = self.partition_rows(), self.table_rows()
        first.container("remove")  # the second host listens on the same ports
        self.remove_from_bucket(lambda name: not name.startswith(("raw/", "dlq/", "backups/")))

        second = self.host = Host(first.folder, first.world, "vps2", vault=False)
        second.boot()
        release = (first.folder / "release").read_text()
        play = second.play("site.yml", "-e", f"wrm_release={release}")
        self.check("A second bare host is set up, without Vault", play.status == 0, f"{play.seconds:.0f} s")
        if play.status:
            print(play.output[-3000:])
        play = second.play("restore.yml", "-e", "restore_onto=vps")
        self.check("restore.yml", play.status == 0, f"{play.seconds:.0f} s")
        if play.status:
            print(play.output[-3000:])
        wait_until(lambda: run_ids <= {run["runId"] for run in second.runs(0)}, 60)
        known = {run["runId"] for run in second.runs(0)}
        self.check("It knows the first one's runs", run_ids <= known, f"{len(run_ids & known)} of {len(run_ids)}")
        self.credentials()  # it takes a backup, so not before the other one is back

        second.run("systemctl", "stop", "wrm.target")
        wait_until(lambda: self.code_servers() == 0, 600)
        # What the second host fetched itself is not to be compared.
        newest = f"wrm_stations_{snapshots[-1]:%Y-%m-%d_%H-%M-%S}.txt"
        kept = ("raw/", "dlq/", "backups/")
        self.remove_from_bucket(
            lambda name: not name.startswith(kept) or (name.startswith("raw/") and name.rpartition("/")[2] > newest)
        )
        second.run("sh", "-c", "rm -f /var/lib/wrm/data/*.duckdb*")
        begin = time.monotonic()
        second.run("/usr/local/sbin/wrm", "rebuild", "--apply")
        took = time.monotonic() - begin
        self.check_identical(
            f"wrm rebuild from raw/ and dlq/ ({took:.0f} s): identical rows in every partition",
            rows,
            self.partition_rows(),
        )
        self.check_identical("… and identical tables", tables, self.table_rows())

    def check_identical(
        self, point: str, before: dict[str, tuple[int, str]], after: dict[str, tuple[int, str]]
    ) -> None:
        """The same names, each with the same number of rows and the same digest."""
        wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        count = sum(number for number, _ in before.values())
        self.check(point, not wrong and len(before) > 4, f"{len(before)} of them, {count:,} rows {wrong or ''}")

    @property
    def run_ids(self) -> set[str]:
        """The newest runs of the ingest, as PostgreSQL has them; the UI need not be up."""
        query = "SELECT run_id FROM runs WHERE status = 'SUCCESS' ORDER BY id DESC LIMIT 200"
        command = ["runuser", "-u", "postgres", "--", "psql", "-p", str(self.host.world["ports"]["postgres"])]
        return set(self.host.run(*command, "-At", "-c", query, "wrm").split())

    def remove_from_bucket(self, condition: Callable[[str], bool]) -> None:
        """Objects whose key, without the prefix, fulfils it."""
        for name in self.names():
            if condition(name):
                self.s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}{name}")

    def partition_rows(self) -> dict[str, tuple[int, str]]:
        """Rows of each partition, and a digest of them without the time of the build."""
        found = {}
        for key in [*self.names("processed/"), *self.names("enhanced/")]:
            body = self.s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}{key}")["Body"].read()
            table = pq.read_table(io.BytesIO(body))
            digest = hashlib.sha256()
            for name in table.column_names:
                if name not in OF_THE_BUILD:
                    digest.update(json.dumps([name, [str(v) for v in table[name].to_pylist()]]).encode())
            found[key] = (table.num_rows, digest.hexdigest())
        return found

    def table_rows(self) -> dict[str, tuple[int, str]]:
        """Rows of each table of the host's database, and a digest of them without the columns about their refresh."""
        path = next((self.host.root / "var/lib/wrm/data").glob("*.duckdb"))
        copy = self.host.folder / "compared.duckdb"
        shutil.copy(path, copy)
        found = {}
        with duckdb.connect(str(copy), read_only=True) as db:
            columns: dict[str, list[str]] = {}
            for table, column in db.execute(
                "SELECT c.schema_name || '.' || c.table_name, column_name "
                "FROM duckdb_columns() c JOIN duckdb_tables() t USING (table_oid) WHERE NOT c.internal ORDER BY ALL"
            ).fetchall():
                columns.setdefault(table, []).append(column)
            for table, names in columns.items():
                listed = ", ".join(f'"{name}"' for name in names if name not in OF_THE_BUILD)
                # The profile and the catalog have a row for each column.
                where = f"WHERE column_name NOT IN {OF_THE_BUILD}" if "column_name" in names else ""
                rows = db.execute(f"SELECT {listed} FROM {table} {where} ORDER BY ALL").fetchall()
                found[table] = (len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())
        return found


STAGES = (
    "install",
    "idempotence",
    "data",
    "rights",
    "web",  # after it, too many requests have been made for a while
    "hardening",
    "good_release",
    "bad_releases",
    "hostile",
    "by_hand",
    "credentials",
    "backups",
    "planted_faults",
    "kills",
    "reboot",
    "secrets",
    "second_host",
)


def has_ended(run: Mapping[str, Any]) -> bool:
    return run["status"] not in {"QUEUED", "NOT_STARTED", *IN_PROGRESS}


@contextmanager
def world(folder: Path, *, attach: bool) -> Iterator[dict[str, Any]]:
    """The servers that the host talks to."""
    if attach:
        yield json.loads((folder / "world/world.json").read_text())
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.test.world", folder / "world"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("deploy-test: the feed, the store or the Vault of the test did not start; see above")
        yield json.loads((folder / "world/world.json").read_text())
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def why_not() -> str:
    """What is missing here for a container, or nothing."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    missing = [
        name for name in ("systemd-nspawn", "debootstrap", "nsenter", "ssh-keygen") if shutil.which(name) is None
    ]
    if missing:
        return f"{', '.join(missing)} not found (Debian: apt-get install systemd-container debootstrap openssh-client)"
    if not (TOOLS / "ansible-playbook").exists():
        return f"{TOOLS} is missing: make deploy-setup"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where everything is put (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave container and folder, and wait for Enter at the end")
    parser.add_argument("--attach", action="store_true", help="use the host of another call, and leave it")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    options = parser.parse_args()
    if reason := why_not():
        print(f"SKIPPED: {reason}")
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="wrm-deploy-test-", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    suite = os.environ.get("DEPLOY_SUITE", "bookworm")
    print(f"Debian {suite}, ansible from {ANSIBLE}, everything in {folder}", flush=True)
    with world(folder, attach=options.attach) as what:
        host = Host(folder, what)
        acceptance = Acceptance(host)
        try:
            for stage in options.only:
                acceptance.stage = stage
                try:
                    getattr(acceptance, stage)()
                except (RuntimeError, OSError, subprocess.SubprocessError, KeyError, ValueError, duckdb.Error) as error:
                    acceptance.check(f"{stage} came to its end", holds=False, measured=repr(error)[:500])
            if options.keep:
                input("Enter removes the container. ")
        finally:
            if not options.attach:
                acceptance.host.container("remove")
            print(
                tabulate(
                    acceptance.rows,
                    headers=["stage", "what must hold", "", "measured"],
                    maxcolwidths=[None, 60, None, 70],
                )
            )
            bad = sum(row[2] != "ok" for row in acceptance.rows)
            print(f"\n{len(acceptance.rows) - bad} hold, {bad} do not; {time.monotonic() - begin:.0f} s")
            if not options.keep and options.folder is None and not bad:
                shutil.rmtree(folder)
            elif bad:
                print(f"Ansible's output is in {folder}/ansible.log")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
