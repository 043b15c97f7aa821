"""dagster-aws's S3Resource with our client. Importing this loads boto3: 0.26 s and 41 MB. See `resources/s3.py`."""

from typing import TYPE_CHECKING

from dagster_aws.s3 import S3Resource as DagsterAwsS3Resource

from wrm_pipeline.resources.s3 import S3Resource

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class GuardedS3Resource(S3Resource, DagsterAwsS3Resource):
    """dagster-aws's resource, whose clients follow our policy."""

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def get_client(self) -> "S3Client":
        """See `resources.s3.S3Resource.get_client`."""
        return self.create_client()

    def get_object_to_set_on_execution_context(self) -> "GuardedS3Resource":
        """The resource itself, also for `context.resources`: otherwise each run would create a client, used or not."""
        return self
