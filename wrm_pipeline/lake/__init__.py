"""What is kept: object stores, raw objects, spool, published partitions, dead letters. No SQL, no Dagster."""
