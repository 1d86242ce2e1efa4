"""The job file: read from YAML, checked, and turned into values."""
