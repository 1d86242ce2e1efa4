"""The report as Markdown, for a place that shows no page of ours: without drawings, and without text from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from thirdshift.flows.formats import printable
from thirdshift.flows.report.page import Page
from thirdshift.flows.report.tables import ReportTable

LEFT_OUT = frozenset({"failures", "extremes"})
"""Sections whose tables show what providers said, and single requests."""
MARKS = re.compile(r"([\\`*_{}\[\]<>|#~])")


def as_markdown(page: Page) -> str:
    """Return the page as Markdown; what people wrote steers neither its form nor a terminal."""
    ended = "" if page.exit is None else f", exit {page.exit}"
    lines = [f"## {_plain(page.headline)}{ended}", ""]
    lines += [f"_{_plain(page.emulation)}_", ""] if page.emulation else []
    lines += [f"- {_plain(tile.what)}: **{_plain(tile.shown)}** {_plain(tile.note)}" for tile in page.tiles]
    lines += ["", *(f"- {_plain(step)}" for step in page.next_steps)]
    for section in page.sections:
        lines += ["", f"### {_plain(section.title)}", ""]
        lines += [f"- {_plain(what)}: {_plain(value)}" for what, value in section.pairs]
        for text in section.texts:
            lines += [_plain(text), ""]
        for table in () if section.name in LEFT_OUT else section.tables:
            lines += ["", f"**{_plain(table.caption)}**", "", *_table(table)]
    return "\n".join(lines)


def rows_of(table: ReportTable | None) -> list[dict[str, str]]:
    """Return a table's rows by the words of its head, as people read them, without the columns that say nothing."""
    if table is None:
        return []
    columns = [k for k in range(len(table.head)) if k not in table.idle]
    return [{table.head[k]: row[k].text for k in columns} for row in table.rows]


def _table(table: ReportTable) -> Iterator[str]:
    rows = rows_of(table)
    yield _line(rows[0])
    yield _line("---" for _ in rows[0])
    for row in rows:
        yield _line(map(_plain, row.values()))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    return MARKS.sub(r"\\\1", " ".join(printable(text).split()))
