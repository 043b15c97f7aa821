"""The fault matrix: what is done to the pipeline, and that nothing is lost or counted twice.

`make faults` runs it and prints a table. `world.py` is the pipeline with strings to pull and the verifier that each
scenario ends with; `oracle.py` says independently what must have been published.
"""
