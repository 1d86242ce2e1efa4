"""The job file: from YAML to values."""
