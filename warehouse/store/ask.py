"""Questions in SQL by people: read-only, one statement, nothing but this file.

DuckDB opens the file read-only and is told to reach no other file, no network and no setting; statements that are no
question are refused before that.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path

import duckdb
import pyarrow as pa

from thirdshift.warehouse.errors import AskError, StoreError
from thirdshift.warehouse.store import locks

QUESTIONS = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})
LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
}


def ask(
    path: Path, sql: str, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
) -> pa.Table:
    """The answer to one select.

    Raises AskError: no SQL, several statements, something that is no question, or unknown names. StoreError: no
    warehouse there, or locked for longer than `wait_seconds`.
    """
    locks.check_exists(path)
    _check(sql)
    own = locks.own_lock(path)
    if not own.acquire(timeout=wait_seconds):
        raise StoreError(f"{path} was in use by another thread of this process for {wait_seconds:.0f} s")
    try:
        con = locks.connect(path, read_only=True, config=LOCKED, wait_seconds=wait_seconds, say=say)
        try:
            con.execute("set lock_configuration = true")
            answer = con.execute(sql).to_arrow_table()
            return answer.rename_columns(_apart(answer.column_names))
        finally:
            con.close()
    except duckdb.Error as error:
        raise AskError(sentence(error)) from error
    finally:
        own.release()


def _apart(names: Sequence[str]) -> list[str]:
    """The names with a number behind those that repeat another, as DuckDB itself names the columns of a table."""
    found: dict[str, str] = {}
    for name in names:
        tries = (name if not number else f"{name}_{number}" for number in count())
        apart = next(name for name in tries if name.casefold() not in found)
        found[apart.casefold()] = apart
    return list(found.values())


def boxed(answer: pa.Table, width: int, rows: int) -> str:
    """Return an answer as DuckDB's own shell draws it, no wider than `width` columns: cells are cut, and the columns
    and rows in the middle left out."""
    drawn = io.StringIO()
    with duckdb.connect() as con, redirect_stdout(drawn):
        con.from_arrow(answer).show(max_width=width, max_rows=rows)
    return drawn.getvalue().rstrip()


def _check(sql: str) -> None:
    try:
        with duckdb.connect(config=LOCKED) as con:
            statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise AskError(sentence(error)) from error
    if len(statements) != 1:
        raise AskError(f"one question at a time: that was {len(statements)} statements")
    if statements[0].type not in QUESTIONS:
        raise AskError(
            f"only questions (select …) are answered; {statements[0].type.name} would change something"
        )


def sentence(error: duckdb.Error) -> str:
    """DuckDB's message in one line: without its class, the query's text and the caret under it."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("LINE ", "^"))]
    head, colon, rest = kept[0].partition(": ") if kept else ("", "", "")
    if colon and head.endswith("Error"):
        kept[0] = rest
    return "; ".join(line.rstrip("!.") for line in kept) if kept else "the query failed"
