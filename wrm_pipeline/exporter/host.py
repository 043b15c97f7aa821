"""Metrics of the host's clock and certificate.

What cannot be looked at has no value, and is no alarm of its own.
"""

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from cryptography import x509
from prometheus_client.metrics_core import Metric

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.exporter.families import single
from wrm_pipeline.exporter.slow_sources import SlowSource

# Neither changes faster, and the feed's server should not be asked more often for nothing.
LOOK_EVERY_S = 300.0

_CONNECT_S = 3.0


class ClockSource(SlowSource):
    """How far this machine's clock is from that of the feed's server."""

    name = "clock"
    every_s = LOOK_EVERY_S

    def __init__(self, compare: Callable[[], float | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._compare = compare
        self._ahead_s: float | None = None

    def look_now(self) -> None:
        """Ask the server. No answer is not a wrong clock: then there is no value."""
        try:
            self._ahead_s = self._compare()
        except ExternalError:
            self._ahead_s = None

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Seconds ahead (negative: behind)."""
        if self._ahead_s is None:
            return []
        text = "By how much this clock is ahead of that of the feed's server (negative: behind)"
        return [single("wrm_clock_ahead_seconds", text, self._ahead_s)]


class CertificateSource(SlowSource):
    """When the certificate ends that the web server on this machine serves."""

    name = "certificate"
    every_s = LOOK_EVERY_S

    def __init__(
        self,
        url: str,
        fetch: Callable[[str, int], bytes] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url` is that of the UI; one without https has no certificate. `fetch` is for tests."""
        super().__init__(clock=clock)
        self._url = urlsplit(url)
        self._fetch = fetch or served_certificate
        self._ends: float | None = None

    def look_now(self) -> None:
        """Shake hands. A web server that does not answer has no value; people notice that otherwise."""
        host = self._url.hostname
        if self._url.scheme != "https" or host is None:
            return
        try:
            served = self._fetch(host, self._url.port or 443)
        except OSError:
            self._ends = None
        else:
            self._ends = x509.load_der_x509_certificate(served).not_valid_after_utc.timestamp()

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Its last second."""
        if self._ends is None:
            return []
        text = "When the certificate that the web server serves ends (Unix time)"
        return [single("wrm_certificate_end_timestamp_seconds", text, self._ends)]


def served_certificate(host: str, port: int) -> bytes:
    """The certificate (DER) that this machine's web server serves for the name; whoever signed it.

    Raises:
        OSError: nothing on this machine listens there, or it does not speak TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only read; one that has ended has to be seen, too
    with (
        socket.create_connection(("127.0.0.1", port), _CONNECT_S) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""
