"""What can go wrong with an outside system, in terms of what the caller can do about it.

Two questions decide the class: could the same request succeed in a few seconds (transient or permanent), and who has to
act (the message says so)? Libraries' own exceptions do not pass `retry.call` and the object store.
"""

from __future__ import annotations

from datetime import datetime

from wrm_pipeline.domain.masking import redact


class ExternalError(Exception):
    """A call to an outside system failed.

    The message reads ``target operation name: problem. remedy``, for a tired person at night. All arguments are kept in
    `args`, so that the error can be pickled by a worker process. Secrets are masked here, where the error is created: a
    service's answer may quote the request.

    Attributes:
        problem: What happened.
        target: Which system: ``feed``, ``s3``, ``vault``, ``webhook``, or the lake's folder.
        operation: The request, e.g. ``get``.
        name: What the request was about, and where: ``s3://bucket/key at https://host``, a URL, a path.
        remedy: What the reader can do.
        status: The HTTP status, where there was an answer.
        attempts: How many requests were made; 0 where retries do not apply.
        elapsed_s: Seconds that all attempts and waits took together.
    """

    attempts: int = 0
    elapsed_s: float = 0.0

    def __init__(
        self,
        problem: str,
        target: str = "",
        operation: str = "",
        name: str = "",
        remedy: str = "",
        status: int | None = None,
    ) -> None:
        problem, name, remedy = redact(problem), redact(name), redact(remedy)
        super().__init__(problem, target, operation, name, remedy, status)
        self.problem = problem
        self.target = target
        self.operation = operation
        self.name = name
        self.remedy = remedy
        self.status = status

    def __str__(self) -> str:
        where = " ".join(part for part in (self.target, self.operation, self.name) if part)
        text = f"{where}: {self.problem}" if where else self.problem
        if self.attempts > 1:
            text += f" (gave up after {self.attempts} attempts in {self.elapsed_s:.1f} s)"
        return f"{text}. {self.remedy}" if self.remedy else text


class TransientError(ExternalError):
    """The same request may well succeed later: no answer, a time-out, 408, 429, most of 5xx.

    Attributes:
        retry_after_s: How long the other side asked us to wait, in seconds; None if it did not say.
    """

    retry_after_s: float | None = None


class PermanentError(ExternalError):
    """Asking again would give the same answer, so it is not retried and no circuit breaker counts it."""


class CircuitOpenError(TransientError):
    """No request was made: the target has failed too often recently.

    Attributes:
        since: When the circuit opened (aware, UTC).
        next_probe_at: When the next call will be let through (aware, UTC).
    """

    def __init__(
        self, target: str, since: datetime, next_probe_at: datetime, operation: str = "", name: str = ""
    ) -> None:
        super().__init__(
            f"not asked, because {target} kept failing: circuit open since {since:%Y-%m-%d %H:%M:%S} UTC",
            target,
            operation,
            name,
            f"The first call after {next_probe_at:%H:%M:%S} UTC tries again; see why {target} is down",
        )
        self.since = since
        self.next_probe_at = next_probe_at

    def __reduce__(self) -> tuple[type[CircuitOpenError], tuple[str, datetime, datetime, str, str]]:
        return type(self), (self.target, self.since, self.next_probe_at, self.operation, self.name)


class AskedToWaitError(TransientError):
    """No request was made: the other side asked for a pause (`Retry-After`) that is not over.

    Attributes:
        until: Its end (aware, UTC).
    """

    def __init__(self, target: str, until: datetime, operation: str = "", name: str = "") -> None:
        super().__init__(
            f"not asked, because it answered with Retry-After: the pause ends at {until:%H:%M:%S} UTC",
            target,
            operation,
            name,
            "If it lasts, fetch less often, or ask the operator of the feed",
        )
        self.until = until

    def __reduce__(self) -> tuple[type[AskedToWaitError], tuple[str, datetime, str, str]]:
        return type(self), (self.target, self.until, self.operation, self.name)


class CertificateError(PermanentError):
    """The other side's certificate is not valid for its name, or not signed by a CA that is trusted here."""


class ObjectNotFoundError(PermanentError):
    """The object does not exist."""


class StorageDeniedError(PermanentError):
    """The store refused: wrong credentials or policy; for a folder, its owner, mode or a read-only mount."""


class ObjectArchivedError(PermanentError):
    """The object is in a storage class from which it must be restored before it can be read."""


class StorageFullError(PermanentError):
    """The disk, its quota or the bucket's quota is full; only a person can make room."""


class UnexpectedAnswerError(TransientError):
    """The answer cannot be the target's: HTML with status 200 from a proxy, a body cut short or damaged."""


class DamagedContentError(UnexpectedAnswerError):
    """A whole body arrived, but it is not what was stored: the object was damaged, in the store or in transit."""
