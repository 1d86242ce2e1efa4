"""Answer a person's SQL query: read-only, one statement, nothing but this file.

DuckDB opens the file read-only and may reach no other file, no network and no setting; statements that are no
question are refused before that.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import duckdb
import pyarrow as pa

from thirdshift.warehouse.errors import AskError
from thirdshift.warehouse.store import locks

QUESTIONS = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})
LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
}


def ask(
    path: Path, sql: str, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
) -> pa.Table:
    """Return the answer to one select.

    Raises AskError: no SQL, several statements, something that is no question, or unknown names. StoreError: no
    warehouse there, or locked for longer than `wait_seconds`.
    """
    locks.check_exists(path)
    _check(sql)
    try:
        with locks.opened_read_only(path, config=LOCKED, wait_seconds=wait_seconds, say=say) as con:
            con.execute("set lock_configuration = true")
            return con.execute(sql).to_arrow_table()
    except duckdb.Error as error:
        raise AskError(sentence(error)) from error


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
    """Return DuckDB's message in one line: without its class, the query's text and the caret under it."""
    lines = [line.strip() for line in str(error).splitlines()]
    message_lines = [line for line in lines if line and not line.startswith(("LINE ", "^"))]
    head, colon, rest = message_lines[0].partition(": ") if message_lines else ("", "", "")
    if colon and head.endswith("Error"):
        message_lines[0] = rest
    return "; ".join(line.rstrip("!.") for line in message_lines) if message_lines else "the query failed"
