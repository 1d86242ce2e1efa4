"""What is known and what it cost: Parquet in, a journal and parts while a run goes on, DuckDB for queries."""

import warnings

warnings.filterwarnings("ignore", message="Arrow output on a DB-API result", category=UserWarning)
# DuckDB 2 would rather have `con.sql(…)`, which it refuses while an earlier result is unread; the copy that it warns of is
# of what is asked for, and no line for people
