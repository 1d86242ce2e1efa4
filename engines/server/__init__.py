"""A server of the user's, started and stopped by us."""
