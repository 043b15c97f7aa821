"""All groups of figures, in the order in which they are measured. One that is added here is judged and kept."""

from wrm_pipeline_tests.bench.measures import Group, density, large_day, small_day, spellings, year_of_history
from wrm_pipeline_tests.bench.ranges import bulk_reads, rebuild, sensor_tick
from wrm_pipeline_tests.bench.runs import queryable, start_up

_ALL: tuple[Group, ...] = (
    small_day,
    large_day,
    density,
    spellings,
    sensor_tick,
    rebuild,
    bulk_reads,
    start_up,
    queryable,
    year_of_history,
)
GROUPS: dict[str, Group] = {group.__name__: group for group in _ALL}

# Left out of a quick run, as they run no code that the others or the tests do not.
SLOW_GROUPS = {large_day.__name__, bulk_reads.__name__, queryable.__name__, year_of_history.__name__}
