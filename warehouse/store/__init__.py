"""The DuckDB file: its schema, a module of functions for each table, read-only queries."""
