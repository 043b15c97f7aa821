"""What assets and commands do, in plain Python: each flow combines the domain, the clients and the lake.

Not here: Dagster declarations (`assets/`, `sensors/`, …), single outside systems (`clients/`), pure rules (`domain/`).
"""
