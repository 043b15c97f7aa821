"""Values of the cache as bytes: JSON, Arrow tables or bytes, no pickles, each signed."""

import hmac
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """Converts values to bytes and back; `decode` raises for anything that `encode` did not produce."""

    tag: bytes
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


def _table_to_bytes(table: "pa.Table") -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _table_from_bytes(data: bytes) -> "pa.Table":
    import pyarrow as pa

    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _json_to_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _any_to_bytes(value: Any) -> bytes:
    """A letter for the type, then the value."""
    if isinstance(value, bytes):
        return b"b" + value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind == "pyarrow.lib.Table":
        return b"a" + _table_to_bytes(value)
    if kind == "pandas.core.frame.DataFrame" or kind == "pandas.DataFrame":
        import pyarrow as pa

        return b"p" + _table_to_bytes(pa.Table.from_pandas(value))
    try:
        text = _json_to_bytes(value)
    except (TypeError, ValueError) as error:
        raise TypeError(_NO_PICKLES.format(kind)) from error
    if json.loads(text) != value:  # keys that are not text, tuples
        raise TypeError(_NO_PICKLES.format(kind))
    return b"j" + text


_NO_PICKLES = (
    "a {} cannot be kept without a pickle. Keep bytes, text, numbers, lists, dicts with text as keys, an Arrow table "
    "or a pandas frame"
)


def _any_from_bytes(data: bytes) -> Any:
    kind, content = data[:1], data[1:]
    if kind == b"b":
        return content
    if kind == b"j":
        return json.loads(content)
    table = _table_from_bytes(content)
    return table.to_pandas() if kind == b"p" else table


BYTES: Codec[bytes] = Codec(b"b", bytes, bytes)
JSON: Codec[Any] = Codec(b"j", _json_to_bytes, json.loads)
ARROW: Codec["pa.Table"] = Codec(b"a", _table_to_bytes, _table_from_bytes)
ANY: Codec[Any] = Codec(b"v", _any_to_bytes, _any_from_bytes)
"""Any of the three, or a pandas frame; the type is part of the value."""

_MAGIC = b"wrm1"
# Magic, tag, end of life in Unix seconds, HMAC-SHA256.
_HEAD_BYTES, _SIGNATURE_BYTES = 4 + 1 + 8, 32


class InvalidSignatureError(ValueError):
    """A value that we did not write, or that was damaged since."""


def signed(signing_key: bytes, name: str, tag: bytes, ends_at: int, payload: bytes) -> bytes:
    """The stored form of a value: magic, tag, expiry (`ends_at`, Unix seconds), signature, content."""
    head = _MAGIC + tag + ends_at.to_bytes(8, "big")
    return head + _signature(signing_key, name, head, payload) + payload


def verified(signing_key: bytes, name: str, tag: bytes, data: bytes, now: float) -> bytes | None:
    """The content; None if it has expired.

    Raises:
        InvalidSignatureError: it was not written by us, or was damaged.
    """
    head, signed = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
    signature, payload = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    if head[:5] != _MAGIC + tag or not hmac.compare_digest(signature, _signature(signing_key, name, head, payload)):
        raise InvalidSignatureError(f"{len(data)} bytes that this pipeline did not write, or that were damaged since")
    return payload if int.from_bytes(head[5:], "big") > now else None


def _signature(signing_key: bytes, name: str, head: bytes, payload: bytes) -> bytes:
    digest = hmac.new(signing_key, name.encode() + b"\0" + head, "sha256")
    digest.update(payload)
    return digest.digest()
