"""Our own signatures are botocore's, and what botocore sends goes nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.clients.outgoing import place_of
from wrm_pipeline.lake.s3_requests import S3Transport, Signer, object_path, s3_policy
from wrm_pipeline.lake.s3_stores import s3_object_store

POLICY = s3_policy(connect_s=1, read_s=1, total_s=1)
ODD_KEYS = [
    "raw/dt=2025-08-21/a.txt",
    "zażółć gęślą/jaźń",
    "a b+c&d=e?f#g%h~i*j'k(l)!m",
    "//a//",
    "\u2028\U0001f6b2",
    "%2e%2e",
]


def botocores(url: str, region: str) -> dict[str, str]:
    request = AWSRequest("GET", url)
    S3SigV4Auth(Credentials("AKID", "secret"), "s3", region).add_auth(request)
    return dict(request.headers.items())


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", "https://s3.example.org", "https://s3.example.org:8443"])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_the_signature_is_that_of_botocore(endpoint, key):
    path = object_path("wrm-lake", key)
    theirs = botocores(endpoint + path, "eu-central-1")
    now = datetime.strptime(theirs["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    host = endpoint.partition("://")[2]
    ours = Signer("AKID", "secret", "eu-central-1").headers("GET", host, path, now)
    assert ours["Authorization"] == theirs["Authorization"]
    assert ours["x-amz-content-sha256"] == theirs["X-Amz-Content-SHA256"]


@pytest.fixture(scope="module")
def client():
    store = s3_object_store(
        bucket="b", endpoint_url="http://127.0.0.1:9", access_key_id="AKID", secret_access_key="secret"
    )
    return store._client_factory()


@given(key=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_keys_are_encoded_as_botocore_does(client, key):
    url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": key})
    assert url.startswith(f"http://127.0.0.1:9{object_path('b', key)}?")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8334/b/k",
        "https://127.0.0.1:8333/b/k",
        "http://127.0.0.2:8333/b/k",
        "http://127.0.0.1:8333@evil.example/b/k",
        "https://s3.eu-central-1.amazonaws.com/b/k",
    ],
)
def test_an_endpoint_is_one_place(url):
    transport = S3Transport("http://127.0.0.1:8333", POLICY, 1)
    transport._check(place_of("http://127.0.0.1:8333/other"))
    with pytest.raises(PermanentError, match="not the configured endpoint"):
        transport._check(place_of(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://s3.eu-central-1.amazonaws.com/b/k",
        "https://s3.eu-central-1.amazonaws.com.evil.example/b/k",
        "https://evilamazonaws.com/b/k",
        "https://127.0.0.1/b/k",
    ],
)
def test_aws_is_its_own_hosts_by_https(url):
    transport = S3Transport(None, POLICY, 1)
    transport._check(place_of("https://s3.eu-central-1.amazonaws.com/b/k"))
    with pytest.raises(PermanentError, match="not the configured endpoint"):
        transport._check(place_of(url))


def test_endpoints_of_the_environment_are_not_used(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    store = s3_object_store(bucket="b", endpoint_url=None, access_key_id="AKID", secret_access_key="secret")
    assert store._client_factory().meta.endpoint_url == "https://s3.amazonaws.com"
