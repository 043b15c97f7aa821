"""`wrm`, the operator's commands: one module per group of commands. What a command does to the lake is in `flows/`."""
