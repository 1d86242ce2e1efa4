"""The DuckDB file: its schema, one module per table, questions."""
