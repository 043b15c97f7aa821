"""Kinds of feeds: names of their raw objects, and translation of their bodies into lines for the parser."""

from wrm_pipeline.domain.feeds.kinds import KINDS, UCL, FeedKind, kind_of, named_kinds

__all__ = ["KINDS", "UCL", "FeedKind", "kind_of", "named_kinds"]
