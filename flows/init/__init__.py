"""A job file for the data at hand."""
