"""Jobs: which assets run together and how, and operations on the whole installation.

Not here: when they run (`schedules/`, `sensors/`).
"""
