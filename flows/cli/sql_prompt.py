"""Answer queries at a prompt, or the statements that come on stdin: `sql` without an argument.

The file is opened for each query alone, so that a run beside it is never kept waiting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from thirdshift.flows.cli.sql import Layout, show_sql
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import printable
from thirdshift.flows.models.registry import home
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory

HELP = """\
A question ends with a semicolon and may run over several lines:
  select endpoint, status, sum(cost_usd) from ledger group by all;
Only questions are answered: nothing here changes the warehouse. Tab completes tables, columns and keywords.
.tables            what there is to ask
.mode box          a table as wide as the terminal; .mode line: a line for each column; .mode json
.help              this
.exit              leave (so do exit, quit and Ctrl-D)"""
INSTEAD = {
    ".schema": "ask: describe runs;",
    ".databases": "this prompt asks one warehouse; another: thirdshift sql --warehouse FILE",
    ".open": "this prompt asks one warehouse; another: thirdshift sql --warehouse FILE",
    ".read": "statements of a file: thirdshift sql < FILE",
    ".output": "a table as Parquet: thirdshift export TABLE --output FILE; any answer: thirdshift sql --json",
    ".once": "a table as Parquet: thirdshift export TABLE --output FILE; any answer: thirdshift sql --json",
    ".dump": "a table as Parquet: thirdshift export TABLE --output FILE",
    ".import": "only questions are answered: a job's input is read by thirdshift run",
    ".maxrows": "write limit and offset in the question",
    ".columns": "write .mode line",
    ".rows": "write .mode box",
}
"""Commands of DuckDB's shell that are not here, and what does the same."""
LEAVING = frozenset({".exit", ".quit", ".q", "exit", "quit", "\\q"})
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


@dataclass
class Session:
    """A conversation with one warehouse: how answers are printed is all that it remembers."""

    warehouse: Path
    layout: Layout = Layout.BOX

    def answer(self, text: str) -> None:
        """Answer one statement, or do what a command with a dot says. Raises UserError where it is wrong."""
        if text.startswith("."):
            self._command(*text.rstrip("; ").split())
        else:
            show_sql(text, self.warehouse, layout=self.layout)

    def _command(self, command: str, *words: str) -> None:
        if command == ".help":
            print(HELP)
        elif command == ".tables":
            names = _names(self.warehouse)
            print("\n".join(f"{name}: {', '.join(columns)}" for name, columns in names.items()))
        elif command == ".mode" and len(words) == 1 and words[0] in MODES:
            self.layout = MODES[words[0]]
        elif command == ".mode":
            raise UserError(f"{' '.join((command, *words))}: the modes are {', '.join(Layout)}")
        elif command in INSTEAD:
            raise UserError(f"there is no {command} here; {INSTEAD[command]}")
        else:
            raise UserError(f"there is no {command}; .help says what there is")


MODES = {mode.value: mode for mode in Layout} | {"duckbox": Layout.BOX}


def converse(warehouse: Path, layout: Layout = Layout.BOX) -> int:
    """Answer queries until there are no more; return 0. Raises UserError: one on stdin is wrong, or no warehouse."""
    session = Session(warehouse, layout)
    if not sys.stdin.isatty():
        return from_stream(sys.stdin, session)
    names = _names(warehouse)
    print(f"{warehouse}: {len(names)} tables and views; .help says more", file=sys.stderr)
    return prompted(session, names)


def from_stream(stream: TextIO, session: Session) -> int:
    """Answer every statement of a text in turn; return 0. Raises UserError at the first that is wrong."""
    whole, rest = statements(stream.read())
    questions = [part for statement in [*whole, rest] for part in _apart(statement)]
    if not questions:
        raise UserError(
            "nothing was asked: give a question, statements on stdin, or a terminal for the prompt"
        )
    for statement in questions:
        if leaves(statement):
            break
        session.answer(statement)
    return 0


def _apart(statement: str) -> Iterator[str]:
    """Yield commands with a dot, a line each, and the statement that follows them."""
    rest = statement.strip()
    while rest.startswith(".") or rest.partition("\n")[0].strip() in LEAVING:
        line, _, rest = rest.partition("\n")
        yield line.strip()
        rest = rest.strip()
    if rest:
        yield rest


def prompted(session: Session, names: Mapping[str, list[str]]) -> int:
    """Prompt and answer on a terminal until `.exit`; return 0. A wrong query is reported, and the next may come."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition

    unfinished = Condition(lambda: not finished(get_app().current_buffer.text))
    terminal: PromptSession[str] = PromptSession(
        history=_history(), completer=_completer(names), multiline=unfinished, complete_while_typing=False,
        prompt_continuation="   ...> ",
    )  # fmt: skip
    while True:
        try:
            text = terminal.prompt("thirdshift> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0
        if leaves(text):
            return 0
        try:
            for statement in [text] if text.startswith(".") else statements(text)[0]:
                session.answer(statement)
        except UserError as error:
            print(printable(str(error)), file=sys.stderr)
        except KeyboardInterrupt:
            continue


def leaves(text: str) -> bool:
    """Whether this line ends the conversation."""
    return text.rstrip("; \n").lower() in LEAVING


def finished(text: str) -> bool:
    """Return whether Enter sends the text: nothing, a command with a dot, or statements to their last semicolon."""
    bare = text.strip()
    if not bare or bare.startswith(".") or leaves(bare):
        return True
    whole, rest = statements(text)
    return bool(whole) and not rest.strip()


def statements(text: str) -> tuple[list[str], str]:
    """Split into the statements that end with a semicolon, and the rest; none ends within quotes or a comment."""
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
    """Return where the quote or comment that opens at `at` ends; `at` where none opens."""
    for opening, closing in CLOSES.items():
        if text.startswith(opening, at):
            end = text.find(closing, at + len(opening))
            return len(text) if end < 0 else end + len(closing)
    return at


def _names(warehouse: Path) -> dict[str, list[str]]:
    """Return tables and views with their columns. Raises UserError where there is no warehouse."""
    try:
        rows = ask(warehouse, COLUMNS).to_pylist()
    except WarehouseError as error:
        raise UserError(str(error)) from error
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["table_name"], []).append(row["column_name"])
    return names


def _completer(names: Mapping[str, Iterable[str]]) -> Completer:
    from prompt_toolkit.completion import WordCompleter

    columns = sorted({column for of_table in names.values() for column in of_table})
    return WordCompleter(
        [*names, *columns, *KEYWORDS, ".tables", ".mode", ".help", ".exit"], ignore_case=True
    )


def _history() -> FileHistory:
    """Open the history of queries, kept in the user's own folder for this user alone."""
    from prompt_toolkit.history import FileHistory

    path = home() / "sql_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        path.chmod(0o600)
    except OSError:  # a home that is closed to us: then nothing is kept
        return FileHistory(os.devnull)
    return FileHistory(path)
