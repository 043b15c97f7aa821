"""A weather service that makes its weather up: `python -m examples.weather_asset.stub`."""

import argparse
import contextlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from random import Random
from threading import Thread

PORT = 8090


def hours_of(day: str) -> list[str]:
    """The lines of a day, the same each time; one of them has no number."""
    random = Random(day)
    lines = [f"{hour},{max(0, random.gauss(0.5, 1)):.1f}" for hour in range(24)]
    broken = random.randrange(24)
    return [*lines[:broken], f"{broken},n/a", *lines[broken + 1 :]]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A day's lines at `/YYYY-MM-DD`."""
        body = "\n".join(hours_of(self.path.strip("/"))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Answer on a free port of this machine while the block runs; gives the URL."""
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def main() -> None:
    """Serve until Ctrl+C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    with (
        HTTPServer(("127.0.0.1", parser.parse_args().port), _Handler) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"The weather is on http://127.0.0.1:{server.server_port}/2025-08-21", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
