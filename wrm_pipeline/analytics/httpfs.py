"""How DuckDB's httpfs asks the object store, and nobody else."""

import os
from pathlib import Path

from wrm_pipeline.clients.connections import ca_bundle
from wrm_pipeline.clients.endpoint_proxy import proxy_for


def way_to(endpoint_url: str) -> dict[str, str]:
    """Settings of httpfs for one endpoint: by our proxy, with certificates checked as for all other clients."""
    # curl heeds NO_PROXY and would go past the proxy; the other implementation does not, and is slower with it.
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
