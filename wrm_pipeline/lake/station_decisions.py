"""What people decided about stations: one object for each decision, never changed and never removed."""

import hashlib
from dataclasses import dataclass, field

from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.station_decisions import Decision
from wrm_pipeline.lake.object_store import ObjectStore


class DecisionNotKeptError(PermanentError):
    """Another decision has the same name."""


@dataclass(frozen=True, slots=True)
class KeptDecisions:
    """All decisions in the lake.

    Attributes:
        decisions: In the order in which they were made.
        unreadable: Why an object is not one, by its key.
        identity: Changes with any of them.
    """

    decisions: list[Decision] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True, slots=True)
class StationDecisions:
    """The decisions in a lake."""

    store: ObjectStore
    layout: Layout

    def read(self) -> KeptDecisions:
        """All of them; a listing, and a request for each.

        Raises:
            ExternalError: the store failed.
        """
        infos = [i for i in self.store.list(self.layout.station_decisions_prefix) if i.key.endswith(".json")]
        kept = KeptDecisions(identity=hashlib.sha256(repr([(i.key, i.etag) for i in infos]).encode()).hexdigest()[:16])
        for key, body in self.store.get_many(info.key for info in infos):
            try:
                kept.decisions.append(Decision.from_json(body))
            except ValueError as error:
                kept.unreadable[key] = str(error)
        return kept

    def add(self, decision: Decision) -> str:
        """Keep a decision; returns its key.

        Raises:
            DecisionNotKeptError: one was made in the same microsecond.
            ExternalError: the store failed.
        """
        key = self.layout.station_decision_key(decision.decided_at)
        if not self.store.put_if_absent(key, decision.to_json()):
            raise DecisionNotKeptError(
                "another decision was made at this moment", self.store.name, "put", key, "Decide again"
            )
        return key
