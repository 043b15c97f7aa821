"""Kinds of feeds: names of their raw objects, and what turns their bodies into the lines that the parser reads."""

from wrm_pipeline.domain.feeds.kinds import KINDS, UCL, FeedKind, kind_of

__all__ = ["KINDS", "UCL", "FeedKind", "kind_of"]
