"""Dagster's specs of all assets, for the assets that describe the others."""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from wrm_pipeline.analytics.catalog import AssetFacts


@dataclass(frozen=True, slots=True)
class AssetGraph:
    """The assets of the code location, in its order."""

    assets: tuple[AssetFacts, ...]

    @classmethod
    def of(cls, definitions: Iterable[dg.AssetsDefinition]) -> "AssetGraph":
        """Read their specs."""
        return cls(tuple(_facts(spec) for definition in definitions for spec in definition.specs))


def _facts(spec: dg.AssetSpec) -> AssetFacts:
    return AssetFacts(
        name=spec.key.path[-1],
        description=spec.description or "",
        layer=spec.tags.get("layer", spec.group_name or ""),
        owner=", ".join(owner.removeprefix("team:") for owner in spec.owners),
        sources=tuple(dep.asset_key.path[-1] for dep in spec.deps),
    )
