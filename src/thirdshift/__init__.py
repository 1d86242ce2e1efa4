"""Thirdshift: a night's worth of LLM requests at the lowest price that clears a quality floor."""
