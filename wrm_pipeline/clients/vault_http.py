"""How hvac's requests to Vault are sent: by `requests`' interface, but with our transport and its policy."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

from wrm_pipeline.clients import outgoing, retry


class RefusedError(Exception):
    """An answer other than JSON with 200, or 204; contains nothing from the request."""

    def __init__(self, status: int, body: Any, retry_after_s: float | None) -> None:
        super().__init__(status)
        content = body if isinstance(body, dict) else {}
        self.status = status
        self.errors = [" ".join(str(line).split()) for line in content.get("errors") or ()]
        self.metadata: Mapping[str, Any] = (content.get("data") or {}).get("metadata") or {}
        self.retry_after_s = retry_after_s


def create_transport() -> Any:
    """A transport for `requests`; each request uses the policy that is set before it."""
    import requests

    class Transport(requests.adapters.BaseAdapter):
        policy: outgoing.Policy

        def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
            headers, body = dict(request.headers), request.body
            sent = body.encode() if isinstance(body, str) else body
            url = request.url or ""
            answer = outgoing.request(self.policy, request.method or "GET", url, headers=headers, body=sent)
            response = requests.Response()
            response.status_code, response.reason = answer.status_code, answer.reason
            response.headers.update(answer.headers)
            response.raw, response.url, response.request = io.BytesIO(answer.body), url, request
            return response

        def close(self) -> None:
            """Nothing is kept open."""

    return Transport()


@cache
def adapter_class() -> type[Any]:
    """Hvac's adapter, with the details that its exceptions omit."""
    import hvac  # type: ignore[import-untyped]

    class Adapter(hvac.adapters.RawAdapter):  # type: ignore[misc]
        def request(self, method: str, url: str, **kwargs: Any) -> Any:
            response = super().request(method, url, **kwargs | {"raise_exception": False})
            if response.status_code == 204:
                return {}
            try:
                body = response.json()
            except ValueError:
                body = None
            if response.status_code != 200 or not isinstance(body, dict):
                raise RefusedError(response.status_code, body, retry.retry_after_s(response.headers))
            return body

        def get_login_token(self, response: Any) -> str:
            return str(response["auth"]["client_token"])

    return Adapter
