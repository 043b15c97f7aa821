"""The real hvac against a fake Vault over HTTP: logins, tokens, what is asked how often, and what errors say."""

from __future__ import annotations

import copy
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import (
    CertificateError,
    CircuitOpenError,
    ExternalError,
    UnexpectedAnswerError,
)
from wrm_pipeline.clients.retry import VAULT_POLICY, RequestCounter, RetryPolicy
from wrm_pipeline.clients.vault import MAX_SECRETS, PAUSE_S, TTL_S, AppRole, Token, Vault, VaultSecret
from wrm_pipeline.clients.vault_errors import (
    VaultDeniedError,
    VaultKeyMissingError,
    VaultLoginError,
    VaultMisdirectedError,
    VaultMountError,
    VaultPathMissingError,
    VaultRefusedError,
    VaultSealedError,
    VaultUnreachableError,
    VaultVersionDeletedError,
)
from wrm_pipeline_tests.fixtures.fake_vault import ROLE_ID, FakeVault
from wrm_pipeline_tests.fixtures.fault_server import HTML_200, Answer, FaultServer

# hvac warns of what its next major version changes.
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning")

FAST = RetryPolicy(attempts=3, deadline_s=3, base_wait_s=0.01, max_wait_s=0.02, attempt_s=0.8)
CANARY = "CANARY-9d1f-value"
LOGIN = "POST /v1/auth/approle/login"
READ = "GET /v1/secret/data/wrm/s3"
LOOKUP = "GET /v1/auth/token/lookup-self"


class Clock:
    """Seconds that pass on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake() -> Iterator[FakeVault]:
    with FakeVault() as server:
        server.put("wrm/s3", access_key_id=f"{CANARY}-id", secret_access_key=CANARY, region_name="", port=5432)
        yield server


def vault_at(fake: FaultServer, login: AppRole | Token | None = None, **options: object) -> Vault:
    options = {"policy": FAST, "sleep": lambda _seconds: None, **options}
    return Vault(fake.url, login or AppRole(lambda: ROLE_ID, lambda: "secret-id-1"), **options)  # type: ignore[arg-type]


def _without_code(trace: str) -> str:
    """A traceback without the lines of source, which name this module's constants."""
    return "\n".join(line for line in trace.splitlines() if not line.startswith("    "))


def error_of(read: Callable[[], object]) -> ExternalError:
    with pytest.raises(ExternalError) as caught:
        read()
    # As Dagster stores it: with all causes and contexts that are shown.
    shown = f"{caught.value!r} {copy.copy(caught.value)} {''.join(traceback.format_exception(caught.value))}"
    assert [secret for secret in (CANARY, "secret-id-1", "hvs.fake") if secret in _without_code(shown)] == []
    return caught.value


# --- Logins and requests --------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_first_read_and_then_once(fake):
    vault = vault_at(fake)
    assert fake.connections == 0
    for _ in range(3):
        secret = vault.read("wrm/s3")
    assert secret.require("secret_access_key") == CANARY
    assert fake.asked() == [LOGIN, READ]


def test_a_secret_has_strings_only_and_shows_its_keys_only(fake):
    secret = vault_at(fake).read("wrm/s3")
    assert (secret.get("port"), secret.get("region_name"), secret.get("bucket_name")) == ("5432", None, None)
    assert secret.version == 1
    assert repr(secret) == (
        f"VaultSecret('secret/wrm/s3 at {fake.url}', keys=['access_key_id', 'port', 'secret_access_key'])"
    )
    assert CANARY not in repr(vault_at(fake))


def test_after_its_time_a_secret_is_asked_for_again_and_a_new_value_arrives(fake):
    clock = Clock()
    vault = vault_at(fake, clock=clock)
    vault.read("wrm/s3")
    fake.put("wrm/s3", access_key_id="new")
    clock.now += TTL_S - 1
    assert vault.read("wrm/s3").require("access_key_id") == f"{CANARY}-id"
    clock.now += 2
    assert vault.read("wrm/s3").require("access_key_id") == "new"
    assert fake.asked() == [LOGIN, READ, READ]


def test_the_cache_has_a_bound(fake):
    vault = vault_at(fake)
    paths = [f"wrm/p{n}" for n in range(MAX_SECRETS + 1)]
    for path in paths:
        fake.put(path, value="1")
    for path in [*paths, paths[-1], paths[0]]:
        vault.read(path)
    assert Counter(fake.asked("/data/"))[f"GET /v1/secret/data/{paths[0]}"] == 2
    assert Counter(fake.asked("/data/"))[f"GET /v1/secret/data/{paths[-1]}"] == 1


def test_many_threads_log_in_once(fake):
    vault = vault_at(fake)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: vault.read("wrm/s3").require("secret_access_key"), range(64)))
    assert set(found) == {CANARY}
    assert fake.asked() == [LOGIN, READ]


def test_a_token_that_expired_costs_one_more_login(fake):
    clock = Clock()
    vault = vault_at(fake, clock=clock)
    vault.read("wrm/s3")
    fake.expire_tokens()
    clock.now += TTL_S
    assert vault.read("wrm/s3").require("secret_access_key") == CANARY
    assert fake.asked() == [LOGIN, READ, READ, LOGIN, READ]


def test_a_real_denial_is_asked_twice_and_no_more(fake):
    fake.denied.add("wrm/s3")
    vault = vault_at(fake)
    error = error_of(lambda: vault.read("wrm/s3"))
    assert type(error) is VaultDeniedError
    assert "The policy needs `read` on secret/data/wrm/s3" in str(error)
    assert Counter(fake.asked()) == {LOGIN: 2, READ: 2}


def test_a_failure_is_remembered_for_a_moment(fake):
    clock = Clock()
    vault = vault_at(fake, clock=clock)
    fake.sealed = True
    first = error_of(lambda: vault.read("wrm/s3"))
    count = len(fake.requests)
    fake.sealed = False
    again = error_of(lambda: vault.read("wrm/redis"))  # another path: Vault as a whole is away
    assert (type(again), str(again)) == (type(first), str(first))
    assert again is not first
    assert len(fake.requests) == count
    clock.now += PAUSE_S
    assert vault.read("wrm/s3").require("secret_access_key") == CANARY


def test_a_path_that_is_missing_does_not_hide_the_others(fake):
    vault = vault_at(fake)
    for _ in range(2):
        error_of(lambda: vault.read("wrm/redis"))
    assert vault.read("wrm/s3").require("secret_access_key") == CANARY
    assert fake.asked() == [LOGIN, "GET /v1/secret/data/wrm/redis", READ]


def test_the_secret_id_is_read_at_each_login(fake, tmp_path):
    file = tmp_path / "secret_id"
    file.write_text("secret-id-1")
    clock = Clock()
    vault = vault_at(fake, AppRole(lambda: ROLE_ID, file.read_text), clock=clock)
    vault.read("wrm/s3")
    fake.rotate_secret_id("secret-id-2")
    fake.expire_tokens()
    file.write_text("secret-id-2")
    clock.now += TTL_S
    vault.read("wrm/s3")
    assert fake.logins == {"secret-id-1": 1, "secret-id-2": 1}


def test_an_approle_logs_in_again_before_its_token_ends(fake):
    clock = Clock()
    fake.token_ttl_s = 900
    vault = vault_at(fake, clock=clock)
    for seconds in (0, 590, 20):  # two thirds of 900 s are over after 600
        clock.now += seconds
        vault._secrets.clear()
        vault.read("wrm/s3")
    assert fake.asked() == [LOGIN, READ, READ, LOGIN, READ]


def test_a_token_for_ever_is_never_renewed(fake):
    clock = Clock()
    fake.token_ttl_s = 0
    vault = vault_at(fake, clock=clock)
    vault.read("wrm/s3")
    clock.now += 1e7
    vault.read("wrm/s3")
    assert fake.asked() == [LOGIN, READ, READ]


def test_a_given_token_is_looked_at_and_renewed(fake):
    clock = Clock()
    token = fake.issue_token(900)
    fake.token_ttl_s = 900
    vault = vault_at(fake, Token(lambda: token), clock=clock)
    vault.read("wrm/s3")
    clock.now += 610
    vault.read("wrm/s3")
    assert fake.asked() == [LOOKUP, READ, "POST /v1/auth/token/renew-self", READ]
    assert fake.renewals == 1


@pytest.mark.parametrize("renewable", [True, False])
def test_a_given_token_that_ended_is_read_again(fake, renewable):
    clock = Clock()
    fake.token_renewable = renewable
    tokens = [fake.issue_token(900)]
    vault = vault_at(fake, Token(lambda: tokens[-1]), clock=clock)
    vault.read("wrm/s3")
    fake.expire_tokens()
    tokens.append(fake.issue_token(900))
    clock.now += 610
    assert vault.read("wrm/s3").require("secret_access_key") == CANARY
    assert fake.requests[-1].headers["x-vault-token"] == tokens[-1]


def test_nothing_that_lies_around_is_used(fake, monkeypatch, tmp_path):
    bogus = "hvs.bogus-token-of-somebody"
    (tmp_path / ".vault-token").write_text(bogus)
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {bogus}\n")
    (tmp_path / ".netrc").chmod(0o600)
    for name, value in {
        "HOME": str(tmp_path),
        "VAULT_TOKEN": bogus,
        "VAULT_ADDR": "http://127.0.0.1:9",
        "VAULT_NAMESPACE": "theirs",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    vault_at(fake).read("wrm/s3")
    assert [bogus in str(request.headers) for request in fake.requests] == [False, False]
    assert ["authorization" in request.headers for request in fake.requests] == [False, False]
    assert ["x-vault-namespace" in request.headers for request in fake.requests] == [False, False]
    assert "x-vault-token" not in fake.requests[0].headers


def test_the_namespace_goes_with_each_request(fake):
    fake.namespace = "bikes"
    vault_at(fake, namespace="bikes").read("wrm/s3")
    assert [request.headers.get("x-vault-namespace") for request in fake.requests] == ["bikes", "bikes"]


def test_a_version_is_written_only_over_the_one_that_was_seen(fake):
    vault = vault_at(fake)
    vault.write("wrm/s3", {"access_key_id": "new"}, version=1)
    assert vault.read("wrm/s3").values() == {"access_key_id": "new"}
    error = error_of(lambda: vault.write("wrm/s3", {"access_key_id": CANARY}, version=1))
    assert type(error) is VaultRefusedError
    assert "check-and-set parameter did not match" in str(error)
    assert fake.version("wrm/s3") == 2


def test_requests_are_counted_as_for_any_other_system(fake):
    counter = RequestCounter()
    fake.play([Answer(502)], then=fake._answer)
    vault_at(fake, on_event=counter).read("wrm/s3")
    assert counter.snapshot().requests == {
        ("vault", "login", "retried"): 1,
        ("vault", "login", "ok"): 1,
        ("vault", "read", "ok"): 1,
    }


# --- What goes wrong ------------------------------------------------------------------------------------------------


def _deleted(fake: FakeVault) -> None:
    fake.delete("wrm/s3")


def _destroyed(fake: FakeVault) -> None:
    fake.delete("wrm/s3", destroy=True)


def _gone(fake: FakeVault) -> None:
    fake._versions.clear()


def _other_mount(fake: FakeVault) -> None:
    fake._mount = "kv"


def _other_namespace(fake: FakeVault) -> None:
    fake.namespace = "bikes"
    fake.tokens[fake.issue_token()] = float("inf")


def _sealed(fake: FakeVault) -> None:
    fake.sealed = True


def _secret_id_used_up(fake: FakeVault) -> None:
    fake.secret_ids = {"secret-id-1": 0}


def _starting(fake: FakeVault) -> None:
    fake.play(then=Answer(503, b"<html>gateway</html>"))


def _standby(fake: FakeVault) -> None:
    fake.play(then=Answer(307, b"", {"Location": "http://127.0.0.1:9/v1/auth/approle/login"}))


def _proxy(fake: FakeVault) -> None:
    fake.play(then=HTML_200)


def _version_1(fake: FakeVault) -> None:
    login = fake._answer

    def answer(request):
        return login(request) if "login" in request.path else Answer(200, b'{"data": {"access_key_id": "x"}}')

    fake.play(then=answer)


@pytest.mark.parametrize(
    ("break_it", "kind", "words", "requests"),
    [
        (_gone, VaultPathMissingError, ["there is nothing", "vault kv put -mount=secret wrm/s3"], 2),
        (_deleted, VaultVersionDeletedError, ["version 1 is deleted", "kv undelete -mount=secret -versions=1"], 2),
        (_destroyed, VaultVersionDeletedError, ["version 1 is destroyed", "Write a new one"], 2),
        (_other_mount, VaultMountError, ["no secrets engine at secret/", "VAULT_MOUNT_POINT"], 2),
        (_version_1, VaultMountError, ["not of KV version 2", "VAULT_MOUNT_POINT"], 2),
        (_other_namespace, VaultMountError, ["VAULT_NAMESPACE"], 1),
        (_secret_id_used_up, VaultLoginError, ["VAULT_SECRET_ID", "vault write -f auth/approle/role/ROLE"], 1),
        (_sealed, VaultSealedError, ["Vault is sealed", "vault operator unseal", "gave up after 3 attempts"], 3),
        (_starting, VaultUnreachableError, ["HTTP 503", "VAULT_ADDR"], 3),
        (_standby, VaultMisdirectedError, ["redirects to another address", "VAULT_ADDR"], 1),
        (_proxy, UnexpectedAnswerError, ["not Vault's", "VAULT_ADDR"], 3),
    ],
)
def test_each_trouble_has_its_own_error_that_names_path_and_remedy(fake, break_it, kind, words, requests):
    break_it(fake)
    error = error_of(lambda: vault_at(fake).read("wrm/s3"))
    assert type(error) is kind
    for word in [*words, "secret/wrm/s3"]:
        assert word in str(error)
    assert len(fake.requests) == requests
    assert "\n" not in str(error)


def test_a_missing_key_names_the_path_and_the_keys_that_are_there(fake):
    error = error_of(lambda: vault_at(fake).read("wrm/s3").require("region_name"))
    assert type(error) is VaultKeyMissingError
    assert f"secret/wrm/s3 at {fake.url}: has no key 'region_name'" in str(error)
    assert "access_key_id, port, secret_access_key" in str(error)
    assert type(error_of(lambda: VaultSecret("p", {}).require("a"))) is VaultKeyMissingError


def test_a_token_that_is_not_valid_says_where_it_came_from(fake):
    error = error_of(
        lambda: vault_at(fake, Token(lambda: CANARY, where="file /run/t (VAULT_TOKEN_FILE)")).read("wrm/s3")
    )
    assert type(error) is VaultLoginError
    assert "file /run/t (VAULT_TOKEN_FILE)" in str(error)


def test_an_unsealed_vault_is_waited_for_within_the_attempts(fake):
    fake.play([Answer(503, b'{"errors":["Vault is sealed"]}')] * 2, then=fake._answer)
    assert vault_at(fake).read("wrm/s3").require("secret_access_key") == CANARY


def test_nobody_listens():
    vault = Vault("http://127.0.0.1:9", AppRole(lambda: "r", lambda: "s"), policy=FAST)
    error = error_of(lambda: vault.read("wrm/s3"))
    assert type(error) is VaultUnreachableError
    assert error.attempts == 3
    assert "VAULT_ADDR" in str(error)


def test_a_black_hole_costs_at_most_ten_seconds_for_all_secrets_together(fake):
    fake.black_hole = True
    vault = vault_at(fake, policy=VAULT_POLICY, sleep=time.sleep)
    started = time.monotonic()
    for path in ("wrm/s3", "wrm/redis", "wrm/alerts"):
        assert type(error_of(lambda path=path: vault.read(path))) is VaultUnreachableError
    assert time.monotonic() - started < VAULT_POLICY.deadline_s


def test_login_and_read_share_one_deadline(fake):
    fake.delay_s = 1.5
    # With 2.8 s of its own, the read would be answered; the rest is room for a busy machine.
    policy = RetryPolicy(attempts=3, deadline_s=2.8, base_wait_s=0, max_wait_s=0, attempt_s=2.8)
    error = error_of(lambda: vault_at(fake, policy=policy).read("wrm/s3"))
    assert type(error) is VaultUnreachableError
    assert fake.asked() in ([LOGIN], [LOGIN, READ])  # the read may be cut off before the fake has noted it


def test_a_slow_vault_is_waited_for(fake):
    fake.delay_s = 0.2
    assert vault_at(fake).read("wrm/s3").require("secret_access_key") == CANARY


def test_a_vault_that_keeps_failing_is_left_alone(fake, tmp_path):
    fake.sealed = True
    for _ in range(5):  # processes: each with its own client, all with the state on the disk
        error_of(lambda: vault_at(fake, breaker=Breakers(tmp_path).of("vault")).read("wrm/s3"))
    count = len(fake.requests)
    error = error_of(lambda: vault_at(fake, breaker=Breakers(tmp_path).of("vault")).read("wrm/s3"))
    assert type(error) is CircuitOpenError
    assert len(fake.requests) == count == 15


def test_a_denial_opens_no_circuit(fake, tmp_path):
    fake.denied.add("wrm/s3")
    for _ in range(6):
        error_of(lambda: vault_at(fake, breaker=Breakers(tmp_path).of("vault")).read("wrm/s3"))
    assert not Breakers(tmp_path).is_open("vault")


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake_tls(tmp_path_factory) -> Iterator[FakeVault]:
    with FakeVault(tls=tmp_path_factory.mktemp("tls")) as server:
        server.put("wrm/s3", access_key_id="k")
        yield server


def test_a_certificate_of_a_ca_of_our_own(fake_tls):
    assert vault_at(fake_tls, verify=fake_tls.ca_file).read("wrm/s3").require("access_key_id") == "k"


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(fake_tls, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", fake_tls.ca_file)  # what lies around is not used here either
    fake_tls.play(then=fake_tls._answer)
    error = error_of(lambda: vault_at(fake_tls).read("wrm/s3"))
    assert type(error) is CertificateError
    assert "certificate of 127.0.0.1 not valid: self-signed certificate" in str(error)
    assert "VAULT_CACERT" in str(error)
    assert fake_tls.requests == []


def test_verification_is_off_only_if_it_is_said(fake_tls):
    assert vault_at(fake_tls, verify=False).read("wrm/s3").require("access_key_id") == "k"
