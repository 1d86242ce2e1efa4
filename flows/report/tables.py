"""The report's tables as values: what stands in each cell, and the exact figure behind it where it is rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from thirdshift.flows.console import money
from thirdshift.flows.report.curves import lasting
from thirdshift.flows.report.data import Row, RunFacts
from thirdshift.flows.report.sentences import basis

MOST_ROWS = 20
"""Rows shown of a table that has one for each task and endpoint; the dearest come first."""
MESSAGE = 300
"""Characters of a provider's message: the rest is in the warehouse."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is shown, and the figure behind it."""

    text: str
    value: str | None = None
    """The figure in full, as SQL has it; it becomes a `<data>` element."""
    right: bool = False
    long: bool = False
    """A sentence, which needs room."""
    whole: bool = False
    """What is copied: one click chooses all of it, and no line breaks it where there is room."""

    @property
    def says_nothing(self) -> bool:
        """Whether it is empty, or nought."""
        return not self.text or (self.value is not None and float(self.value) == 0)


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of the page."""

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    numeric: frozenset[int] = frozenset()
    """Columns whose heads stand to the right."""
    idle: frozenset[int] = frozenset()
    """Columns that say nothing here: all of their cells are empty, or nought. A narrow page leaves them out."""
    sql: str = ""
    """The question that gives the figures."""


def table(
    name: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = ""
) -> ReportTable | None:
    """Make a table; None where there is no row. A column is numeric where any of its cells stands to the right."""
    cells = tuple(tuple(row) for row in rows)
    if not cells:
        return None
    columns = range(len(head))
    numeric = frozenset(k for k in columns if any(row[k].right for row in cells))
    idle = frozenset(k for k in columns if all(row[k].says_nothing for row in cells))
    return ReportTable(name, caption, tuple(head), cells, note, numeric, idle)


# --- cells --------------------------------------------------------------------------------------------------------------


def words(text: Any) -> Cell:
    """Return a cell of text; empty for None."""
    shown = "" if text is None else str(text)
    return Cell(shown, long=len(shown) > 40)


def outside_text(text: str | None) -> Cell:
    """Return a cell of a message from outside, on one line and cut to MESSAGE characters."""
    clean = " ".join((text or "").split())
    return Cell(clean if len(clean) <= MESSAGE else clean[: MESSAGE - 1] + "…", long=len(clean) > 40)


def copied(identifier: str | None) -> Cell:
    """Return a cell of an id, which one click chooses whole."""
    return replace(outside_text(identifier), whole=True)


def usd(amount: Decimal | None) -> Cell:
    """Return a cell of US dollars; `unknown` for None."""
    if amount is None:
        return Cell("unknown", right=True)
    return Cell(("\N{MINUS SIGN}" if amount < 0 else "") + money(abs(amount)), f"{amount:f}", right=True)


def unit_price(amount: Decimal | None) -> Cell:
    """Return a cell of USD per million tokens; `as input` for None."""
    if amount is None:
        return Cell("as input", right=True)
    return Cell(f"${amount.normalize():f}", f"{amount:f}", right=True)


def count(number: Any) -> Cell:
    """Return a cell of a whole number; empty for None."""
    return Cell("", right=True) if number is None else Cell(f"{int(number):,}", str(int(number)), right=True)


def score(value: float | None, scored: int | None = None) -> Cell:
    """Return a cell of a mean score with how many were scored; `not scored` for None."""
    if value is None:
        return Cell("not scored", right=True)
    return Cell(f"{value:.4f}" + (f" of {scored:,}" if scored else ""), repr(float(value)), right=True)


def seconds(value: float | None) -> Cell:
    """Return a cell of a duration given in seconds; empty for None."""
    return (
        Cell("", right=True)
        if value is None
        else Cell(lasting(value), repr(round(float(value), 3)), right=True)
    )


def off(actual: Any, estimated: Any) -> Cell:
    """Return a cell of how far `actual` is off `estimated`, in percent; empty where that cannot be said."""
    if not estimated or actual is None:
        return Cell("", right=True)
    return Cell(f"{float(actual) / float(estimated) - 1:+.1%}", right=True)


# --- tables, in the order of the page -----------------------------------------------------------------------------------


def bill(facts: RunFacts) -> ReportTable | None:
    """Return this run's cost beside each endpoint's alone."""
    counts = facts.counts
    ours = [(words(f"this run{facts.by_settled}"), usd(counts["spent_usd"]), score(counts["mean_score"], counts["scored"]),
             Cell(""), words("paid"))]  # fmt: skip
    if counts["unsettled"]:
        most = usd(counts["unsettled_usd"])
        ours.append((words("this run, unsettled"), most, Cell(""), Cell(""), words("at most")))
    alone = [
        (words(row["endpoint"] + (" (emulated)" if row["endpoint"] in facts.emulated else "")), usd(row["alone_usd"]),
         score(row["score"], row["scored"]), usd(row["saved_usd"]), words(BILL_BASES.get(row["basis"], row["basis"])))
        for row in facts.bill
    ]  # fmt: skip
    return table(
        "bill", "Cost of the whole batch",
        ("Endpoint", "Cost", "Mean score", "Saved by this run", "Known"),
        ours + alone if alone else (),
        "What an endpoint alone would have cost is known by its pilot (its mean cost there, for all requests) or by tokens "
        "(those of the answers served, at its price); its score is its mean in the pilot. A negative saving means that "
        "the endpoint alone would have been cheaper; see whether it would have cleared the floor.",
    )  # fmt: skip


BILL_BASES = {
    "pilot": "by its pilot",
    "tokens": "by tokens",
}


def certificates(facts: RunFacts) -> ReportTable | None:
    """Return what is claimed of the quality, a row per certificate."""
    return table(
        "certificates", "What is claimed",
        ("Of", "Scorer", "Basis", "Floor", "Mean", "Lower bound", "Scored", "Method", "Certified", "Id"),
        [
            (words(_about(row)), words(row["scorer"]), words(basis(row)),
             score(row["floor"]), score(row["mean"]), score(row["lower_bound"]),
             Cell(f"{row['scored']:,} of {row['population']:,}", str(row["scored"]), right=True),
             words(f"{row['method']}, {row['confidence']:.0%}"), words("yes" if row["certified"] else "no"),
             copied(row["certificate_id"]))
            for row in facts.certificates
        ],
    )  # fmt: skip


def _about(row: Row) -> str:
    """What a certificate is about."""
    of = row["task"] if row["task"] is not None else "whole batch"
    part = row["requests"] is not None and row["population"] < row["requests"]
    return f"{row['population']:,} of the {row['requests']:,} requests of {of}" if part else of


def served(facts: RunFacts) -> ReportTable | None:
    """Return who answered what, and how well, by endpoint and task."""
    return table(
        "served", "Who answered what, and how well", ("Endpoint", "Task", "Requests", "Mean score", "Without an answer"),
        [
            (words(row["endpoint"] or "none"), words(row["task"]), count(row["requests"]),
             score(row["score"], row["scored"] if row["scored"] != row["requests"] else None), count(row["errors"]))
            for row in facts.served[:MOST_ROWS]
        ],
        _cut(facts.served),
    )  # fmt: skip


def spend(facts: RunFacts) -> ReportTable | None:
    """Return attempts, tokens and cost by endpoint, tier and purpose."""
    return table(
        "spend", "Where the money went",
        ("Endpoint", "Tier", "For", "Attempts", "Unsettled", "Input tokens", "of them cached", "Output tokens", "Settled",
         "Unsettled at most"),
        [
            (words(row["endpoint"]), words(row["mode"]), words(row["purpose"]), count(row["attempts"]),
             count(row["attempts_unsettled"]), count(row["input_tokens"]), count(row["cached_tokens"]),
             count(row["output_tokens"]), usd(row["settled_usd"]), usd(row["unsettled_usd"]))
            for row in facts.spend
        ],
    )  # fmt: skip


def spend_by_task(facts: RunFacts) -> ReportTable | None:
    """Return cost by task and endpoint, the dearest first."""
    return table(
        "spend-by-task", "Cost by task and endpoint", ("Task", "Endpoint", "Settled", "Unsettled at most"),
        [(words(row["task"] or "no request"), words(row["endpoint"]), usd(row["settled_usd"]), usd(row["unsettled_usd"]))
         for row in facts.spend_by_task[:MOST_ROWS]],
        _cut(facts.spend_by_task),
    )  # fmt: skip


def times(facts: RunFacts) -> ReportTable | None:
    """Return how long answers took, by endpoint."""
    return table(
        "times", "How long an answer took", ("Endpoint", "Answers", "Half within", "95 % within", "Slowest"),
        [(words(row["endpoint"]), count(row["requests"]), seconds(row["median"]), seconds(row["slow"]),
          seconds(row["slowest"])) for row in facts.times],
        "From sending to settling, so that of a batch tier the batch's whole time counts.",
    )  # fmt: skip


def shards(facts: RunFacts) -> ReportTable | None:
    """Return shards by purpose and endpoint, with when they began and ended."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in facts.shards:
        grouped.setdefault((row["purpose"], row["endpoint"]), []).append(row)
    return table(
        "shards", "Shards by purpose",
        ("For", "Endpoint", "Shards", "Requests", "Failed", "Began (UTC)", "Ended (UTC)"),
        [
            (words(purpose), words(endpoint), count(len(rows)), count(sum(row["requests"] for row in rows)),
             count(sum(row["status"] == "failed" for row in rows)), words(_clock(min(row["started_at"] for row in rows))),
             words(_ended(rows, over=facts.over or not facts.alive)))
            for (purpose, endpoint), rows in grouped.items()
        ],
    )  # fmt: skip


def workers(facts: RunFacts) -> ReportTable | None:
    """Return the workers of this machine or a cluster, with their times and cost."""
    return table(
        "workers", "Workers",
        ("Worker", "Endpoint", "Node", "Device", "Started (UTC)", "Ready (UTC)", "Stopped (UTC)", "Cost", "Charged back"),
        [(copied(row["worker_id"]), words(row["endpoint"]), words(row["node"] or ""), words(row["device"]),
          words(_clock(row["started_at"])),
          words(_clock(row["ready_at"])), words(_clock(row["stopped_at"])), usd(row["cost_usd"]),
          Cell("", right=True) if row["accounting_usd"] is None else usd(row["accounting_usd"]))
         for row in facts.workers],
    )  # fmt: skip


def estimates(facts: RunFacts) -> ReportTable | None:
    """Return expected and paid cost by endpoint and task."""
    return table(
        "estimates", "Expected and paid, of requests sent where they were planned",
        ("Endpoint", "Task", "Requests", "Expected", "Paid", "Error", "Input tokens", "Output tokens"),
        [
            (words(row["endpoint"]), words(row["task"]), count(row["requests"]), usd(row["predicted_usd"]),
             usd(row["cost_usd"]), off(row["cost_usd"], row["predicted_usd"]),
             off(row["input_tokens_actual"], row["input_tokens_estimated"]),
             off(row["output_tokens_actual"], row["output_tokens_estimated"]))
            for row in facts.estimates[:MOST_ROWS]
        ],
        " ".join(filter(None, ["Tokens: how far what was counted is off what was expected.", _cut(facts.estimates)])),
    )  # fmt: skip


def failed_attempts(facts: RunFacts) -> ReportTable | None:
    """Return failed attempts by cause."""
    return table(
        "failed-attempts", "Failed attempts by cause",
        ("Cause", "Endpoint", "Attempts", "Requests", "answered in the end", "Cost at most", "For example"),
        [
            (words(row["cause"]), words(row["endpoint"]), count(row["attempts"]), count(row["requests"]),
             count(row["answered"]), usd(row["cost_usd"]), outside_text(row["example"]))
            for row in facts.failed_attempts[:MOST_ROWS]
        ],
    )  # fmt: skip


def unanswered(facts: RunFacts) -> ReportTable | None:
    """Return requests without an answer, by cause."""
    return table(
        "unanswered", "Requests without an answer, by cause", ("Cause", "Requests", "First id", "For example"),
        [(words(row["cause"]), count(row["requests"]), copied(row["first_id"]), outside_text(row["example"]))
         for row in facts.unanswered],
    )  # fmt: skip


def rejected(facts: RunFacts) -> ReportTable | None:
    """Return refused input rows, by reason."""
    return table(
        "rejected", "Input rows refused, by reason", ("Reason", "Rows", "First row", "First id"),
        [(outside_text(row["reason"]), count(row["rows"]), count(row["first_row"]), copied(row["first_id"]))
         for row in facts.rejected],
    )  # fmt: skip


def slowest(facts: RunFacts) -> ReportTable | None:
    """Return the slowest attempts."""
    return table(
        "slowest", "The slowest attempts",
        ("Request", "Endpoint", "For", "Attempt", "Took", "Input tokens", "Output tokens", "Cost at most"),
        [
            (copied(row["request_id"]), words(row["endpoint"]), words(row["purpose"]), count(row["attempt"]),
             seconds(row["seconds"]), count(row["input_tokens"]), count(row["output_tokens"]), usd(row["cost_usd"]))
            for row in facts.slowest
        ],
    )  # fmt: skip


def dearest(facts: RunFacts) -> ReportTable | None:
    """Return the dearest requests."""
    return table(
        "dearest", "The dearest requests",
        ("Request", "Endpoints", "Attempts", "Input tokens", "Output tokens", "Cost at most"),
        [
            (copied(row["request_id"]), words(row["endpoint"]), count(row["attempts"]), count(row["input_tokens"]),
             count(row["output_tokens"]), usd(row["cost_usd"]))
            for row in facts.dearest
        ],
    )  # fmt: skip


def prices(facts: RunFacts) -> ReportTable | None:
    """Return the prices that the run could choose among."""
    rows = [
        (words(row["endpoint"]), words(row["model"]), words(row["mode"]), *_price(row), words(row["source"]),
         words(_day(row["as_of"])))
        for row in facts.prices
    ]  # fmt: skip
    return table(
        "prices", "Prices in force, USD per million tokens",
        ("Endpoint", "Model", "Tier", "Input", "Output", "Cached input", "Source", "As of"), rows,
    )  # fmt: skip


def _price(row: Row) -> tuple[Cell, Cell, Cell]:
    hourly = row["usd_per_hour"]
    if hourly is not None:
        none = Cell("none", right=True)
        return Cell(f"${hourly.normalize():f} an hour", f"{hourly:f}", right=True), none, none
    return (
        unit_price(row["input_usd_per_mtok"]),
        unit_price(row["output_usd_per_mtok"]),
        unit_price(row["cached_usd_per_mtok"]),
    )


def _cut(rows: Sequence[Row]) -> str:
    return (
        f"The first {MOST_ROWS} of {len(rows):,} rows; the rest is in the warehouse."
        if len(rows) > MOST_ROWS
        else ""
    )


def _clock(at: Any) -> str:
    return "" if at is None else f"{at:%Y-%m-%d\N{NO-BREAK SPACE}%H:%M:%S}"


def _ended(rows: Sequence[Row], *, over: bool) -> str:
    """When the last of the shards ended; one without an end is under way only where a process is on its run."""
    if any(row["finished_at"] is None for row in rows):
        return "broke off" if over else "under way"
    return _clock(max(row["finished_at"] for row in rows))


def _day(day: date | None) -> str:
    return "" if day is None else day.isoformat()
