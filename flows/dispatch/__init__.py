"""Shards on their way to engines and back."""
