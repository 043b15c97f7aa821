"""How anomalies are found. Apart from their search (anomalies.py), which needs numpy: the settings are read before."""

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
        """What tells one set of results from another; without the default, as it was before there was a choice."""
        usual = self.method == ROBUST_Z or self.contamination == DEFAULT_CONTAMINATION
        return self.method if usual else f"{self.method}:{self.contamination:g}"
