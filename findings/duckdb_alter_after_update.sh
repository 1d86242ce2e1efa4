#!/bin/sh
# DuckDB 1.5: within one transaction of one connection, a table that was altered and updated cannot be altered again; the
# commit says that "another transaction" did it. 2.0.1 commits. Guess: one's own changes do not conflict with each other.
# Hits whoever runs several migrations in one transaction. Ours adds the later columns before the update.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" - <<'PY'
import duckdb

con = duckdb.connect()
con.execute("create table t (a integer)")
con.execute("insert into t values (1)")
con.execute("begin")
con.execute("alter table t add column b integer")
con.execute("update t set b = 2")
con.execute("alter table t add column c integer")
try:
    con.execute("commit")
except duckdb.TransactionException as error:
    assert duckdb.__version__ == "1.5.6", f"{duckdb.__version__}: it does not commit any more"
    assert "another transaction has altered this table" in str(error), error
    print(duckdb.__version__, "as found:", str(error).splitlines()[0])
else:
    assert duckdb.__version__ == "2.0.1", f"{duckdb.__version__}: the transaction commits now"
    print(duckdb.__version__, "as found: it commits")

con = duckdb.connect()
con.execute("create table t (a integer)")
con.execute("begin")
con.execute("alter table t add column b integer")
con.execute("alter table t add column c integer")
con.execute("update t set b = 2")
con.execute("alter table t add column if not exists c integer")
con.execute("commit")
PY
done
