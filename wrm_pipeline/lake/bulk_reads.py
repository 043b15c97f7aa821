"""Many objects of a bucket, fast: what boto3 takes 2 ms of processor time for takes obstore (Rust) 0.3 ms.

It only ever says "here it is, checked" or "ask the other way": errors, retries and the circuit breaker have one
meaning, that of `S3ObjectStore.get`, which is asked for whatever did not simply arrive (docs/performance.md has the
comparison).
"""

import hashlib
import threading
from datetime import timedelta
from typing import Any


class BulkReader:
    """One bucket; thread-safe. Connects when it is first used."""

    def __init__(
        self,
        *,
        bucket: str,
        endpoint_url: str | None,
        access_key_id: str,
        secret_access_key: str,
        region_name: str,
        connect_timeout_s: float,
        timeout_s: float,
    ) -> None:
        self._bucket = bucket
        self._config = {
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "region": region_name,
            "virtual_hosted_style_request": False,
            **({"endpoint": endpoint_url} if endpoint_url else {}),
        }
        self._client_options: dict[str, Any] = {
            "allow_http": bool(endpoint_url and endpoint_url.startswith("http://")),
            "connect_timeout": timedelta(seconds=connect_timeout_s),
            "timeout": timedelta(seconds=timeout_s),
        }
        self._lock = threading.Lock()
        self._store: Any = None

    def get(self, key: str) -> bytes | None:
        """The content, length and stored SHA-256 checked; None if it did not come so, for whatever reason."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            answer = obstore.get(self._connected(), key)
            body = bytes(answer.bytes())
        except (BaseError, ValueError, OSError):
            return None
        sha256 = answer.attributes.get("sha256")
        whole = len(body) == answer.meta["size"] and bool(answer.meta["e_tag"])
        if not whole or (sha256 is not None and hashlib.sha256(body).hexdigest() != sha256):
            return None
        return body

    def _connected(self) -> Any:
        with self._lock:
            if self._store is None:
                from obstore import store

                create: Any = store.S3Store  # its types want literals
                self._store = create(
                    self._bucket,
                    client_options=self._client_options,
                    retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
                    **self._config,
                )
            return self._store
