"""`s3_io_manager`: a small value <-> one object in the object store, without pickles."""

from typing import TYPE_CHECKING, Annotated

import dagster as dg
from pydantic import AfterValidator, Field

from wrm_pipeline.domain.configured import folder_prefix
from wrm_pipeline.domain.layout import OWN_FOLDERS, VALUES_FOLDER
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.resources.base import BaseIOManagerFactory
from wrm_pipeline.resources.lake import LakeResource

if TYPE_CHECKING:
    from wrm_pipeline.io_managers.value_objects import ValuesIOManager


def _free_folder(value: str) -> str:
    prefix = folder_prefix(value)
    if prefix.partition("/")[0] in OWN_FOLDERS - {VALUES_FOLDER}:
        raise ValueError("is a folder that the pipeline keeps its own in")
    if not prefix:
        raise ValueError("is empty")
    return prefix


class S3ValuesIOManager(BaseIOManagerFactory):
    """Small values as one object for each asset or partition, in the bucket or the folder of the lake.

    A dict, list, str, int, float, bool or None becomes JSON, a frame (Arrow, pandas, polars) Parquet, bytes are kept as
    they are; a str becomes plain text if the asset's metadata has `format` text. Anything else would need a pickle, and
    is rejected. Keys are those of dagster-aws: `<s3_prefix>/<asset key>/<partition key>`, and an extension for the
    format.
    """

    lake: LakeResource
    s3_bucket: str | None = Field(
        default=None,
        min_length=1,
        description="A bucket other than the lake's, with the credentials of s3_resource",
    )
    s3_prefix: Annotated[str, AfterValidator(_free_folder)] = Field(
        default=f"{VALUES_FOLDER}/", description="The folder of the values, below the lake's prefix"
    )

    @property
    def store(self) -> ObjectStore:
        """The place of the values."""
        if self.s3_bucket is None:
            return self.lake.store
        fields = {name: getattr(self.lake, name) for name in type(self.lake).model_fields}
        return type(self.lake)(**{**fields, "bucket": self.s3_bucket, "folder": None}).store

    def create_io_manager(self, context: dg.InitResourceContext) -> "ValuesIOManager":  # noqa: ARG002 - Dagster's signature
        """The object that a run uses."""
        from wrm_pipeline.io_managers.value_objects import ValuesIOManager

        return ValuesIOManager(self.store, f"{self.lake.prefix}{self.s3_prefix}".rstrip("/"))
