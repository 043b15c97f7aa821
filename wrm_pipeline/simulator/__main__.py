"""Serves the simulated feed until it is stopped: `python -m wrm_pipeline.simulator --port 8010`."""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wrm_pipeline.simulator.behaviour import FEEDS
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.lies import Lie
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.other_feeds import OPERATOR_PATH
from wrm_pipeline.simulator.places import WROCLAW, Home
from wrm_pipeline.simulator.server import CONTROL_PATH, serve


def _clock(start: datetime, speed: float) -> Callable[[], datetime]:
    """A clock that starts at `start` and runs `speed` times as fast as the real one."""
    began_s = time.monotonic()
    return lambda: start + timedelta(seconds=(time.monotonic() - began_s) * speed)


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time zone; give a name like Asia/Kolkata") from error


def _place(text: str) -> tuple[float, float]:
    lat, lon = map(float, text.split(","))
    return lat, lon


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m wrm_pipeline.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8010, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="each seed is a different city (default %(default)s)")
    parser.add_argument("--city", default=WROCLAW.name, help="the city's name (default %(default)s)")
    parser.add_argument("--timezone", type=_zone, default=WROCLAW.zone, help="its zone (default %(default)s)")
    parser.add_argument(
        "--centre", type=_place, default=(WROCLAW.lat, WROCLAW.lon), help="its middle, lat,lon (default: Wrocław's)"
    )
    parser.add_argument("--start", type=_instant, help="the city's initial time, ISO 8601 (default: now)")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="city seconds per second; unless it is 1, reports drift away from the time of their fetch, and"
        " a day ahead of it they are dead letters (default %(default)s)",
    )
    parser.add_argument(
        "--misbehave-probability",
        type=float,
        default=0.0,
        help="share of the requests that get a fault, 0 to 1 (default %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the server until SIGINT or SIGTERM.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit status: 0, or 1 if the port cannot be opened.
    """
    options = _arguments(argv)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    clock = _clock(options.start or datetime.now(UTC), options.speed)
    try:
        with serve(
            City(options.seed, home=Home(options.city, options.timezone, *options.centre)),
            clock=clock,
            host=options.host,
            port=options.port,
        ) as feed:
            feed.misbehave_at_random(options.misbehave_probability, options.seed)
            print(f"export WRM_STATIONS_DATA_URL='{feed.url}'")
            print(f"export WRM_OPERATOR_URL='{feed.operator_url}'")
            print(f"export WRM_GBFS_URL='{feed.gbfs_url}'")
            print("Add &at=2025-08-21T12:00:00Z for another instant, and for a fault &misbehave= with one of:")
            print("  " + " ".join(Misbehaviour))
            print("or &lie= with one of:")
            print("  " + " ".join(Lie))
            control = feed.operator_url.replace(OPERATOR_PATH, CONTROL_PATH)
            print("For all requests of a feed, until the next such call; also lie=, ttl=SECONDS, strict=1, etags=1:")
            print(f"  curl '{control}?feed=operator&misbehave=slow'  # feed= is one of {' '.join(FEEDS)}", flush=True)
            stop.wait()
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
