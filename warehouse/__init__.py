"""What is known and what it cost: Parquet in, a journal and parts while the night goes on, DuckDB to ask."""
