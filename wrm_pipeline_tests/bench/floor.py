"""A code location with two jobs that do nothing, each once a minute: what Dagster itself costs at this pace."""

import dagster as dg


@dg.op
def nothing() -> None:
    pass


@dg.job(executor_def=dg.in_process_executor)
def first() -> None:
    nothing()


@dg.job(executor_def=dg.in_process_executor)
def second() -> None:
    nothing()


defs = dg.Definitions(
    schedules=[
        dg.ScheduleDefinition(job=job, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
        for job in (first, second)
    ]
)
