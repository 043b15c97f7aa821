"""Encrypted files: what goes in comes out, and nothing else does."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrm_pipeline.flows.encrypted_file import (
    CHUNK_BYTES,
    BackupKeyError,
    EncryptedFileError,
    EncryptedReader,
    EncryptedWriter,
    encrypted_with,
    key_id,
    new_key,
    parse_key,
)

KEY = parse_key(new_key())
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]


def encrypt(content: bytes, key: bytes = KEY, *, pieces: int = 100_000) -> bytes:
    target = io.BytesIO()
    with EncryptedWriter(target, key) as writer:
        for start in range(0, len(content), pieces):
            writer.write(content[start : start + pieces])
    return target.getvalue()


def decrypt(encrypted: bytes, key: bytes = KEY) -> bytes:
    return EncryptedReader(io.BytesIO(encrypted), key, "backups/a.sealed").read()


def content_of(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip_at_the_edges_of_chunks(size: int) -> None:
    content = content_of(size)[:size]
    encrypted = encrypt(content)
    assert decrypt(encrypted) == content
    reader = EncryptedReader(io.BytesIO(encrypted), KEY, "a")
    assert b"".join(iter(lambda: reader.read(70_001), b"")) == content
    assert content_of(64)[:64] not in encrypted


def test_two_files_of_the_same_content_have_nothing_in_common() -> None:
    first, second = encrypt(b"\0" * 1000), encrypt(b"\0" * 1000)
    assert first[60:] != second[60:]
    assert encrypted_with(first) == encrypted_with(second) == key_id(KEY)


def test_another_key_is_named_and_not_shown() -> None:
    other = new_key()
    with pytest.raises(BackupKeyError) as caught:
        decrypt(encrypt(b"x"), parse_key(other))
    message = str(caught.value)
    assert key_id(KEY) in message
    assert key_id(parse_key(other)) in message
    assert "WRM_BACKUP_KEY" in message
    assert other not in message


@pytest.mark.parametrize(
    "text",
    ["", "short", "x" * 43 + "!", new_key()[:-2], new_key() + "AA", "hunter2-" * 6],
    ids=["empty", "short", "another letter", "two letters too few", "two too many", "words"],
)
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(BackupKeyError, match="--new-key") as caught:
        parse_key(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("end", [0, 5, 30, 60, CHUNK_BYTES, CHUNK_BYTES + 42 + 16, CHUNK_BYTES * 2 + 42 + 32, -1])
def test_a_file_that_ends_early_says_so(end: int) -> None:
    encrypted = encrypt(content_of(3 * CHUNK_BYTES)[: 3 * CHUNK_BYTES - 5])
    with pytest.raises(EncryptedFileError, match=r"ends early|does not begin like one|ends within it"):
        decrypt(encrypted[:end])


def test_a_file_cut_between_two_chunks_says_that_it_ends_early() -> None:
    encrypted = encrypt(content_of(3 * CHUNK_BYTES)[: 3 * CHUNK_BYTES])
    head = len(encrypt(b"")) - 16
    with pytest.raises(EncryptedFileError, match="ends early"):
        decrypt(encrypted[: head + 2 * (CHUNK_BYTES + 16)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    encrypted = bytearray(encrypt(b"the quick brown fox " * 20))
    position = data.draw(st.integers(0, len(encrypted) - 1))
    encrypted[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EncryptedFileError):
        decrypt(bytes(encrypted))


def test_chunks_that_change_places_are_noticed() -> None:
    encrypted = encrypt(content_of(3 * CHUNK_BYTES)[: 3 * CHUNK_BYTES])
    head, chunk = len(encrypt(b"")) - 16, CHUNK_BYTES + 16
    swapped = encrypted[:head] + encrypted[head + chunk : head + 2 * chunk] + encrypted[head : head + chunk]
    with pytest.raises(EncryptedFileError, match="damaged: its part 1"):
        decrypt(swapped + encrypted[head + 2 * chunk :])


def test_a_writer_that_failed_leaves_no_whole_file() -> None:
    target = io.BytesIO()

    def fail() -> None:
        with EncryptedWriter(target, KEY) as writer:
            writer.write(content_of(CHUNK_BYTES * 2))
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    with pytest.raises(EncryptedFileError, match="ends early"):
        decrypt(target.getvalue())
