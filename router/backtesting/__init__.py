"""A whole night played on recorded outcomes."""
