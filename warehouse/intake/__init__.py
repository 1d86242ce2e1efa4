"""A job's input: read as people have it, checked row by row, and frozen."""
