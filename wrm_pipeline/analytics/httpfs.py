"""DuckDB's httpfs: its credentials for the object store, and what restricts it to this store."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wrm_pipeline.analytics.database_files import AnalyticsDatabaseError
from wrm_pipeline.analytics.sql_text import literal
from wrm_pipeline.clients.connections import ca_bundle
from wrm_pipeline.clients.endpoint_proxy import proxy_for
from wrm_pipeline.domain.masking import publish, redact, remember_credentials, remember_secret

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class S3Access:
    """What DuckDB needs to read a bucket directly. Secrets stay in memory, are in no repr, and are masked."""

    bucket: str
    endpoint_url: str | None
    access_key_id: str
    secret_access_key: str
    region_name: str | None

    def __post_init__(self) -> None:
        publish(self.bucket)
        remember_credentials(self.endpoint_url or "")
        remember_secret(self.access_key_id)
        remember_secret(self.secret_access_key)

    def __repr__(self) -> str:
        return redact(f"S3Access({self.bucket!r}, {self.endpoint_url!r})")


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


def give_s3_access(connection: "duckdb.DuckDBPyConnection", s3: S3Access) -> None:
    """Load httpfs from its wheel and create a secret for one bucket, in this connection's memory only.

    It uses a proxy that connects to the endpoint only, since httpfs follows redirects anywhere.
    """
    connection.execute(f"LOAD {literal(str(httpfs_path()))}")
    endpoint = s3.endpoint_url or f"https://s3.{s3.region_name or 'us-east-1'}.amazonaws.com"
    scheme, _, host = endpoint.partition("://")
    options = {
        "KEY_ID": s3.access_key_id,
        "SECRET": s3.secret_access_key,
        "REGION": s3.region_name or "us-east-1",
        "ENDPOINT": host.rstrip("/"),
        "URL_STYLE": "path",
        "SCOPE": f"s3://{s3.bucket}",
    }
    values = ", ".join(f"{name} {literal(value)}" for name, value in options.items())
    use_ssl = "true" if scheme == "https" else "false"
    connection.execute(f"CREATE OR REPLACE TEMPORARY SECRET wrm (TYPE s3, {values}, USE_SSL {use_ssl})")
    for name, value in way_to(endpoint).items():
        connection.execute(f"SET {name} = {literal(value)}")


def httpfs_path() -> Path:
    """The httpfs extension in its wheel.

    Raises:
        AnalyticsDatabaseError: the wheel is missing or for another DuckDB version.
    """
    import duckdb
    import duckdb_extension_httpfs

    folder = Path(duckdb_extension_httpfs.__file__).parent
    found = sorted(folder.rglob(f"v{duckdb.__version__}/**/httpfs.duckdb_extension"))
    if not found:
        raise AnalyticsDatabaseError(
            f"There is no httpfs extension for DuckDB {duckdb.__version__} in {folder}. Install "
            f"duckdb-extension-httpfs=={duckdb.__version__}."
        )
    return found[0]
