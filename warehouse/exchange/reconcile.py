"""Compare the ledger with a provider's invoice: what agrees, what only one side has, what differs, and by how much.

Pure: tables in, findings out. Compared are requests where the invoice names them (`provider_ref`), otherwise a model's
day (UTC). Unsettled attempts are ours at most: an invoice above what is settled, but within settled
+ unsettled, agrees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pyarrow as pa

TOLERANCE_USD = Decimal("0.01")
"""Per line compared: invoices round to cents."""

LEDGER_COLUMNS = (
    "provider_ref",
    "model",
    "model_reported",
    "status",
    "started_at",
    "input_tokens",
    "output_tokens",
    "cost_usd",
)

DATED = re.compile(r"^[-@:]?(\d{4}-?\d{2}-?\d{2}|\d{4,8}|latest|preview)")
"""What a provider adds to a model's name: `claude-opus-4-7-20260401`, but not `gpt-5.5-mini`."""


class Discrepancy(StrEnum):
    """How the ledger and an invoice compare in one line."""

    MATCHED = "matched"
    OURS_ONLY = "ours only"
    THEIRS_ONLY = "theirs only"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class ReconciliationLine:
    """A request, or a model's day (UTC), on both sides."""

    finding: Discrepancy
    day: date | None
    model: str | None
    ref: str | None
    settled_usd: Decimal
    unsettled_usd: Decimal
    """What unsettled attempts can have cost at most."""
    theirs_usd: Decimal | None
    """None: the invoice states tokens only."""
    note: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All lines compared, with their sums in US dollars."""

    lines: tuple[ReconciliationLine, ...]

    def count(self, finding: Discrepancy) -> int:
        """Return how many lines have this finding."""
        return sum(line.finding is finding for line in self.lines)

    @property
    def settled_usd(self) -> Decimal:
        """What the ledger says is settled."""
        return sum((line.settled_usd for line in self.lines), Decimal(0))

    @property
    def unsettled_usd(self) -> Decimal:
        """What unsettled attempts can have cost at most."""
        return sum((line.unsettled_usd for line in self.lines), Decimal(0))

    @property
    def theirs_usd(self) -> Decimal:
        """What the invoice bills."""
        return sum((line.theirs_usd or Decimal(0) for line in self.lines), Decimal(0))


@dataclass(slots=True)
class _Side:
    """Cost and tokens of one key, summed on one side."""

    usd: Decimal | None = None
    unsettled_usd: Decimal = Decimal(0)
    unsettled: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, row: dict[str, Any]) -> None:
        cost = row["cost_usd"]
        if row.get("status") in ("unsettled", "reserved"):
            self.unsettled += 1
            self.unsettled_usd += cost or Decimal(0)
            self.usd = self.usd or Decimal(0)
            return
        if cost is not None:
            self.usd = (self.usd or Decimal(0)) + cost
        self.tokens[0] += row["input_tokens"] or 0
        self.tokens[1] += row["output_tokens"] or 0


Key = tuple[date | None, str | None, str | None]
"""Day, model, reference; a reference stands alone."""


def reconcile(
    ledger: pa.Table, invoice: pa.Table, *, tolerance_usd: Decimal = TOLERANCE_USD
) -> Reconciliation:
    """Compare ledger rows (LEDGER_COLUMNS; of one provider and the invoice's time) with invoices.INVOICE rows."""
    ours = [row for row in ledger.select(list(LEDGER_COLUMNS)).to_pylist() if row["status"] != "void"]
    theirs = invoice.to_pylist()
    by_ref = any(row["ref"] for row in theirs)
    names = model_names(ours, {row["model"] for row in theirs if row["model"]})
    left = _sums((_our_key(row, names, by_ref=by_ref), row) for row in ours)
    right = _sums((_their_key(row, by_ref=by_ref), row) for row in theirs)
    keys = sorted({*left, *right}, key=lambda key: tuple(str(part or "") for part in key))
    return Reconciliation(tuple(_line(key, left.get(key), right.get(key), tolerance_usd) for key in keys))


def _sums(rows: Iterable[tuple[Key, dict[str, Any]]]) -> dict[Key, _Side]:
    sides: dict[Key, _Side] = {}
    for key, row in rows:
        sides.setdefault(key, _Side()).add(row)
    return sides


def _their_key(row: dict[str, Any], *, by_ref: bool) -> Key:
    if by_ref and row["ref"]:
        return (None, None, row["ref"])
    return (row["day"], row["model"], None)


def _our_key(row: dict[str, Any], names: dict[str, str], *, by_ref: bool) -> Key:
    if by_ref and row["provider_ref"]:
        return (None, None, row["provider_ref"])
    name = row["model_reported"] or row["model"]
    return (row["started_at"].date(), names[name], None)


def model_names(ours: list[dict[str, Any]], theirs: set[str]) -> dict[str, str]:
    """Our model's name → the invoice's for the same, or our own where it has none."""
    names: dict[str, str] = {}
    for row in ours:
        name = row["model_reported"] or row["model"]
        if name not in names:
            wires = [n.rpartition("/")[2] for n in (name, row["model"])]
            names[name] = next(
                (t for wire in wires for t in sorted(theirs) if _same_model(wire, t)), wires[0]
            )
    return names


def _same_model(ours: str, theirs: str) -> bool:
    theirs = theirs.rpartition("/")[2]
    if ours == theirs:
        return True
    short, long = sorted((ours, theirs), key=len)
    return long.startswith(short) and DATED.match(long[len(short) :]) is not None


def _line(key: Key, ours: _Side | None, theirs: _Side | None, tolerance: Decimal) -> ReconciliationLine:
    finding, note = _judge(ours, theirs, tolerance)
    our_side = ours or _Side()
    billed = None if theirs is None else theirs.usd
    return ReconciliationLine(finding, *key, our_side.usd or Decimal(0), our_side.unsettled_usd, billed, note)


def _judge(ours: _Side | None, theirs: _Side | None, tolerance: Decimal) -> tuple[Discrepancy, str]:
    if theirs is None:
        assert ours is not None  # noqa: S101  (a key comes from one side or the other)
        only = ours.unsettled > 0 and not ours.usd
        return (
            Discrepancy.OURS_ONLY,
            "sent, outcome never learnt; it was not billed" if only else "not on the invoice",
        )
    if ours is None:
        return (
            Discrepancy.THEIRS_ONLY,
            "billed, but the ledger has no such attempt: was the key used elsewhere?",
        )
    if theirs.usd is None:
        return _judge_tokens(ours, theirs)
    over = theirs.usd - (ours.usd or Decimal(0))
    if abs(over) <= tolerance:
        return Discrepancy.MATCHED, ""
    if 0 < over <= ours.unsettled_usd + tolerance:
        return (
            Discrepancy.MATCHED,
            f"within the {ours.unsettled_usd} USD that {ours.unsettled} unsettled attempts can be",
        )
    if over > 0:
        beyond = f", {over - ours.unsettled_usd} beyond what is unsettled" if ours.unsettled else ""
        return Discrepancy.MISMATCH, f"billed {over} USD more than settled{beyond}"
    return Discrepancy.MISMATCH, f"billed {-over} USD less than settled"


def _judge_tokens(ours: _Side, theirs: _Side) -> tuple[Discrepancy, str]:
    if ours.tokens == theirs.tokens:
        return Discrepancy.MATCHED, "by tokens"
    over = [t - o for t, o in zip(theirs.tokens, ours.tokens, strict=True)]
    may = ours.unsettled and min(over) >= 0
    reason = f"; {ours.unsettled} unsettled attempts may be the reason" if may else ""
    return Discrepancy.MISMATCH, f"tokens differ: input {over[0]:+,}, output {over[1]:+,}{reason}"
