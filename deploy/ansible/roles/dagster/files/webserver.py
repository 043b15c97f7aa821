"""`dagster-webserver` on the socket that systemd hands over; its own options name a host and a port only.

    python webserver.py OPTION…      as dagster-webserver, without --host and --port

A unix socket has an owner and a mode, so systemd decides who may connect: nginx, which asks for a login. On a port,
even of loopback, every account of the host could act, and so could a feed whose redirect leads there.
"""

from __future__ import annotations

import functools
import os
import sys

# The first one that systemd hands over (sd_listen_fds(3)).
SOCKET_FD = 3


def main() -> None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        sys.exit("webserver.py: no socket was handed over; systemctl start dagster-webserver.socket (or dagster-look)")
    # Not for what may be started from here.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(SOCKET_FD, False)
    import uvicorn
    from dagster_webserver.cli import main as dagster_webserver

    # Dagster gives host and port; with a descriptor neither is used.
    uvicorn.run = functools.partial(uvicorn.run, fd=SOCKET_FD)
    sys.argv[1:] = [*sys.argv[1:], "--port", "1"]
    dagster_webserver()


if __name__ == "__main__":
    main()
