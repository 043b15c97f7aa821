"""`wrm`, the operator's commands: one module for each group. What a command does to the lake is a flow, not here."""
