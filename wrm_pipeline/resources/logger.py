"""`structlog`: log lines of any asset that say which run, asset and partition they are from."""

import logging
from typing import Any

import dagster as dg
import structlog
from pydantic import Field

from wrm_pipeline import logs
from wrm_pipeline.resources.base import BaseResource

# Below it are all that Dagster takes into its event log; no module has this name.
_NAME = f"{logs.LOGGER_NAME}.structlog"


class StructlogResource(BaseResource):
    """Structured log lines, in the run's log in the UI and in `$WRM_DATA_DIR/logs`; known secrets are masked."""

    level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="Lines below it are left out"
    )
    correlation_id: str | None = Field(
        default=None,
        description="Ties lines to those of other systems; null: the run's id, which requests to the feed have",
    )

    def get_logger(self, **context: Any) -> structlog.stdlib.BoundLogger:
        """A logger whose lines have `run_id`, `asset`, `partition` and `correlation_id` of the asset that runs now.

        They also have `context`, which may replace these. Outside of a run they have `context` alone.
        """
        logging.getLogger(_NAME).setLevel(self.level.upper())
        return logs.get_logger(_NAME).bind(**self._of_run() | context)

    def _of_run(self) -> dict[str, str]:
        try:
            context = dg.OpExecutionContext.get()
        except dg.DagsterInvariantViolationError:
            return {}
        assets = sorted(key.to_user_string() for key in context.selected_asset_keys)
        found = {"run_id": context.run_id, "asset": ", ".join(assets) or context.op.name}
        if context.has_partition_key:
            found["partition"] = context.partition_key
        elif context.has_partition_key_range:
            days = context.partition_key_range
            found["partition"] = f"{days.start}...{days.end}"
        return found | {"correlation_id": self.correlation_id or context.run_id}
