"""Restricts DuckDB's httpfs to the object store."""

import os
from pathlib import Path

from wrm_pipeline.clients.connections import ca_bundle
from wrm_pipeline.clients.endpoint_proxy import proxy_for


def way_to(endpoint_url: str) -> dict[str, str]:
    """Settings of httpfs for one endpoint: through our proxy, with certificates checked as in all other clients."""
    # curl respects NO_PROXY and would bypass the proxy; the other implementation does not.
    leaves_out = bool(os.environ.get("NO_PROXY") or os.environ.get("no_proxy"))
    bundle = os.environ.get("AWS_CA_BUNDLE") or ca_bundle()
    return {
        "http_proxy": proxy_for(endpoint_url),
        "httpfs_client_implementation": "httplib" if leaves_out else "curl",
        "httpfs_connection_caching": "true",
        "enable_server_cert_verification": "true",
        "enable_curl_server_cert_verification": "true",
        **({"ca_cert_file": bundle} if bundle and Path(bundle).is_file() else {}),
    }
