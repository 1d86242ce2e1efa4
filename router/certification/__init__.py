"""Scores, bounds and certificates."""
