"""Prices, where they are written down, and what is known of models."""
