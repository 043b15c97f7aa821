"""Debian's nginx with the deployment's own configuration, on loopback, and servers behind it that note what arrives."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wrm_pipeline_tests.fixtures.deployed import render
from wrm_pipeline_tests.integration.conftest import free_ports

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
NEEDS_NGINX = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="nginx or openssl is not installed (apt install nginx openssl)",
)

NAME = "wrm.test"
LOGINS = {"admin": "admins-password", "guest": "guests-password"}
ACTORS, ALL = ("admin",), ("admin", "guest")


class Upstream(BaseHTTPRequestHandler):
    """Answers whatever arrives, and notes it."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, Any]]] = []
    name = ""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        noted = {"server": self.name, "method": self.command, "path": self.path, "body": body}
        self.seen.append({**noted, "headers": {key.lower(): value for key, value in self.headers.items()}})
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "upgrade")
            self.end_headers()
            self.close_connection = True
            return
        answer = b"" if self.command == "HEAD" else json.dumps({"data": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Content-Security-Policy", "script-src 'nonce-of-dagster'")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer  # noqa: N815

    def address_string(self) -> str:
        return "nginx"

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _OnSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@dataclass
class Site:
    """A running nginx.

    Attributes:
        port: Of https on 127.0.0.1; `origin` has the name that nginx answers to.
        http_port: Of plain http.
        folder: Its files; the web servers' sockets are in `run`.
        seen: What reached a server behind it.
    """

    port: int
    http_port: int
    folder: Path
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"


def _configuration(
    folder: Path, port: int, http_port: int, exporter_port: int, *, gbfs_public: bool, grafana_port: int | None
) -> str:
    text = render(
        "web",
        "wrm.conf.j2",
        web_server_name=NAME,
        web_listen_addresses=["127.0.0.1"],
        web_https_port=port,
        web_http_port=http_port,
        web_certificate=f"{folder}/cert.pem",
        web_certificate_key=f"{folder}/key.pem",
        web_rate=1000,
        web_burst=1000,
        dagster_exporter_port=exporter_port,
        dagster_reports_dir=f"{folder}/reports",
        dagster_gbfs_dir=f"{folder}/gbfs",
        web_gbfs_public=gbfs_public,
        monitoring_grafana=grafana_port is not None,
        monitoring_grafana_port=grafana_port,
    )
    text = text.replace("/run/wrm-web/", f"{folder}/run/").replace("/etc/nginx/wrm", f"{folder}/wrm")
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"{'user root;' if os.geteuid() == 0 else ''}\nworker_processes 1;\ndaemon off;\npid {folder}/pid;\n"
        f"error_log {folder}/error.log;\nevents {{ worker_connections 512; }}\n"
        f"http {{\ninclude /etc/nginx/mime.types;\naccess_log off;\n{folders}{text}\n}}\n"
    )


@contextmanager
def running_nginx(
    folder: Path, exporter_port: int = 1, *, gbfs_public: bool = False, grafana_port: int | None = None
) -> Iterator[Site]:
    """The site with one person who acts and one who looks; what is behind it is the caller's."""
    assert NGINX is not None
    port, http_port = free_ports(2)
    for name in ("run", "reports", "gbfs"):
        (folder / name).mkdir(exist_ok=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    for file, names in (("wrm.htpasswd", ACTORS), ("wrm-look.htpasswd", ALL)):
        (folder / file).write_text("".join(f"{name}:{{PLAIN}}{LOGINS[name]}\n" for name in names))
    (folder / "nginx.conf").write_text(
        _configuration(folder, port, http_port, exporter_port, gbfs_public=gbfs_public, grafana_port=grafana_port)
    )
    command = [NGINX, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
            if process.poll() is not None:
                raise RuntimeError(
                    f"nginx ended: {process.communicate()[0].decode()}{(folder / 'error.log').read_text()}"
                )
            time.sleep(0.02)
        yield Site(port, http_port, folder)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def upstreams(folder: Path) -> Iterator[tuple[list[dict[str, Any]], int, int]]:
    """Both web servers, exporter and Grafana, as servers that note what arrives; gives that, and both ports."""
    (folder / "run").mkdir(exist_ok=True)
    seen: list[dict[str, Any]] = []
    ports: list[int] = []
    servers: list[socketserver.BaseServer] = []
    for name in ("ui", "look", "exporter", "grafana"):
        handler = type(name, (Upstream,), {"name": name, "seen": seen})
        server: socketserver.BaseServer
        if name in {"exporter", "grafana"}:
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            ports.append(server.server_address[1])
        else:
            server = _OnSocket(f"{folder}/run/{name}.sock", handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
    try:
        yield seen, *ports
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
