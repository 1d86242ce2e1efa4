"""What is known and what it cost: Parquet in, a journal and parts while a run goes on, DuckDB for queries."""
