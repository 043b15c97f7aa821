"""Secrets from Vault (KV version 2): read at first use, kept in memory for minutes, shown nowhere.

Nothing is taken from the environment (`VAULT_TOKEN`, ``~/.vault-token``, ``~/.netrc``, proxies): only the arguments
count.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.clients.errors import (
    CertificateError,
    ExternalError,
    PermanentError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.clients.vault_errors import (
    VaultDeniedError,
    VaultError,
    VaultKeyMissingError,
    VaultLoginError,
    VaultMisdirectedError,
    VaultMountError,
    VaultPathMissingError,
    VaultRefusedError,
    VaultSealedError,
    VaultUnreachableError,
    VaultValueError,
    VaultVersionDeletedError,
)
from wrm_pipeline.clients.vault_http import RefusedError, adapter_class, create_transport
from wrm_pipeline.domain.masking import remember_secret, scrub
from wrm_pipeline.domain.values import stripped, unusable_character

if TYPE_CHECKING:
    from wrm_pipeline.clients.breaker import Breaker

TTL_S = 300.0
"""How long a secret is used before Vault is asked again: a rotated one arrives within this time."""

PAUSE_S = 15.0
"""How long a failure is remembered, so that a run that needs several secrets waits for a dead Vault once."""

MAX_SECRETS = 32

_RENEW_AFTER = 2 / 3
"""Of a token's lifetime; the rest is a margin for a Vault that is down at that moment."""

MAX_ANSWER_BYTES = 2**20

_WHO_ANSWERS = "See what answers at VAULT_ADDR: a proxy?"

_CONNECT_SHARE = 3 / 8
"""The share of an attempt's time for connecting; the rest is for the answer: 1.5 s + 2.5 s."""


@dataclass(frozen=True, slots=True)
class AppRole:
    """Login with an AppRole.

    Attributes:
        role_id: Returns it.
        secret_id: Returns it; called at each login, so that a rotated one is used.
        where: Where a person finds the secret id, for messages.
    """

    role_id: Callable[[], str]
    secret_id: Callable[[], str]
    where: str = "VAULT_SECRET_ID"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that something else provides, such as Vault Agent's file.

    Attributes:
        token: Returns it; called when the one in use is no longer accepted.
        where: Where a person finds it, for messages.
    """

    token: Callable[[], str]
    where: str = "VAULT_TOKEN"


class VaultSecret:
    """The keys and values of one path; the values appear in no repr.

    Attributes:
        name: Mount point, path and address, for messages.
        version: Of the secret in Vault.
    """

    __slots__ = ("_values", "name", "version")

    def __init__(self, name: str, values: Mapping[str, Any], version: int = 0) -> None:
        self.name = name
        self.version = version
        self._values = {key: str(value) for key, value in values.items() if value not in (None, "")}

    def __repr__(self) -> str:
        return f"VaultSecret({self.name!r}, keys={self.keys})"

    @property
    def keys(self) -> list[str]:
        """Names of the keys that have a value."""
        return sorted(self._values)

    def values(self) -> dict[str, str]:
        """All values, for writing a new version."""
        return dict(self._values)

    def get(self, key: str) -> str | None:
        """A value, stripped; None if there is none.

        Raises:
            VaultValueError: It contains a line break or another invalid character.
        """
        value = stripped(self._values.get(key, ""))
        if problem := unusable_character(value, secret=True):
            remember_secret(value)
            raise VaultValueError(f"{key} {problem}", "vault", "read", self.name)
        return value or None

    def require(self, key: str) -> str:
        """A value.

        Raises:
            VaultKeyMissingError: There is none, or it is empty.
            VaultValueError: See `get`.
        """
        value = self.get(key)
        if value is None:
            raise VaultKeyMissingError(
                f"has no key {key!r}; it has {', '.join(self.keys) or 'none'}",
                "vault",
                "read",
                self.name,
                f"Add it: `vault kv patch` with `{key}=-`, which reads the value from the standard input",
            )
        return value


class Vault:
    """Reads secrets; thread-safe. Makes its first request when the first secret is read.

    One `read` takes at most the policy's deadline, including login and retries.

    Args:
        address: ``https://host:8200``.
        login: How to get a token.
        mount_point: Where KV version 2 is mounted.
        namespace: For Vault Enterprise and HCP.
        verify: Whether to verify the certificate, or the path of the CA that signed it.
        breaker: Consulted before and updated after each request. Its state must not need a secret from here.
        policy: Attempts and deadline.
        ttl_s: Seconds for which a secret is kept.
        on_event: See `retry.call`.
        clock: Seconds, monotonic.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        address: str,
        login: AppRole | Token,
        *,
        mount_point: str = "secret",
        namespace: str | None = None,
        verify: bool | str = True,
        breaker: Breaker | None = None,
        policy: retry.RetryPolicy = retry.VAULT_POLICY,
        ttl_s: float = TTL_S,
        on_event: retry.OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.mount_point = mount_point
        self._login_with = login
        self._namespace = namespace
        self._verify = verify
        self._breaker = breaker
        self._policy = policy
        self._ttl_s = ttl_s
        self._on_event = on_event
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.RLock()
        self._hvac: Any = None
        self._fresh_until = float("-inf")  # of the token
        self._renewable = False
        self._secrets: dict[str, tuple[float, VaultSecret]] = {}
        self._failures: dict[str | None, tuple[float, ExternalError]] = {}  # None: of Vault as a whole

    def __repr__(self) -> str:
        return f"Vault({self.address!r}, mount_point={self.mount_point!r})"

    def read(self, path: str) -> VaultSecret:
        """The newest version at `path`, given without mount point and ``data/``.

        Raises:
            VaultError: See the classes above.
            ExternalError: Certificate not valid, circuit open.
        """
        with self._lock:
            now = self._clock()
            for key in (None, path):
                until, error = self._failures.get(key, (now, None))
                if error is not None and now < until:
                    raise copy.copy(error)
            until, secret = self._secrets.get(path, (now, None))
            if secret is not None and now < until:
                return secret
            try:
                secret = self._read(path)
            except ExternalError as error:
                key = None if isinstance(error, (TransientError, VaultLoginError)) else path
                self._remember(self._failures, key, (self._clock() + PAUSE_S, error.with_traceback(None)))
                raise
            self._failures.pop(None, None)
            self._remember(self._secrets, path, (self._clock() + self._ttl_s, secret))
            return secret

    def write(self, path: str, values: Mapping[str, str], *, version: int) -> None:
        """Write a new version at `path`, if the newest one is still `version` (0: there is none).

        Raises:
            VaultError: See the classes above; a plain one if the version has changed.
        """
        with self._lock:
            self._secrets.pop(path, None)
            self._failures.clear()
            self._with_token(
                "write",
                path,
                lambda client: client.secrets.kv.v2.create_or_update_secret(
                    path=path, secret=dict(values), cas=version, mount_point=self.mount_point
                ),
                self._clock() + self._policy.deadline_s,
            )

    def _read(self, path: str) -> VaultSecret:
        answer = self._with_token(
            "read",
            path,
            lambda client: client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=self.mount_point, raise_on_deleted_version=True
            ),
            self._clock() + self._policy.deadline_s,
        )
        try:
            data = answer["data"]
            return VaultSecret(self._place(path), data["data"], int(data["metadata"]["version"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise VaultMountError(
                "the answer is not of KV version 2",
                "vault",
                "read",
                self._place(path),
                f"See the version of {self.mount_point}/ in `vault secrets list -detailed`; set VAULT_MOUNT_POINT",
            ) from None

    @staticmethod
    def _remember(kept: dict[Any, tuple[float, Any]], key: str | None, value: tuple[float, Any]) -> None:
        kept.pop(key, None)
        kept[key] = value
        while len(kept) > MAX_SECRETS:
            del kept[next(iter(kept))]

    # Tokens

    def _with_token(self, operation: str, path: str, request: Callable[[Any], Any], ends: float) -> Any:
        """Ask, and again with a new token after a 403, which may mean "expired" or "not permitted"."""
        self._have_token(path, ends)
        try:
            return self._ask(operation, path, request, ends)
        except VaultDeniedError:
            self._login(path, ends)
            return self._ask(operation, path, request, ends)

    def _have_token(self, path: str, ends: float) -> None:
        if self._clock() < self._fresh_until:
            return
        if self._renewable:
            try:
                self._took(self._ask("renew", path, lambda client: client.auth.token.renew_self(), ends)["auth"])
            except PermanentError:
                pass  # expired, or at its maximum age
            else:
                return
        self._login(path, ends)

    def _login(self, path: str, ends: float) -> None:
        self._fresh_until, self._renewable = float("-inf"), False
        client, how = self._client(), self._login_with
        if isinstance(how, AppRole):
            client.token = ""
            role_id, secret_id = how.role_id(), how.secret_id()
            remember_secret(role_id)
            remember_secret(secret_id)
            answer = self._ask("login", path, lambda c: c.auth.approle.login(role_id, secret_id, use_token=False), ends)
            # A new login does everything that a renewal does, without a maximum age.
            self._took({**answer["auth"], "renewable": False})
        else:
            client.token = how.token()
            remember_secret(client.token)  # before it is used: the answer may quote it
            found = self._ask("lookup", path, lambda c: c.auth.token.lookup_self(), ends)["data"]
            self._took({"lease_duration": found["ttl"], "renewable": found.get("renewable")})

    def _took(self, token: Mapping[str, Any]) -> None:
        client, life = self._client(), float(token["lease_duration"])
        client.token = token.get("client_token") or client.token
        remember_secret(client.token)
        self._renewable = bool(token.get("renewable")) and life > 0
        # A lifetime of 0 means forever.
        self._fresh_until = self._clock() + life * _RENEW_AFTER if life > 0 else float("inf")

    # Requests

    def _client(self) -> Any:
        if self._hvac is None:
            import hvac  # type: ignore[import-untyped]
            import requests

            session = requests.Session()
            session.trust_env = False
            session.headers.clear()
            session.headers["User-Agent"] = "wrm-pipeline"
            session.mount("http://", create_transport())
            session.mount("https://", session.get_adapter("http://"))
            self._hvac = hvac.Client(
                self.address,
                token="",  # None would mean any token found in the environment
                session=session,
                namespace=self._namespace,
                allow_redirects=False,  # the token would be sent along
                adapter=adapter_class(),
            )
        return self._hvac

    def _policy_for(self, left: float) -> outgoing.Policy:
        import certifi

        return outgoing.Policy(
            "vault",
            max_bytes=MAX_ANSWER_BYTES,
            connect_s=left * _CONNECT_SHARE,
            read_s=left * (1 - _CONNECT_SHARE),
            total_s=left,
            trusted=True,
            verify=certifi.where() if self._verify is True else self._verify,  # not the environment's
            certificate_remedy="Check VAULT_ADDR, VAULT_CACERT and the clock",
            with_errors=True,
        )

    def _ask(self, operation: str, path: str, request: Callable[[Any], Any], ends: float) -> Any:
        import requests

        client = self._client()
        left = ends - self._clock()
        place = self._place(path, operation)
        if left <= 0:
            raise VaultUnreachableError(
                f"answers too slowly: nothing within {self._policy.deadline_s:g} s",
                "vault",
                operation,
                place,
                self._whether_up(),
            )

        def attempt() -> Any:
            transport = client.session.get_adapter(self.address)
            transport.policy = self._policy_for(max(min(self._policy.attempt_s, ends - self._clock()), 0.1))
            try:
                return request(client)
            except RefusedError as refusal:
                raise self._explain(refusal, operation, path) from None
            except UnexpectedAnswerError as error:
                raise UnexpectedAnswerError(error.problem, "vault", operation, place, self._whether_up()) from None
            except TransientError as error:
                raise VaultUnreachableError(error.problem, "vault", operation, place, self._whether_up()) from None
            except CertificateError as error:
                raise CertificateError(error.problem, "vault", operation, place, error.remedy) from None
            except PermanentError as error:
                raise VaultRefusedError(error.problem, "vault", operation, place, _WHO_ANSWERS) from None
            except requests.RequestException as exc:  # about an invalid request
                scrub(exc)
                raise retry.classify(exc, target="vault", operation=operation, name=place) or exc from None

        return retry.call(
            attempt,
            target="vault",
            operation=operation,
            policy=replace(self._policy, deadline_s=left, attempt_s=min(self._policy.attempt_s, left)),
            name=place,
            breaker=self._breaker,
            on_event=self._on_event,
            clock=self._clock,
            sleep=self._sleep,
        )

    def _place(self, path: str, operation: str = "read") -> str:
        place = f"{self.mount_point}/{path} at {self.address}"
        return place if operation in {"read", "write"} else f"for {place}"

    def _whether_up(self) -> str:
        return "Check that Vault runs there, and that VAULT_ADDR and the connection to it (DNS, firewall) are right"

    def _explain(self, refusal: RefusedError, operation: str, path: str) -> ExternalError:
        """Translate into our errors, with a remedy."""
        status, said = refusal.status, "; ".join(refusal.errors)[:200]
        problem = f"HTTP {status} {said}".strip()
        kind: type[VaultError]
        if status == 200:
            problem = "HTTP 200, but the answer is not Vault's"
            return UnexpectedAnswerError(problem, "vault", operation, self._place(path, operation), _WHO_ANSWERS)
        if retry.is_transient_status(status):
            kind, remedy = VaultUnreachableError, self._whether_up()
            if "sealed" in said:
                kind, remedy = VaultSealedError, "Unseal it: `vault operator unseal`, on the machine that it runs on"
        elif 300 <= status < 400:
            kind, problem = VaultMisdirectedError, f"HTTP {status}: redirects to another address"
            remedy = "Set VAULT_ADDR to the active node, or to the load balancer in front of all nodes"
        elif operation in {"login", "lookup"} and status in {400, 401, 403}:
            kind, remedy = VaultLoginError, f"Put a new one into {self._login_with.where}"
            if isinstance(self._login_with, AppRole):
                problem += " (VAULT_ROLE_ID and the secret id do not match, or the secret id is used up or expired)"
                remedy += ": `vault write -f auth/approle/role/ROLE/secret-id` issues it"
            else:
                problem += " (the token is not valid, or has expired)"
        elif status == 403:
            verb = "create, update" if operation == "write" else operation
            kind, remedy = VaultDeniedError, f"The policy needs `{verb}` on {self.mount_point}/data/{path}"
        elif status == 404:
            return self._explain_absence(refusal, operation, path)
        else:
            kind, remedy = VaultRefusedError, "See Vault's own log"
        error = kind(problem, "vault", operation, self._place(path, operation), remedy, status)
        if isinstance(error, TransientError):
            error.retry_after_s = refusal.retry_after_s
        return error

    def _explain_absence(self, refusal: RefusedError, operation: str, path: str) -> VaultError:
        mount, place = self.mount_point, self._place(path)
        if refusal.metadata:
            version = int(refusal.metadata.get("version") or 0)
            gone = "destroyed" if refusal.metadata.get("destroyed") else "deleted"
            remedy = f"`vault kv undelete -mount={mount} -versions={version} {path}` brings it back"
            deleted = VaultVersionDeletedError(
                f"version {version} is {gone}",
                "vault",
                operation,
                place,
                "Write a new one" if gone == "destroyed" else f"{remedy}, or write a new one",
                404,
            )
            deleted.version = version
            return deleted
        if any("no handler for route" in line for line in refusal.errors):
            remedy = "See `vault secrets list`, and set VAULT_MOUNT_POINT or VAULT_NAMESPACE"
            return VaultMountError(f"there is no secrets engine at {mount}/", "vault", operation, place, remedy, 404)
        remedy = (
            f"Write it: `wrm secrets import FILE --apply`, or `vault kv put -mount={mount} {path} …`. If it exists, "
            f"check VAULT_NAMESPACE, VAULT_MOUNT_POINT, and whether {mount}/ is KV version 2"
        )
        return VaultPathMissingError("there is nothing", "vault", operation, place, remedy, 404)
