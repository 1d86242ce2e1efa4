"""Input as people have it, read, checked and frozen."""
