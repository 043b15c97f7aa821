"""`make container-test`: the containers of deploy/container tried for real, with podman; prints a table.

    python -m deploy.test.containers [--keep]

Needs root, podman with netavark, aardvark-dns and an OCI runtime, podman-compose, debootstrap. No registry of images is
asked: the base and the servers are Debian's packages. Images stay, so that the next call builds only what has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tabulate import tabulate

from deploy.test.host import REPOSITORY, TOOLS, wait_until
from wrm_pipeline_tests.integration.conftest import free_ports

CONTAINER = REPOSITORY / "deploy/container"
PROJECT = "wrm-container-test"
DEBIAN, PYTHON = "localhost/wrm-test-debian", "localhost/wrm-test-python"
SERVERS = ("postgres", "redis", "prometheus")
OURS = ("daemon", "web", "exporter")
# What Debian's image of Python has not got, and a result of ours must not have.
COMPILERS = ("gcc", "cc", "g++", "make", "ld")

# The simulated feed, as one more service; the rest is compose.yaml as it is shipped.
TEST_COMPOSE = """
services:
  feed:
    image: ${FEED_IMAGE}
    command: python3 -m wrm_pipeline.simulator --host 0.0.0.0 --port 8010
    init: true
"""
SETTINGS = "WRM_STATIONS_DATA_URL=http://feed:8010/bikesapi/load.php?scheme=wroclaw\nWRM_PRIVATE_HOSTS=feed\n"


def run(*command: str | Path, check: bool = True, **options: Any) -> str:
    """Output of the command, stderr included.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}: {done.stdout[-3000:]}")
    return done.stdout.strip()


class Containers:
    """A folder as an operator would have it, a project in it, and what was found out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[tuple[str, str, str]]()
        self.home = folder / "container"
        self.canaries = {name: f"canary-{name}-{secrets.token_hex(12)}" for name in ("postgres", "redis", "pip")}
        ports = free_ports(3)
        self.web, self.exporter, self.prometheus = (f"http://127.0.0.1:{port}" for port in ports)
        self.environment = {
            **os.environ,
            **podman_settings(folder),
            "ENGINE": "podman",
            "COMPOSE": os.environ.get("COMPOSE", str(TOOLS / "podman-compose")),
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": "compose.yaml:compose.test.yaml",
            **dict(zip(("WRM_WEB_PORT", "WRM_EXPORTER_PORT", "WRM_PROMETHEUS_PORT"), map(str, ports), strict=True)),
            **{f"{name.upper()}_IMAGE": f"localhost/wrm-test-{name}" for name in SERVERS},
            "BASE": PYTHON,
            "BUILD_OPTIONS": "--network host",
            "PIP_CONF": str(folder / "pip.conf"),
            "RELEASES": str(folder / "releases"),
        }

    def check(self, point: str, holds: bool, measured: object = "") -> None:
        word = "ok" if holds else "FAILED"
        self.rows.append((point, word, str(measured)))
        print(f"{datetime.now():%H:%M:%S} {word:<7} {point}: {measured}", flush=True)

    def run(self, *command: str | Path, check: bool = True) -> str:
        return run(*command, check=check, env=self.environment, cwd=self.home if self.home.exists() else None)

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.run(*self.environment["COMPOSE"].split(), *arguments, check=check)

    def release(self, image: str) -> str:
        return self.run("./release", image)

    def inspect(self, service: str, template: str) -> str:
        return self.run("podman", "inspect", "--format", template, f"{PROJECT}_{service}_1", check=False)

    @property
    def volume(self) -> Path:
        return Path(self.run("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", f"{PROJECT}_wrm"))

    # What is set up

    def prepare(self) -> None:
        """The folder: compose files, settings, secrets that can be found wherever they go."""
        shutil.copytree(CONTAINER, self.home)
        shutil.copytree(REPOSITORY / "deploy/monitoring", self.folder / "monitoring")
        (self.home / "compose.test.yaml").write_text(TEST_COMPOSE)
        (self.home / "settings.env").write_text(SETTINGS)
        store = self.home / "secrets"
        store.mkdir(mode=0o700)
        redis = self.canaries["redis"]
        values = {
            "postgres_password": self.canaries["postgres"],
            "redis_password": redis,
            "redis_url": f"redis://:{redis}@redis:6379/0",
        }
        for name, value in values.items():
            (store / name).write_text(value)
            (store / name).chmod(0o444)
        pip = Path("/etc/pip.conf")
        text = pip.read_text() if pip.exists() else "[global]\n"
        (self.folder / "pip.conf").write_text(f"# {self.canaries['pip']}\n{text}")

    def build_servers(self) -> None:
        """The base and the servers, if they are not there from the last time."""
        # By its exit status: on a new machine the first command warns, and a warning is output, too.
        if subprocess.run(["podman", "image", "exists", DEBIAN], env=self.environment, check=False).returncode:
            archive = self.folder / "debian.tar"
            run(REPOSITORY / "deploy/test/container", "archive", archive)
            self.run("podman", "import", "--quiet", archive, DEBIAN)
            archive.unlink()
        for target in ("python", *SERVERS):
            options = ("--quiet", "--network", "host", "--build-arg", f"DEBIAN={DEBIAN}", "--target", target)
            images = REPOSITORY / "deploy/test/images"
            self.run("podman", "build", *options, "--tag", f"localhost/wrm-test-{target}", images)

    def build(self, version: str) -> str:
        begin = time.monotonic()
        image = self.run(CONTAINER / "build", version).splitlines()[-1]
        size = int(self.run("podman", "image", "inspect", "--format", "{{.Size}}", image))
        self.check(f"Image {version} is built", True, f"{time.monotonic() - begin:.0f} s, {size / 1e6:.0f} MB")
        return image

    # What is checked

    def check_image(self, image: str) -> None:
        inside = ("podman", "run", "--rm", "--network", "none", "--read-only", image)
        user = self.run(*inside, "id", "-u")
        self.check("It is not root", user == "10001", f"uid {user}")
        found = self.run(
            *inside, "sh", "-c", f"for name in {' '.join(COMPILERS)}; do command -v $name; done", check=False
        )
        self.check("There is no compiler in it", not found, found)
        labels = json.loads(self.run("podman", "image", "inspect", "--format", "{{json .Labels}}", image))
        wanted = {f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "licenses")}
        self.check(
            "Labels name version and commit", wanted <= set(labels), labels.get(f"{min(wanted)[:-8]}revision", "")
        )

    def snapshot_times(self) -> list[datetime]:
        names = [path.stem.removeprefix("wrm_stations_") for path in self.volume.glob("data/**/raw/**/*.txt")]
        return sorted(datetime.strptime(name, "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC) for name in names)

    def check_minutes(self, since: datetime, until: datetime | None = None) -> None:
        """Each full minute from then until now has its snapshot; what is fetched late in a minute is waited for."""
        first = since.replace(second=0, microsecond=0) + timedelta(minutes=1)
        last = (until or datetime.now(UTC)).replace(second=0, microsecond=0)
        wanted = {first + timedelta(minutes=n) for n in range(int((last - first) / timedelta(minutes=1)) + 1)}

        def missing() -> set[datetime]:
            return wanted - {at.replace(second=0) for at in self.snapshot_times()}

        wait_until(lambda: not missing(), 60)
        names = ", ".join(f"{at:%H:%M}" for at in sorted(missing()))
        self.check("No snapshot minute is missing", not names, names or f"{len(wanted)} minutes")

    def check_published(self) -> None:
        def rows() -> int:
            files = self.volume.glob("data/**/processed/**/*.parquet")
            return sum(pq.read_metadata(path).num_rows for path in files)

        took = wait_until(lambda: rows() > 0, 120)
        self.check("What the feed said is published", took is not None, f"{rows()} rows, {took or 0:.0f} s later")

    def check_services(self) -> None:
        for service, check in (("code-blue", "code"), *((name, name) for name in OURS)):
            took = wait_until(lambda: not self.health(service, check), 60)  # noqa: B023 - used at once
            self.check(f"{service} is healthy", took is not None, self.health(service, check)[-200:])
            self.check(
                f"{service}'s root cannot be written",
                self.inspect(service, "{{.HostConfig.ReadonlyRootfs}}") == "true"
                and "Read-only" in self.compose("exec", "-T", service, "touch", "/opt/wrm/x", check=False),
            )
        addresses = {
            binding["HostIp"]
            for name in self.services()
            for bindings in (json.loads(self.inspect(name, "{{json .HostConfig.PortBindings}}")) or {}).values()
            for binding in bindings or []
        }
        self.check("Ports are on loopback only", addresses == {"127.0.0.1"}, ", ".join(sorted(addresses)))
        metrics = get(f"{self.exporter}/metrics")
        down = [line for line in metrics.splitlines() if line.startswith("exporter_up{") and not line.endswith(" 1.0")]
        self.check("The exporter reads all its sources", "exporter_up{" in metrics and not down, " ".join(down))
        page = get(f"{self.web}/server_info")
        self.check("The web server answers", "dagster_version" in page, page)

    def check_prometheus(self) -> None:
        self.compose("--profile", "monitoring", "up", "-d", "--no-deps", "prometheus")

        def is_up() -> bool:
            targets = json.loads(get(f"{self.prometheus}/api/v1/targets"))["data"]["activeTargets"]
            return [target["health"] for target in targets] == ["up"]

        took = wait_until(is_up, 60)
        self.check("Prometheus scrapes the exporter", took is not None, f"{took or 0:.0f} s")

    def check_doctor(self) -> None:
        # Podman-compose wants the profile named; Docker takes it from the service's name.
        text = self.compose("--profile", "tools", "run", "--rm", "wrm", "doctor", check=False)
        states = [line.split(" ")[0] for line in text.splitlines() if re.match(r"(ok|warning|failed) ", line)]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        self.check("compose run --rm wrm doctor", len(states) > 10 and "failed" not in states, counts)

    def check_kill(self, service: str, check: str) -> None:
        """Its main process is killed, as when memory is short; between two ticks, as a restart takes 15 s."""
        wait_until(lambda: 10 <= datetime.now().second <= 25, 61)
        begin = datetime.now(UTC)
        before = self.inspect(service, "{{.State.Pid}}")
        os.kill(int(before), signal.SIGKILL)
        again = wait_until(lambda: self.inspect(service, "{{.State.Pid}}") not in {before, "0", ""}, 60, every=0.2)
        took = wait_until(lambda: not self.health(service, check), 120)
        self.check(
            f"{service} is killed, and back by itself",
            again is not None and took is not None,
            f"healthy after {(datetime.now(UTC) - begin).total_seconds():.0f} s",
        )
        wait_until(lambda: datetime.now(UTC) > begin + timedelta(seconds=65), 70)
        self.check_minutes(begin)

    def check_swap(self, image: str) -> None:
        begin = datetime.now(UTC)
        text = self.release(image)
        took = (datetime.now(UTC) - begin).total_seconds()
        used = {name: self.inspect(name, "{{.ImageName}}") for name in OURS}
        self.check("A release is swapped", set(used.values()) == {image}, f"{took:.0f} s")
        status = self.inspect("code-blue", "{{.State.Status}}")
        self.check(
            "The code server before has ended", status in {"exited", "stopped"}, f"{status}; {text.splitlines()[-1]}"
        )
        self.check_minutes(begin)

    def check_bad_release(self, image: str) -> None:
        """Its definitions do not load."""
        bad = "localhost/wrm-pipeline:container-test-bad"
        recipe = f"FROM {image}\nUSER 0\nRUN rm /opt/wrm/release/wrm_pipeline/definitions.py\nUSER 10001\n"
        (self.folder / "bad").write_text(recipe)
        self.run("podman", "build", "--quiet", "--tag", bad, "--file", self.folder / "bad", self.folder / "releases")
        begin = datetime.now(UTC)
        done = subprocess.run(["./release", bad], cwd=self.home, env=self.environment, capture_output=True, check=False)
        used = {self.inspect(name, "{{.ImageName}}") for name in OURS}
        self.check(
            "A release that does not load is refused",
            done.returncode != 0 and used == {image},
            f"{datetime.now(UTC) - begin}",
        )

    def check_secrets(self, images: Sequence[str]) -> None:
        texts = {f"inspect of {name}": self.run("podman", "inspect", name) for name in (*self.names(), *images)}
        texts |= {f"log of {name}": self.run("podman", "logs", name) for name in self.names()}
        texts |= {f"arguments of {pid.name}": _read(pid / "cmdline") for pid in Path("/proc").glob("[0-9]*")}
        texts |= {str(path): _read(path) for path in self.volume.rglob("*") if path.is_file()}
        layers = 0
        for index, image in enumerate(images):
            for name, text in saved(self.environment, image, self.folder / f"{index}.tar"):
                layers += 1
                for canary in self.canaries.values():
                    if canary.encode() in text:
                        texts[f"layer {name} of {image}"] = canary
        found = [place for place, text in texts.items() if any(canary in text for canary in self.canaries.values())]
        self.check(
            "Secrets are in no layer, inspect, log, argument or file",
            not found,
            ", ".join(found[:5]) or f"{layers} layers and {len(texts)} texts were searched",
        )

    def health(self, service: str, check: str) -> str:
        """Empty if it is healthy, else the reason. Podman runs health checks by systemd, which is not everywhere."""
        command = ("exec", "-T", service, "python3", "/opt/wrm/health.py", check)
        try:
            self.compose(*command)
        except RuntimeError as error:
            return str(error)
        return ""

    def names(self) -> list[str]:
        return self.run("podman", "ps", "--all", "--filter", f"name={PROJECT}", "--format", "{{.Names}}").split()

    def services(self) -> list[str]:
        return [name.removeprefix(f"{PROJECT}_").removesuffix("_1") for name in self.names()]

    def remove(self) -> None:
        self.environment["COMPOSE_PROFILES"] = "blue,green,tools,monitoring"
        self.compose("down", "--volumes", "--timeout", "5", check=False)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it has ended meanwhile


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def saved(environment: dict[str, str], image: str, archive: Path) -> Iterator[tuple[str, bytes]]:
    """Each part of the image as it would be shipped: layers (uncompressed) and configuration."""
    run("podman", "save", "--quiet", "--output", archive, image, env=environment)
    with tarfile.open(archive) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                yield member.name, file.read()
    archive.unlink()


def podman_settings(folder: Path) -> dict[str, str]:
    """Settings for machines without systemd and with low limits, where podman's own do not start a container."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = {"nofile": hard, "nproc": min(32768, resource.getrlimit(resource.RLIMIT_NPROC)[1])}
    lines = ["[containers]", f"default_ulimits = {json.dumps([f'{name}={n}:{n}' for name, n in limits.items()])}"]
    lines += ["[engine]", 'cgroup_manager = "cgroupfs"', 'events_logger = "file"']
    if init := shutil.which("catatonit"):
        lines.insert(2, f"init_path = {json.dumps(init)}")
    # crun refuses a machine that has both versions of cgroups.
    if Path("/sys/fs/cgroup/unified").exists() and shutil.which("runc"):
        lines.append('runtime = "runc"')
    (folder / "containers.conf").write_text("\n".join(lines) + "\n")
    return {} if Path("/run/systemd/system").exists() else {"CONTAINERS_CONF": str(folder / "containers.conf")}


@contextmanager
def containers(*, keep: bool) -> Iterator[Containers]:
    folder = Path(tempfile.mkdtemp(prefix="wrm-container-test-", dir="/var/tmp"))
    test = Containers(folder)
    try:
        test.prepare()
        yield test
    finally:
        if keep:
            input(f"{test.home} is kept until Enter. ")
        test.remove()
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="wait for Enter before everything is removed")
    lacking = [name for name in ("podman", "debootstrap") if not shutil.which(name)]
    if os.geteuid() or lacking:
        print(f"container-test needs root and {', '.join(lacking) or 'nothing else'}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    with containers(keep=parser.parse_args().keep) as test:
        test.build_servers()
        print(f"{datetime.now():%H:%M:%S} base and servers: {time.monotonic() - begin:.0f} s", flush=True)
        first = test.build("container-test-1")
        test.check_image(first)
        test.environment["FEED_IMAGE"] = first
        test.compose("up", "-d", "--no-deps", "feed")
        started = time.monotonic()
        test.release(first)
        test.check("From nothing to a first snapshot", True, f"{time.monotonic() - started:.0f} s")
        test.check_published()
        test.check_services()
        test.check_doctor()
        test.check_prometheus()
        test.check_kill("code-blue", "code")
        test.check_kill("daemon", "daemon")
        second = test.build("container-test-2")
        test.check_swap(second)
        test.check_bad_release(second)
        test.check_minutes(test.snapshot_times()[0])
        test.check_secrets([first, second])
    print(tabulate(test.rows, headers=("point", "", "measured")))
    failed = [row for row in test.rows if row[1] != "ok"]
    print(f"{len(test.rows)} points, {len(failed)} failed, {(time.monotonic() - begin) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
