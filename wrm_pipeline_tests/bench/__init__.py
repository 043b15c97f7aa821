"""`make bench`: what the pipeline costs, as ratios within one run. See docs/performance.md."""
