"""Encrypted, authenticated files of any length, written and read in one pass.

AES-256-GCM on chunks of 1 MiB (the STREAM construction, as age and Tink use it): each file has a key of its own,
derived from the backup key and a random salt, and each chunk a nonce of its number and whether it is the last. So a
chunk that was changed, moved, left out or cut off does not open, and neither does a file that ends early.

Layout: MAGIC, 8 bytes that identify the key, 16 bytes of salt, then chunks, each with its 16-byte tag. The head is
authenticated with every chunk.
"""

import base64
import binascii
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# The format's name, as it is in existing backups.
MAGIC = b"wrm-sealed-file-1\n"
KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
_TAG_BYTES = 16
_SALT_BYTES = 16
_ID_BYTES = 8
_HEAD_BYTES = len(MAGIC) + _ID_BYTES + _SALT_BYTES


class EncryptedFileError(Exception):
    """An encrypted file cannot be opened; the message says why and what to do."""


class BackupKeyError(EncryptedFileError):
    """The key is malformed, or not the one that the file was encrypted with."""


def new_key() -> str:
    """A random key, as text for a settings file or a password manager."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip("=")


def parse_key(text: str) -> bytes:
    """The 32 bytes of a key that `new_key` made.

    Raises:
        BackupKeyError: the text is not such a key. It is not shown.
    """
    try:
        key = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise BackupKeyError(
            "The backup key is not valid (not shown): it must be the 43 characters that `wrm backup --new-key` prints."
        )
    return key


def key_id(key: bytes) -> str:
    """A public identifier of a key, which reveals nothing about it."""
    return _derive(key, b"", b"wrm key id", _ID_BYTES).hex()


def _derive(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(key)


def _cipher(key: bytes, salt: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derive(key, salt, b"wrm sealed file", KEY_BYTES))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class EncryptedWriter(AbstractContextManager["EncryptedWriter"]):
    """Writes an encrypted file. It is complete only if the `with` block ends without an exception."""

    def __init__(self, target: IO[bytes], key: bytes) -> None:
        salt = os.urandom(_SALT_BYTES)
        self._head = MAGIC + bytes.fromhex(key_id(key)) + salt
        self._cipher = _cipher(key, salt)
        self._target = target
        self._pending = bytearray()
        self._number = 0
        target.write(self._head)

    def write(self, data: bytes) -> int:
        """Add bytes; a chunk is written once the next one has begun."""
        self._pending += data
        while len(self._pending) > CHUNK_BYTES:
            self._put(bytes(self._pending[:CHUNK_BYTES]), last=False)
            del self._pending[:CHUNK_BYTES]
        return len(data)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._head))
        self._number += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._put(bytes(self._pending), last=True)
            self._pending.clear()


class EncryptedReader:
    """Reads an encrypted file; returns only bytes that were authenticated.

    Args:
        source: The file.
        key: As returned by `parse_key`.
        name: For messages.

    Raises:
        EncryptedFileError: it is not an encrypted file, belongs to another key, is damaged or ends early. `read` may
            raise it as well.
    """

    def __init__(self, source: IO[bytes], key: bytes, name: str) -> None:
        self._name = name
        self._head = source.read(_HEAD_BYTES)
        if not self._head.startswith(MAGIC):
            raise EncryptedFileError(
                f"{name} is not a backup made by this program: it does not begin like one. Choose another one."
            )
        if len(self._head) < _HEAD_BYTES:
            raise EncryptedFileError(_ends_early(name))
        encrypted_with = self._head[len(MAGIC) : len(MAGIC) + _ID_BYTES].hex()
        if encrypted_with != key_id(key):
            raise BackupKeyError(
                f"{name} was encrypted with the key {encrypted_with}, and the key given is {key_id(key)}. Set "
                "WRM_BACKUP_KEY (or WRM_BACKUP_KEY_FILE) to the one that was in use when it was taken; "
                "`wrm backup list` shows which."
            )
        self._chunks = self._open(source, _cipher(key, self._head[-_SALT_BYTES:]))
        self._buffer = bytearray()

    def _open(self, source: IO[bytes], cipher: "AESGCM") -> Iterator[bytes]:
        from cryptography.exceptions import InvalidTag

        encrypted, number = source.read(CHUNK_BYTES + _TAG_BYTES), 0
        while True:
            following = source.read(CHUNK_BYTES + _TAG_BYTES)
            if len(encrypted) < _TAG_BYTES:
                raise EncryptedFileError(_ends_early(self._name))
            try:
                yield cipher.decrypt(_nonce(number, last=not following), encrypted, self._head)
            except InvalidTag:
                if not following and self._opens(cipher, number, encrypted):
                    raise EncryptedFileError(_ends_early(self._name)) from None
                raise EncryptedFileError(
                    f"{self._name} is damaged: its part {number + 1} (of 1 MiB each) differs from what was written, or "
                    "the file ends within it. Use an older backup (`wrm backup list`)."
                ) from None
            if not following:
                return
            encrypted, number = following, number + 1

    def _opens(self, cipher: "AESGCM", number: int, encrypted: bytes) -> bool:
        """Whether it is a whole chunk whose successors are missing."""
        from cryptography.exceptions import InvalidTag

        try:
            cipher.decrypt(_nonce(number, last=False), encrypted, self._head)
        except InvalidTag:
            return False
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer than `size` only at the end."""
        while size < 0 or len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        end = len(self._buffer) if size < 0 else size
        taken = bytes(self._buffer[:end])
        del self._buffer[:end]
        return taken


def encrypted_with(head: bytes) -> str | None:
    """The id of the key that a file was encrypted with, from its first bytes; None if it is not an encrypted file."""
    return head[len(MAGIC) : len(MAGIC) + _ID_BYTES].hex() if head.startswith(MAGIC) else None


def _ends_early(name: str) -> str:
    return f"{name} ends early: it was only partly written or fetched. Use an older backup (`wrm backup list`)."
