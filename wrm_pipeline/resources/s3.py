"""`s3_resource`: a boto3 client that follows our policy, also used by the lake for its bucket.

It has the fields of dagster-aws's `S3Resource` and becomes one (`resources/dagster_aws_s3.py`) as soon as a client is
requested, or if dagster-aws is loaded already: importing that takes 0.26 s of processor time and 41 MB, an eighth of
the cost of starting a run, and most runs do not need it.
"""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import dagster as dg
from pydantic import Field, SecretStr, model_validator

from wrm_pipeline.analytics.database import S3Access
from wrm_pipeline.clients.outgoing import Policy
from wrm_pipeline.clients.rate import SharedRate
from wrm_pipeline.clients.retry import STORAGE_POLICY, RetryPolicy
from wrm_pipeline.domain.configured import http_url
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.s3_client import DEFAULT_REGION, ClientLogin, create_s3_client, guard
from wrm_pipeline.lake.s3_requests import s3_policy
from wrm_pipeline.lake.s3_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, s3_object_store
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings, SettingsError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from wrm_pipeline.resources.dagster_aws_s3 import GuardedS3Resource

# Maximum number that a client keeps open.
_CONNECTIONS = 20


def _remembered(value: str) -> str:
    remember_secret(value)
    return value


class S3Resource(BaseResource):
    """A boto3 client (`get_client`) with our retries, circuit breaker, rate limit and time-outs.

    Credentials come from Vault or the variables S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY when a client is created;
    without any, boto3 uses its own defaults. The lake uses the same endpoint, credentials and limits.
    """

    vault: VaultResource
    endpoint_url: Annotated[str | None, optional(http_url)] = Field(
        default=None, description="S3_ENDPOINT_URL; null: from Vault, else AWS"
    )
    region_name: str | None = Field(default=None, description="S3_REGION_NAME; null: from Vault, else us-east-1")
    max_attempts: int = Field(
        default=STORAGE_POLICY.attempts, ge=1, description="Requests per call, including the first"
    )
    deadline_s: float = Field(
        default=STORAGE_POLICY.deadline_s, gt=0, description="Seconds per call, including all attempts"
    )
    connect_timeout_s: float = Field(default=CONNECT_TIMEOUT_S, gt=0, description="Seconds for a connection")
    read_timeout_s: float = Field(default=READ_TIMEOUT_S, gt=0, description="Seconds without a byte")
    requests_per_s: int = Field(default=600, ge=1, description="WRM_S3_REQUESTS_PER_S: of the whole machine")
    verify: bool | None = Field(default=None, description="false: certificates are not verified; never in production")
    use_ssl: bool = Field(default=True, description="false: http:// to AWS; an endpoint URL has its own scheme")
    use_unsigned_session: bool = Field(default=False, description="Clients without credentials; not for the lake")
    profile_name: str | None = Field(default=None, description="Clients with credentials of ~/.aws; not for the lake")
    aws_access_key_id: Annotated[str | None, optional(_remembered)] = Field(
        default=None, description="In place of the credentials from Vault or the variables: as EnvVar, never as text"
    )
    aws_secret_access_key: Annotated[str | None, optional(_remembered)] = Field(default=None, description="As EnvVar")
    aws_session_token: Annotated[str | None, optional(_remembered)] = Field(
        default=None, description="As EnvVar; for clients, not for the lake"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource according to the settings."""
        return cls(
            vault=vault or VaultResource.of(settings),
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region_name,
            requests_per_s=settings.s3_requests_per_s,
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.connect_timeout_s + self.read_timeout_s > self.deadline_s:
            raise ValueError(
                f"deadline_s is {self.deadline_s:g}, which connect_timeout_s ({self.connect_timeout_s:g}) and "
                f"read_timeout_s ({self.read_timeout_s:g}) exceed: one attempt must fit into it"
            )
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("aws_access_key_id and aws_secret_access_key belong together: set both, or none")
        return self

    def create_resource(self, context: dg.InitResourceContext) -> "S3Resource":  # noqa: ARG002 - Dagster's signature
        """The object passed to an asset: an instance of dagster-aws's class if that is loaded."""
        return self.as_dagster_aws() if "dagster_aws.s3.resources" in sys.modules else self

    def as_dagster_aws(self) -> "GuardedS3Resource":
        """The same as an instance of dagster-aws's `S3Resource`, for code that insists on one."""
        from wrm_pipeline.resources.dagster_aws_s3 import GuardedS3Resource

        return self if isinstance(self, GuardedS3Resource) else GuardedS3Resource(**dict(self))

    def get_client(self) -> "S3Client":
        """A boto3 client; makes no request, except for its credentials to Vault.

        Calls raise boto3's own exceptions, and `CircuitOpenError` while the circuit is open.

        Raises:
            ExternalError: Vault returned no credentials.
        """
        return self.as_dagster_aws().get_client()

    def create_client(self) -> "S3Client":
        """The client of `get_client`, without loading dagster-aws."""
        login, endpoint, region = self._login(), self.endpoint_url, self.region_name
        found = self._found("") if login is None else None
        if found is not None:
            login = ClientLogin(found.access_key_id, found.secret_access_key)
            endpoint, region = found.endpoint_url, found.region_name
        if endpoint is None and not self.use_ssl:
            endpoint = f"http://s3.{region or DEFAULT_REGION}.amazonaws.com"
        client = create_s3_client(endpoint, region, login or ClientLogin(), self.way(self.policy), _CONNECTIONS)
        return guard(client, policy=self.policy, breaker=connect_breakers(self.settings).of("s3"), rate=self.rate)

    def _login(self) -> ClientLogin | None:
        """The credentials in the fields, if any."""
        if self.use_unsigned_session:
            return ClientLogin(unsigned=True)
        if self.profile_name is not None:
            return ClientLogin(profile_name=self.profile_name)
        if self.aws_access_key_id is not None:
            return ClientLogin(self.aws_access_key_id, self.aws_secret_access_key, self.aws_session_token)
        return None

    def access(self, bucket: str | None) -> S3Access:
        """A bucket's endpoint and credentials; without a name, the bucket of the settings or Vault.

        Raises:
            SettingsError: there are no credentials, or no bucket.
            ExternalError: Vault returned none.
        """
        if self.aws_access_key_id is not None and bucket is not None:
            secret = self.aws_secret_access_key or ""
            return S3Access(bucket, self.endpoint_url, self.aws_access_key_id, secret, self.region_name)
        found = self._found(bucket)
        if found is None:
            raise SettingsError(
                f"There are no credentials for the bucket {bucket!r}. Set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, "
                f"or "
                "VAULT_ADDR, or aws_access_key_id and aws_secret_access_key of the resource `s3_resource`."
            )
        return found

    def _found(self, bucket: str | None) -> S3Access | None:
        """Credentials from Vault or the variables; also their endpoint and region, unless this resource has its own."""
        given, secrets = self.vault.settings, self.vault.secrets
        found = secrets.s3() if bucket in (None, given.bucket_name) else secrets.s3_for(bucket or "")
        if found is None:
            return None
        if self.endpoint_url != given.s3_endpoint_url:
            found = replace(found, endpoint_url=self.endpoint_url)
        if self.region_name != given.s3_region_name:
            found = replace(found, region_name=self.region_name)
        return found

    def connect(self, access: S3Access, policy: RetryPolicy | None = None) -> ObjectStore:
        """An object store in a bucket, by default with `self.policy`; makes no request."""
        chosen = policy or self.policy
        return s3_object_store(
            bucket=access.bucket,
            endpoint_url=access.endpoint_url,
            access_key_id=access.access_key_id,
            secret_access_key=access.secret_access_key,
            region_name=access.region_name,
            breaker=connect_breakers(self.settings).of("s3"),
            policy=chosen,
            way=self.way(chosen),
            rate=self.rate,
        )

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy of a call."""
        return replace(
            STORAGE_POLICY,
            attempts=self.max_attempts,
            deadline_s=self.deadline_s,
            attempt_s=self.connect_timeout_s + self.read_timeout_s,
        )

    def way(self, policy: RetryPolicy) -> Policy:
        """The policy of one request, within an attempt of `policy`."""
        read_s = min(self.read_timeout_s, max(policy.attempt_s - self.connect_timeout_s, 1))
        way = s3_policy(connect_s=self.connect_timeout_s, read_s=read_s, total_s=policy.deadline_s)
        if self.verify is False and self.settings.env == "production":
            raise SettingsError("verify of the resource `s3_resource` is off: in production certificates are verified.")
        return way if self.verify is None else replace(way, verify=self.verify)

    @property
    def rate(self) -> SharedRate:
        """The limit on requests."""
        return SharedRate(self.settings.data_dir / "s3-rate", self.requests_per_s)

    @property
    def settings(self) -> Settings:
        """The settings of this process, with this resource's configuration of the object store."""
        own: dict[str, Any] = {}
        if self.aws_access_key_id is not None:
            own["s3_access_key_id"] = SecretStr(self.aws_access_key_id)
            own["s3_secret_access_key"] = SecretStr(self.aws_secret_access_key or "")
        return self.vault.settings.with_values(
            s3_endpoint_url=self.endpoint_url,
            s3_region_name=self.region_name,
            s3_requests_per_s=self.requests_per_s,
            **own,
        )
