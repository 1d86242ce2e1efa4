"""What Prefect adds: artifacts, events, forms, limits across runs."""
