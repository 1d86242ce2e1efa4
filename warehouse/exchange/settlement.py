"""What an invoice settles: unsettled attempts get their share of what was billed beyond the settled ones.

An attempt whose outcome was never learnt has, as a rule, no reference that an invoice could name; but a model's day is
billed as a whole. What it was billed beyond our settled attempts is what its unsettled ones have cost together. It is
spread over them by what each can have cost at most, to the last place. A model's day that does not agree is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from thirdshift.warehouse.exchange.reconcile import LEDGER_COLUMNS, TOLERANCE_USD, model_names
from thirdshift.warehouse.store.store import Warehouse

PLACE = Decimal("1e-9")
Day = tuple[Any, str]
"""A day (UTC) and the model's name on the invoice."""

SETTLE = """
update ledger set status = case when s.cost_usd > 0 then 'settled' else 'void' end, cost_usd = s.cost_usd,
                  settled_by = $source, settled_at = coalesce(ledger.settled_at, now())
from settled s where ledger.entry_id = s.entry_id and ledger.status = 'unsettled'
"""
TELL_RUNS = """
update runs set
    spent_usd = (select coalesce(sum(cost_usd), 0) from ledger l
                 where l.run_id = runs.run_id and l.status not in ('unsettled', 'reserved')),
    unsettled_usd = (select coalesce(sum(cost_usd), 0) from ledger l
                     where l.run_id = runs.run_id and l.status in ('unsettled', 'reserved'))
where finished_at is not null
  and run_id in (select l.run_id from ledger l join settled s using (entry_id))
"""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What attempts cost by an invoice."""

    costs: tuple[tuple[str, Decimal], ...]
    """Entry and what it cost."""
    at_most_usd: Decimal
    """What these entries could have cost."""
    left: tuple[str, ...]
    """Why others stay unsettled, a sentence for each model's day."""

    @property
    def cost_usd(self) -> Decimal:
        return sum((cost for _, cost in self.costs), Decimal(0))


def settlement(ledger: pa.Table, invoice: pa.Table, *, tolerance_usd: Decimal = TOLERANCE_USD) -> Settlement:
    """`ledger`: entries of one provider and the invoice's time (LEDGER_COLUMNS and entry_id); `invoice`: INVOICE rows."""
    ours = [
        row for row in ledger.select(["entry_id", *LEDGER_COLUMNS]).to_pylist() if row["status"] != "void"
    ]
    theirs = invoice.to_pylist()
    names = model_names(ours, {row["model"] for row in theirs if row["model"]})
    known = {row["provider_ref"] for row in ours if row["provider_ref"]} & {row["ref"] for row in theirs}
    days: dict[Day, list[dict[str, Any]]] = {}
    for row in ours:
        days.setdefault((row["started_at"].date(), names[row["model_reported"] or row["model"]]), []).append(
            row
        )
    costs: list[tuple[str, Decimal]] = []
    left = []
    most = Decimal(0)
    for day, rows in sorted(days.items()):
        open_ = [row for row in rows if row["status"] == "unsettled"]
        if not open_:
            continue
        rest = _rest(
            day, rows, [row for row in theirs if (row["day"], row["model"]) == day], known, tolerance_usd
        )
        if isinstance(rest, str):
            left.append(rest)
            continue
        costs += _spread(rest, open_)
        most += sum((row["cost_usd"] for row in open_), Decimal(0))
    return Settlement(tuple(costs), most, tuple(left))


def _rest(
    day: Day,
    rows: Sequence[dict[str, Any]],
    billed: Sequence[dict[str, Any]],
    known: set[Any],
    tolerance: Decimal,
) -> Decimal | str:
    """What the unsettled attempts of a model's day have cost together; or why that cannot be told."""
    name = f"{day[1]} on {day[0]}"
    if any(row["cost_usd"] is None for row in billed):
        return f"{name}: the invoice states no amounts"
    open_usd = sum((row["cost_usd"] for row in rows if row["status"] == "unsettled"), Decimal(0))
    # attempts that the invoice names are settled one by one; all else of the day is compared as a whole
    settled = sum(
        (row["cost_usd"] for row in rows if row["status"] == "settled" and row["provider_ref"] not in known),
        Decimal(0),
    )
    rest: Decimal = sum((row["cost_usd"] for row in billed if row["ref"] not in known), Decimal(0)) - settled
    if rest < -tolerance:
        return f"{name}: billed {-rest} USD less than is settled"
    if rest > open_usd + tolerance:
        return f"{name}: billed {rest} USD more than is settled, {rest - open_usd} beyond what is unsettled"
    return min(max(rest, Decimal(0)), open_usd)


def _spread(amount: Decimal, rows: Sequence[dict[str, Any]]) -> list[tuple[str, Decimal]]:
    """Each row's part by what it can have cost; rounded by what was given so far, so that the parts are the amount."""
    whole = sum((row["cost_usd"] for row in rows), Decimal(0))
    upto, given, parts = Decimal(0), Decimal(0), []
    for row in sorted(rows, key=lambda row: str(row["entry_id"])):
        upto += row["cost_usd"]
        due = (amount * upto / whole).quantize(PLACE) if whole else Decimal(0)
        parts.append((row["entry_id"], due - given))
        given = due
    return parts


def settle(warehouse: Warehouse, settlement: Settlement, source: str) -> None:
    """Write it into the ledger, with who said so, and into the figures of the runs that are over."""
    if not settlement.costs:
        return
    entry, cost = zip(*settlement.costs, strict=True)
    table = pa.table(
        {"entry_id": pa.array(entry, pa.string()), "cost_usd": pa.array(cost, pa.decimal128(18, 9))}
    )
    warehouse.execute(SETTLE, {"settled": table}, source=source)
    warehouse.execute(TELL_RUNS, {"settled": table})
