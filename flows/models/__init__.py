"""Prices and models known on this machine."""
