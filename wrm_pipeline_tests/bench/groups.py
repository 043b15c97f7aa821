"""All groups of figures, in the order in which they are measured. One that is added here is judged and kept."""

from wrm_pipeline_tests.bench.feeds import feeds
from wrm_pipeline_tests.bench.measures import Group, density, forecast, large_day, small_day, spellings, year_of_history
from wrm_pipeline_tests.bench.ranges import bulk_reads, rebuild, sensor_tick
from wrm_pipeline_tests.bench.runs import queryable, start_up
from wrm_pipeline_tests.bench.service import cities, service

_ALL: tuple[Group, ...] = (
    small_day,
    large_day,
    density,
    spellings,
    sensor_tick,
    rebuild,
    bulk_reads,
    start_up,
    feeds,
    queryable,
    year_of_history,
    forecast,
    service,
    cities,
)
GROUPS: dict[str, Group] = {group.__name__: group for group in _ALL}

# Left out of a quick run, as they run no code that the others or the tests do not.
_SLOW = (large_day, bulk_reads, queryable, forecast, service, cities)
SLOW_GROUPS = {group.__name__ for group in _SLOW}
