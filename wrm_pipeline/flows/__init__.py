"""What the assets do, in plain Python: each flow combines clients and domain, and knows no Dagster."""
