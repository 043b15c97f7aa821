"""Options of the search for anomalies; apart from it (anomalies.py), as settings must not import numpy."""

from dataclasses import dataclass

ROBUST_Z, ISOLATION_FOREST = "robust_z", "isolation_forest"
DEFAULT_METHOD = ROBUST_Z

# The forest's threshold is the score exceeded by this share of the hours of the days before.
DEFAULT_CONTAMINATION = 0.0005
MAX_CONTAMINATION = 0.5  # scikit-learn's own limit


@dataclass(frozen=True, slots=True)
class AnomalyOptions:
    """How anomalies are found: `method` is ROBUST_Z or ISOLATION_FOREST; the forest alone has `contamination`."""

    method: str = DEFAULT_METHOD
    contamination: float = DEFAULT_CONTAMINATION

    def __str__(self) -> str:
        """Identifies a set of results; default options are omitted, as before there was a choice."""
        usual = self.method == ROBUST_Z or self.contamination == DEFAULT_CONTAMINATION
        return self.method if usual else f"{self.method}:{self.contamination:g}"
