"""Providers' batch tiers."""
