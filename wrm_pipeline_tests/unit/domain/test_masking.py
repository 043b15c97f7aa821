"""What is taken for a secret, in whatever spelling; what is not; and all ways out of a process."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.domain import masking
from wrm_pipeline.domain.masking import MASK, publish, redact, redact_bytes, remember_secret, scrub
from wrm_pipeline_tests.fixtures.canaries import SPELLINGS, shows

# With all that is written differently somewhere.
SECRET = "aB3/x+9\"k&'Zq 7=wE\\rT-żó%41"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_masked_however_it_is_spelled(spelling: str) -> None:
    text = f"the answer was {SPELLINGS[spelling](SECRET)}, and that is all"
    assert shows(text, SECRET), "the test's own eye"
    remember_secret(SECRET)
    masked = redact(text)
    assert not shows(masked, SECRET), masked
    assert MASK in masked
    assert masked.startswith("the answer was ")
    assert masked.endswith(" and that is all")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z", "Cf"]), min_size=12, max_size=60),
    st.sampled_from(sorted(SPELLINGS)),
    st.text('ab {}"\\\n%&;=x7', max_size=30),
)
def test_any_secret_in_any_spelling(secret: str, spelling: str, around: str) -> None:
    before = masking._register
    masking._register = masking.Register()
    try:
        remember_secret(secret)
        masked = redact(f"{around}|{SPELLINGS[spelling](secret)}|{around}")
        telling = [p for p in masking._windows(secret) if masking._register._is_telling(p)]
        squeezed = "".join(masked.split())
        assert not any(part in squeezed for part in telling)
    finally:
        masking._register = before


@given(st.text(max_size=300))
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    remember_secret("Zx81-correct-horse-4711")
    if "://" not in text and "=" not in text and "uth" not in text and "-key" not in text.lower():
        assert redact(text) == text
        assert redact_bytes(text.encode()) == text.encode()


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("abc12", "abc12 is too short to hide anything"),
        ("postgres", "connect to postgresql at postgres:5432 as postgres"),
        ("minioadmin", "minioadmin"),
        ("2025-08-21-xY7!", "raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt"),
        ("wrm_pipeline-9f3K", "File wrm_pipeline/flows/ingest.py in wrm_pipeline.flows"),
        ("aaaaaaaaaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaa"),
        ("key-of-my-bucket-7Q", "s3://my-bucket/raw"),
    ],
)
def test_what_anybody_knows_is_shown(secret: str, text: str) -> None:
    publish("my-bucket")
    remember_secret(secret)
    assert redact(text) == text


def test_a_secret_is_masked_as_a_whole_even_where_its_parts_are_public() -> None:
    remember_secret("wrm_pipeline-9")
    publish("wrm_pipeline-9-host")
    remember_secret("20250821-13")
    assert redact("wrm_pipeline-9 and 20250821-13, 20250821") == "*** and ***, 20250821"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("get https://me:pw@host/x", "get https://***@host/x"),
        ("get https://me:p@w@host/x", "get https://***@host/x"),
        ("redis://:x@h:6379/0", "redis://***@h:6379/0"),
        ("GET http://h/x?scheme=wroclaw&token=abc&b=1", "GET http://h/x?scheme=wroclaw&token=***&b=1"),
        ("http://h/?api_key=1#x", "http://h/?api_key=***#x"),
        ("http://h/?X-Amz-Signature=00ff&X-Amz-Date=1", "http://h/?X-Amz-Signature=***&X-Amz-Date=1"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        ("X-Vault-Token: hvs.x", "X-Vault-Token: ***"),
        ("said hvs.CAESIJlWh4xQ0f3nqZ7tC1pK, and", "said ***, and"),
        ("is AKIAIOSFODNN7EXAMPLE known?", "is *** known?"),
        ("http://h/?list-type=2&max-keys=1000&prefix=raw/", "http://h/?list-type=2&max-keys=1000&prefix=raw/"),
        ("mail ops@example.org, see https://example.org", "mail ops@example.org, see https://example.org"),
    ],
)
def test_credentials_are_masked_by_their_place_without_being_known(text: str, masked: str) -> None:
    assert redact(text) == masked


def test_a_webhooks_path_is_a_secret_and_its_host_is_not() -> None:
    remember_secret("https://hooks.example.org/services/T0123/B0456/kQ7dZx3vLm9p")
    text = redact("POST hooks.example.org/services/T0123/B0456/kQ7dZx3vLm9p, then kQ7dZx3vLm9p; services run")
    assert text == "POST hooks.example.org***, then ***; services run"


def test_bytes_that_are_no_text_keep_what_they_are_but_for_the_secret() -> None:
    remember_secret("Zx81-correct-horse")
    assert redact_bytes(b"\xff\x00 Zx81-correct-horse \xfe") == b"\xff\x00 *** \xfe"
    assert redact_bytes(b"\xff\x00\xfe") == b"\xff\x00\xfe"


def test_an_error_is_masked_where_it_is_made_and_so_is_what_led_to_it() -> None:
    remember_secret("Zx81-correct-horse")
    inner = OSError(5, "no Zx81-correct-horse", "/x/Zx81-correct-horse")
    outer = ValueError("Zx81-correct", inner, b"Zx81-correct-horse", ("Zx81-correct-horse", 1))
    outer.add_note("Zx81-correct-horse")
    outer.__cause__ = RuntimeError("Zx81-correct-horse")
    scrub(outer)
    assert "correct" not in f"{outer!r} {outer.__notes__} {outer.__cause__!r} {inner} {inner.filename}"
    error = PermanentError(
        "HTTP 403 Zx81-correct-horse", "s3", "get", "http://a:b@h/Zx81-correct-horse", "see Zx81-corr"
    )
    assert str(error) == "s3 get http://***@h/***: HTTP 403 ***. see ***"
    assert "correct" not in repr(error.args)


# --- Ways out of a process ------------------------------------------------------------------------------------------

GUARDED = """
import logging, sys, threading, warnings
early = logging.StreamHandler()  # as Dagster makes them, before any code of ours is there
logging.getLogger("early").addHandler(early)
from wrm_pipeline.logs import guard_process
from wrm_pipeline.domain.masking import remember_secret
guard_process(); guard_process()
S = sys.argv[1]
remember_secret(S)
def fail(): raise RuntimeError(f"thread {S}") from ValueError(repr(S))
print("print", S, {"k": S})
print("error", S, file=sys.stderr)
sys.stdout.writelines([S, "\\n"])
logging.getLogger("early").error("%s and %d", S, 1)
logging.getLogger("late").error("exc %s", 1, exc_info=ValueError(S))
logging.getLogger("late").error("not %d right", S)
warnings.warn(f"warning {S}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
import os
assert os.environ["SOME_API_TOKEN"] == "tok-Q7dZx3vLm9p"
print(os.environ["SOME_API_TOKEN"])
print("END", file=sys.stderr)
fail()
"""


def test_nothing_that_a_process_prints_logs_or_dies_of_shows_a_secret() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, "Zx81-correct-horse-4711"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "SOME_API_TOKEN": "tok-Q7dZx3vLm9p",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "END" in said
    assert said.count(MASK) >= 10
    assert not shows(said, "Zx81-correct-horse-4711"), said
    assert "Q7dZx3vLm9p" not in said


def test_a_guarded_process_leaves_no_core_dump() -> None:
    script = (
        "from wrm_pipeline.logs import guard_process as g; g(); import resource as r; print(r.getrlimit(r.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"


def test_a_log_record_keeps_its_arguments_for_formatters_that_want_them(caplog: pytest.LogCaptureFixture) -> None:
    from wrm_pipeline.logs import guard_process

    guard_process()
    remember_secret("Zx81-correct-horse")
    logging.getLogger("access").warning('%s - "%s %s" %d', "h:1", "GET", "/?x=Zx81-correct-horse", 200)
    (record,) = caplog.records
    assert record.args == ("h:1", "GET", "/?x=***", 200)
    assert record.getMessage() == 'h:1 - "GET /?x=***" 200'
