"""What an invoice settles: unsettled attempts get their share of what was billed beyond the settled ones.

An attempt whose outcome was never learnt has, as a rule, no reference that an invoice could name; but a model's day is
billed as a whole. What it was billed beyond our settled attempts is what its unsettled ones have cost together. It is
spread over them by what each can have cost at most, to the last place. Days that an attempt can have been billed on are
compared together; those that the invoice does not tell to their end, or that do not agree, are left alone: what is not
complete lowers no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from thirdshift.warehouse.exchange.reconcile import LEDGER_COLUMNS, TOLERANCE_USD, model_names
from thirdshift.warehouse.store.store import Warehouse

PLACE = Decimal("1e-9")
COLUMNS = ("entry_id", "mode", "settled_at", "settled_by")
LIVE_REACH = timedelta(hours=1)
REACH = {"batch": timedelta(days=1)}
"""How long after an attempt began a provider may still bill it, by its mode: a batch has a day."""
LAG = timedelta(hours=1)
"""How far a provider's usage export lies behind the moment when it is made."""

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


def settlement(
    ledger: pa.Table, invoice: pa.Table, *, until: datetime, tolerance_usd: Decimal = TOLERANCE_USD
) -> Settlement:
    """`ledger`: entries of one provider and the invoice's time (LEDGER_COLUMNS and COLUMNS); `invoice`: INVOICE rows;
    `until`: the instant up to which the invoice tells all that was billed."""
    ours = [row for row in ledger.select([*COLUMNS, *LEDGER_COLUMNS]).to_pylist() if row["status"] != "void"]
    theirs = invoice.to_pylist()
    names = model_names(ours, {row["model"] for row in theirs if row["model"]})
    known = {row["provider_ref"] for row in ours if row["provider_ref"]} & {row["ref"] for row in theirs}
    costs, left, most = [], [], Decimal(0)
    for days in _billed_together(ours, names):
        open_ = [row for row in days.rows if row["status"] == "unsettled"]
        if not open_:
            continue
        rest = _rest(days, [row for row in theirs if days.tells(row)], known, until, tolerance_usd)
        if isinstance(rest, str):
            left.append(f"{days}: {rest}")
            continue
        costs += _spread(rest, open_)
        most += sum((row["cost_usd"] for row in open_), Decimal(0))
    return Settlement(tuple(costs), most, tuple(left))


@dataclass(slots=True)
class _Days:
    """Days of one model on which the same attempts can have been billed."""

    model: str
    first: date
    last: date
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        on = f"on {self.first}" if self.first == self.last else f"from {self.first} to {self.last}"
        return f"{self.model} {on}"

    @property
    def end(self) -> datetime:
        return datetime.combine(self.last, time(), UTC) + timedelta(days=1)

    def tells(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of the invoice may be of these days."""
        same_model = line["model"] in (None, self.model)
        return same_model and (line["day"] is None or self.first <= line["day"] <= self.last)


def _billed_together(ours: Sequence[dict[str, Any]], names: Mapping[str, str]) -> list[_Days]:
    together: list[_Days] = []
    of_models = [(names[row["model_reported"] or row["model"]], row) for row in ours]
    for model, row in sorted(of_models, key=lambda pair: (pair[0], pair[1]["started_at"])):
        first, last = row["started_at"].astimezone(UTC).date(), _over(row).astimezone(UTC).date()
        days = together[-1] if together else None
        if days is not None and days.model == model and first <= days.last:
            days.last = max(days.last, last)
            days.rows.append(row)
        else:
            together.append(_Days(model, first, last, [row]))
    return together


def _over(row: Mapping[str, Any]) -> datetime:
    """When an attempt was billed at the latest."""
    begun: datetime = row["started_at"]
    if row["status"] == "settled" and row["settled_by"] is None and row["settled_at"] is not None:
        settled: datetime = row["settled_at"]
        return max(begun, settled)
    reach: timedelta = REACH.get(row["mode"], LIVE_REACH)
    return begun + reach


def _rest(
    days: _Days,
    billed: Sequence[dict[str, Any]],
    known: set[Any],
    until: datetime,
    tolerance: Decimal,
) -> Decimal | str:
    """What the unsettled attempts of these days have cost together; or why that cannot be told."""
    if days.end > until:
        return (
            f"the invoice tells what was billed until {until:%Y-%m-%d %H:%M} UTC, and more can be billed until the end of "
            f"{days.last}; settle with a later one"
        )
    if any(row["cost_usd"] is None for row in billed):
        return "the invoice states no amounts"
    if any(row["day"] is None and row["ref"] not in known for row in billed):
        return "the invoice has lines without a day that are none of our attempts"
    if any(row["status"] == "reserved" for row in days.rows):
        return (
            "attempts of a batch that no process waits for can be in what was billed; resume their run first"
        )
    open_usd = sum((row["cost_usd"] for row in days.rows if row["status"] == "unsettled"), Decimal(0))
    # attempts that the invoice names are settled one by one; all else of the days is compared as a whole
    settled = sum(
        (
            row["cost_usd"]
            for row in days.rows
            if row["status"] == "settled" and row["provider_ref"] not in known
        ),
        Decimal(0),
    )
    rest: Decimal = sum((row["cost_usd"] for row in billed if row["ref"] not in known), Decimal(0)) - settled
    if rest < -tolerance:
        return f"billed {-rest} USD less than is settled"
    if rest > open_usd + tolerance:
        return f"billed {rest} USD more than is settled, {rest - open_usd} beyond what is unsettled"
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
