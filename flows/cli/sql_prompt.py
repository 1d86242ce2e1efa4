"""`sql` without a question: a prompt on the warehouse, or the statements that come on stdin.

The file is opened for each question alone, so that a run beside it is never kept waiting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from thirdshift.flows.cli.sql import show_sql
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import printable
from thirdshift.flows.models.registry import home
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory

HELP = """\
A question ends with a semicolon and may run over several lines: select endpoint, sum(cost_usd) from ledger group by all;
Only questions are answered: nothing here changes the warehouse. Tab completes tables, columns and keywords.
.tables    what there is to ask        .help    this        .exit    leave (so does Ctrl-D)"""
KEYWORDS = (
    "select", "from", "where", "group by all", "order by", "limit", "join", "left join", "using", "on", "and", "or", "not",
    "as", "distinct", "case", "when", "then", "else", "end", "is null", "is not null", "in", "like", "between", "with",
    "having", "qualify", "over", "partition by", "desc", "asc", "count(*)", "sum(", "avg(", "min(", "max(", "round(",
    "filter (where ", "describe", "union all",
)  # fmt: skip
COLUMNS = """
select table_name, column_name from duckdb_columns() where not internal and database_name = current_database()
order by table_name, column_index
"""


def converse(warehouse: Path, *, as_json: bool) -> int:
    """Answer questions until there are no more; 0. Raises UserError: one on stdin is wrong, or there is no warehouse."""
    if not sys.stdin.isatty():
        return from_stream(sys.stdin, warehouse, as_json=as_json)
    names = _names(warehouse)
    print(f"{warehouse}: {len(names)} tables and views; .help says more", file=sys.stderr)
    return prompted(warehouse, names, as_json=as_json)


def from_stream(stream: TextIO, warehouse: Path, *, as_json: bool) -> int:
    """Every statement of a text in turn; the first that is wrong ends it."""
    whole, rest = statements(stream.read())
    asked = [statement for statement in [*whole, rest] if statement.strip()]
    if not asked:
        raise UserError(
            "nothing was asked: give a question, statements on stdin, or a terminal for the prompt"
        )
    for statement in asked:
        show_sql(statement, warehouse, as_json=as_json)
    return 0


def prompted(warehouse: Path, names: Mapping[str, list[str]], *, as_json: bool) -> int:
    """Ask and answer on a terminal. A question that is wrong is told, and the next may come."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition

    unfinished = Condition(lambda: not finished(get_app().current_buffer.text))
    session: PromptSession[str] = PromptSession(
        history=_history(), completer=_completer(names), multiline=unfinished, complete_while_typing=False,
        prompt_continuation="   ...> ",
    )  # fmt: skip
    while True:
        try:
            text = session.prompt("thirdshift> ").strip()
            if text in (".exit", ".quit", "exit", "quit"):
                return 0
            _answered(text, warehouse, names, as_json=as_json)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0


def _answered(text: str, warehouse: Path, names: Mapping[str, list[str]], *, as_json: bool) -> None:
    if text == ".help":
        print(HELP)
    elif text == ".tables":
        print("\n".join(f"{name}: {', '.join(columns)}" for name, columns in names.items()))
    elif text.startswith("."):
        print(f"there is no {printable(text)}; .help says what there is", file=sys.stderr)
    else:
        for statement in statements(text)[0]:
            try:
                show_sql(statement, warehouse, as_json=as_json)
            except UserError as error:
                print(printable(str(error)), file=sys.stderr)


def finished(text: str) -> bool:
    """Whether Enter sends it: nothing, a command with a dot, or statements to their last semicolon."""
    bare = text.strip()
    if not bare or bare.startswith(".") or bare in ("exit", "quit"):
        return True
    whole, rest = statements(text)
    return bool(whole) and not rest.strip()


def statements(text: str) -> tuple[list[str], str]:
    """The statements that end with a semicolon, and what follows the last; none ends within quotes or a comment."""
    whole, start, at = [], 0, 0
    while at < len(text):
        end = _skipped(text, at)
        if end > at:
            at = end
            continue
        if text[at] == ";":
            whole.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [statement for statement in whole if statement], text[start:]


CLOSES = {"'": "'", '"': '"', "--": "\n", "/*": "*/"}


def _skipped(text: str, at: int) -> int:
    """Where the quote or comment that opens at `at` is over; `at` where none does."""
    for opening, closing in CLOSES.items():
        if text.startswith(opening, at):
            end = text.find(closing, at + len(opening))
            return len(text) if end < 0 else end + len(closing)
    return at


def _names(warehouse: Path) -> dict[str, list[str]]:
    """Tables and views with their columns. Raises UserError where there is no warehouse."""
    try:
        found = ask(warehouse, COLUMNS).to_pylist()
    except WarehouseError as error:
        raise UserError(str(error)) from error
    names: dict[str, list[str]] = {}
    for row in found:
        names.setdefault(row["table_name"], []).append(row["column_name"])
    return names


def _completer(names: Mapping[str, Iterable[str]]) -> Completer:
    from prompt_toolkit.completion import WordCompleter

    columns = sorted({column for each in names.values() for column in each})
    return WordCompleter([*names, *columns, *KEYWORDS, ".tables", ".help", ".exit"], ignore_case=True)


def _history() -> FileHistory:
    """What was asked before, kept in the user's own folder for this user alone."""
    from prompt_toolkit.history import FileHistory

    path = home() / "sql_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError:  # a home that is closed to us: then nothing is kept
        return FileHistory(os.devnull)
    return FileHistory(path)
