"""When a station is full and when it is empty (data contract, section 3): the only definition, for SQL and Arrow.

Tables, summary, metrics and report use it; JavaScript gets the results as columns.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

IN_WORDS = (
    "Empty: no bike. Full: no free dock. A station without docks, or whose docks or free docks are unknown, is neither."
)

# For a row with these columns of the enhanced rows; never null.
EMPTY_SQL = "coalesce(bikes = 0 AND spaces IS NOT NULL AND total_docks > 0, false)"
FULL_SQL = "coalesce(spaces = 0 AND total_docks > 0, false)"


def empty(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows belong to an empty station, from `bikes`, `spaces` and `total_docks`."""
    known = pc.and_(pc.is_valid(rows["spaces"]), pc.greater(rows["total_docks"], 0))
    return _mask(pc.and_(known, pc.equal(rows["bikes"], 0)))


def full(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows belong to a full station, from `spaces` and `total_docks`."""
    return _mask(pc.and_(pc.equal(rows["spaces"], 0), pc.greater(rows["total_docks"], 0)))


def _mask(found: pa.ChunkedArray) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy()
    return mask
