"""Replies by provider and server, as they were seen: `reply_table.toml` as values, and docs/replies.md made of it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from thirdshift.engines.wires.rules import FINISH, PARAMETERS, PHRASES
from thirdshift.router.pricing.documents import TEXT_TOKENS_MOST
from thirdshift.router.pricing.pictures import OTHERS, RULES
from thirdshift.router.values import FailureKind


@dataclass(frozen=True, slots=True)
class ReplyCase:
    """One reply, what it is, and what the provider bills for it."""

    server: str
    what: str
    body: str
    nature: str
    """`failures.Nature`."""
    books: str
    """The ledger's status."""
    source: str
    version: str
    as_of: str
    status: int = 200
    wire: str = "openai"
    kind: FailureKind | None = None
    bills: Mapping[str, int] = field(default_factory=dict)
    tier: str | None = None
    mode: str = "realtime"
    price: str | None = None
    """The tier whose price the bill is at; None: the one that was asked for."""
    batch: bool = True


def reply_cases() -> tuple[ReplyCase, ...]:
    """All rows, in the table's order."""
    return tuple(_case(row) for row in _table()["row"])


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    return tomllib.loads(files(__package__).joinpath("reply_table.toml").read_text(encoding="utf-8"))


def _case(row: Mapping[str, Any]) -> ReplyCase:
    named = {name: value for name, value in row.items() if name not in ("is", "kind")}
    kind = FailureKind(row["kind"]) if "kind" in row else None
    return ReplyCase(**named, nature=row["is"], kind=kind)


def page() -> str:
    """docs/replies.md."""
    rows = [
        f"| {case.server} | {case.what} | {case.status} | {_is(case)} | {_booked(case)} | {_source(case)} |"
        for case in reply_cases()
    ]
    return str(_table()["introduction"]) + "\n".join(
        [*rows, "", *_finish_reasons(), "", *_words(), "", *_parameters(), "", *_pictures(), ""]
    )


def _is(case: ReplyCase) -> str:
    return (
        case.nature
        if case.kind is None or case.kind.value == case.nature
        else f"{case.nature} (`{case.kind}`)"
    )


def _booked(case: ReplyCase) -> str:
    figures = ", ".join(f"{count} {name}" for name, count in case.bills.items())
    return f"{case.books}: {figures}" if figures and case.books == "settled" else case.books


def _source(case: ReplyCase) -> str:
    return ", ".join(part for part in (case.source, case.version, case.as_of) if part)


def _finish_reasons() -> list[str]:
    kinds: dict[str, list[str]] = {}
    for reason, kind in FINISH.items():
        kinds.setdefault("an answer" if kind is None else f"`{kind}`", []).append(f"`{reason}`")
    lines = [f"| {kind} | {', '.join(reasons)} |" for kind, reasons in kinds.items()]
    return ["## Finish reasons", "", "| makes it | reasons |", "| --- | --- |", *lines]


def _words() -> list[str]:
    lines = [f"| {', '.join(phrase.words)} | `{phrase.kind}` | {phrase.remedy or ''} |" for phrase in PHRASES]
    return ["## Words in errors", "", "| any of these | is | what to do |", "| --- | --- | --- |", *lines]


def _parameters() -> list[str]:
    lines = [f"| {name} | {', '.join(words)} |" for name, words in PARAMETERS]
    head = [
        "## What a server refuses to be sent",
        "",
        "Learnt from the first refusal, left out from then on.",
    ]
    return [*head, "", "| what | by these words |", "| --- | --- |", *lines]


def _escaped(pattern: str) -> str:
    return pattern.replace("|", "\\|") or "others"


def _pictures() -> list[str]:
    lines = [
        f"| `{_escaped(rule.family)}` | {rule.ceiling:,} | {rule.source}, {rule.as_of} |"
        for rule in (*RULES, OTHERS)
    ]
    words = (
        "By the model's name; the plan takes the same rule's count for the picture's size, and usage corrects it. A page of"
        f" a PDF is reserved at a picture's tokens and {TEXT_TOKENS_MOST:,} for its text (`router/pricing/documents.py`)."
    )
    head = [
        "## What a picture is reserved at",
        "",
        words,
    ]
    return [*head, "", "| models | tokens at most | source |", "| --- | --- | --- |", *lines]


if __name__ == "__main__":
    sys.stdout.write(page())
