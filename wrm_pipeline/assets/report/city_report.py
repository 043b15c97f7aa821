"""The report: pages for people, made from the tables."""

from contextlib import ExitStack
from functools import partial

import dagster as dg

from wrm_pipeline.analytics.database import query_arrow
from wrm_pipeline.analytics.database_catalog import existing_columns, existing_tables
from wrm_pipeline.assets.presentation import page
from wrm_pipeline.assets.report.data_catalog import data_catalog
from wrm_pipeline.report.answers import Answers
from wrm_pipeline.report.site import PAGES, build_site
from wrm_pipeline.report.site_files import publish_site
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made

# Below the folder of all reports, locally and in the store.
SITE = "site/"


@dg.asset(
    deps=[data_catalog],
    group_name="reports",
    kinds={"html"},
    owners=["team:wrm"],
    tags={"layer": "report"},
    description=(
        "The report for people: the city now, a day, stations, rides, planning, how good the figures are, data "
        "quality, catalog and lineage, in Polish and English. A static site that opens from disk and needs no "
        "network; written to `$WRM_DATA_DIR/reports/site/` and to `reports/site/` in the object store, only what "
        "changed. A page says so if a table or column that it needs does not exist yet."
    ),
)
def city_report(
    context: dg.AssetExecutionContext, lake: LakeResource, clock: ClockResource
) -> dg.MaterializeResult[None]:
    """Query the tables, build the files, write what changed."""
    with ExitStack() as stack:
        answers = Answers()
        if lake.database.path.exists():
            connection = stack.enter_context(lake.database.reading())
            existing = existing_tables(connection) | existing_columns(connection)
            answers = Answers(existing, partial(query_arrow, connection))
        site = build_site(answers, lake.area, clock.now())
    folder = lake.settings.reports_dir / SITE
    prefix = lake.layout.report_key(SITE)
    with record_requests_on_failure(context):
        written = publish_site(site, folder, lake.store, prefix)
    return dg.MaterializeResult(
        metadata={
            **{f"page_{name}": page(lake, f"{SITE}{each.file}") for name, each in PAGES.items()},
            "on_disk": dg.MetadataValue.path(str(folder / PAGES["city"].file)),
            "files": written.files,
            "bytes": written.bytes,
            "files_written": written.written_to_store,
            "bytes_written": written.bytes_to_store,
            "missing_tables": sorted(answers.missing),
            **requests_made(),
        }
    )
