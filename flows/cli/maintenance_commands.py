"""Maintain a warehouse: migrate, purge, export, sum up the ledger or compare it with an invoice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from thirdshift.flows.console import spent
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.errors import UserError, nearest
from thirdshift.flows.formats import as_table, counted, json_text, printable
from thirdshift.flows.runs.folder import alive_runs
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.exchange.invoices import read_invoice
from thirdshift.warehouse.exchange.purge import purge
from thirdshift.warehouse.exchange.purge_survey import PurgeSurvey, survey
from thirdshift.warehouse.exchange.reconcile import Discrepancy, Reconciliation, reconcile
from thirdshift.warehouse.exchange.settlement import LAG, Settlement, settle, settlement
from thirdshift.warehouse.store.locks import check_exists
from thirdshift.warehouse.store.migrate import migrate
from thirdshift.warehouse.store.schema import CONTRACT_TABLES
from thirdshift.warehouse.store.store import Warehouse
from thirdshift.warehouse.store.views import CONTRACT_VIEWS

SHOWN_LINES = 50
"""Lines of a reconciliation shown on a terminal; --json gives all."""

NAMED = 5
"""Unknown ids that a message names."""
BATCH_ROWS = 8192

SPENT = """
select r.job, l.run_id, l.endpoint, l.purpose, count(*) as attempts,
       coalesce(sum(l.cost_usd) filter (where l.status not in ('unsettled', 'reserved')), 0) as settled_usd,
       coalesce(sum(l.cost_usd) filter (where l.status in ('unsettled', 'reserved')), 0) as unsettled_usd,
       sum(l.cost_usd) as cost_usd
from ledger l left join runs r using (run_id)
where $run is null or l.run_id = $run
group by all order by min(l.started_at), l.run_id, cost_usd desc, l.endpoint, l.purpose
"""

PROVIDERS = """
select coalesce(provider, 'unknown') as provider, count(*) as entries from ledger
where started_at >= $first and started_at < $last and status <> 'void' group by all order by 1
"""

ENTRIES = """
select * from ledger
where started_at >= $first and started_at < $last and coalesce(provider, 'unknown') = $provider
"""


@contextmanager
def _as_user_errors() -> Iterator[None]:
    """Turn a WarehouseError into a UserError of the same message."""
    try:
        yield
    except WarehouseError as error:
        raise UserError(str(error)) from error


@contextmanager
def _opened(path: Path) -> Iterator[Warehouse]:
    """Open a warehouse that is there. Raises UserError: it is not, or cannot be used."""
    with _as_user_errors():
        check_exists(path)
        enter_interrupted(path)
        with Warehouse.open(path) as warehouse:
            yield warehouse


# --- migrate ----------------------------------------------------------------------------------------------------------


def migrate_warehouse(path: Path, *, as_json: bool) -> int:
    """Bring a warehouse up to this program's schema, with a copy beside it first; return 0. Raises UserError."""
    with _as_user_errors():
        done = migrate(path)
    if as_json:
        print(json_text(asdict(done)))
    elif done.backup is None:
        print(f"{path}: has schema {done.after} already")
    else:
        print(f"{path}: schema {done.before} is now {done.after}; as it was: {done.backup}")
        print("\n".join(f"  {step}" for step in done.steps))
    return 0


# --- purge -----------------------------------------------------------------------------------------------------------


def purge_text(path: Path, ids: Path | None, before: str | None, *, dry_run: bool, as_json: bool) -> int:
    """Erase the text of requests, or of runs that began before a day, or say what would go; return 0.

    Raises UserError: no run has one of the ids (nothing is erased then), or what is wrong with the warehouse.
    """
    if (ids is None) == (before is None):
        raise UserError("purge takes --request-ids FILE or --before DATE, one of them")
    wanted = _read_ids(ids) if ids is not None else []
    moment = None if before is None else day_of(before, "--before")
    with _as_user_errors():
        check_exists(path)
        plan = survey(path, request_ids=wanted, before=moment)
        if plan.unknown:
            more = f" and {len(plan.unknown) - NAMED:,} more" if len(plan.unknown) > NAMED else ""
            names = ", ".join(plan.unknown[:NAMED])
            raise UserError(f"--request-ids {ids}: no run in {path} has {names}{more}; nothing was erased")
        told = asdict(plan) | {"files": [asdict(file) for file in plan.files], "dry_run": dry_run}
        if not dry_run:
            done = purge(path, request_ids=wanted, before=moment, alive=alive_runs(path))
            told = told | asdict(done) | {"from": told["files"]}
    if as_json:
        print(json_text(told))
    else:
        print("\n".join(printable(line) for line in _purge_lines(plan, dry_run=dry_run)))
    return 0


def _purge_lines(plan: PurgeSurvey, *, dry_run: bool) -> Iterator[str]:
    did = "would erase" if dry_run else "erased"
    yield f"{did} the text of {counted(plan.requests, 'request')} in {counted(len(plan.runs), 'run')}"
    yield "from the warehouse's tables results, responses, requests and judgements"
    for file in plan.files:
        yield f"from {file.path}: {counted(file.requests, 'request')}"
    for copy in plan.copies:
        yield f"not touched: {copy}"
    if plan.runs:
        yield "not touched: files exported or reported before, and the input that was read"
    if dry_run:
        yield "nothing was changed; without --dry-run it is done"


def _read_ids(path: Path) -> list[str]:
    """Read request ids: one a line, or the column request_id of a Parquet file. Raises UserError."""
    try:
        if path.suffix == ".parquet":
            return [
                str(request_id)
                for request_id in pq.read_table(path, columns=["request_id"])["request_id"].to_pylist()
            ]
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(
            f"--request-ids {path}: cannot be read: {error}; give a text file with an id a line, or Parquet with a "
            "column request_id"
        ) from error
    ids = [line for line in lines if line.strip()]
    if not ids:
        raise UserError(f"--request-ids {path}: there is no id in it")
    return ids


def day_of(text: str, option: str) -> datetime:
    """Return the instant that a day or an ISO 8601 instant means, in UTC where no zone is given. Raises UserError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text}: write a day or an instant, like 2026-11-01") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# --- export ----------------------------------------------------------------------------------------------------------


def export_table(path: Path, what: str, output: Path, run_id: str | None, *, as_json: bool) -> int:
    """Write one table or view to a Parquet file, whole or absent; return 0. Raises UserError."""
    known = [*CONTRACT_TABLES, *CONTRACT_VIEWS]
    if what not in known:
        raise UserError(
            f"there is no table or view {what}{nearest(what, known)}; there are {', '.join(known)}"
        )
    if output.suffix != ".parquet":
        raise UserError(f"--output {output}: name a file that ends with .parquet")
    with _opened(path) as warehouse:
        rows = _write(warehouse, what, output, run_id)
    if as_json:
        print(json.dumps({"table": what, "rows": rows, "output": str(output)}))
    else:
        print(f"{counted(rows, 'row')} of {what} in {output}")
    return 0


def _write(warehouse: Warehouse, what: str, output: Path, run_id: str | None) -> int:
    schema = warehouse.query(f"select * from {what} limit 0").schema
    if run_id is not None and "run_id" not in schema.names:
        raise UserError(f"{what} has no column run_id; leave --run out")
    values: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
    chosen = "" if run_id is None else " where run_id = $run_id"
    runs = warehouse.query("select run_id from runs order by started_at desc")["run_id"].to_pylist()
    if run_id is not None and run_id not in runs:
        raise UserError(f"no run {run_id}{nearest(run_id, runs)}")
    beside = output.with_name(f".{output.name}.tmp")
    rows = 0
    try:
        with (
            open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for batch in warehouse.stream(f"select * from {what}{chosen}", BATCH_ROWS, **values):
                writer.write_batch(batch)
                rows += batch.num_rows
        beside.replace(output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return rows


# --- the ledger ------------------------------------------------------------------------------------------------------


def show_ledger(path: Path, run_id: str | None, *, as_json: bool) -> int:
    """Print what was spent, by run, endpoint and purpose; return 0. Raises UserError."""
    with _opened(path) as warehouse:
        table = warehouse.query(SPENT, run=run_id)
    if run_id is not None and not table.num_rows:
        raise UserError(f"{path}: the ledger has no entry of run {run_id}")
    totals = {
        name: pc.sum(table[name]).as_py() or 0
        for name in ("attempts", "settled_usd", "unsettled_usd", "cost_usd")
    }
    if as_json:
        print(json_text({**totals, "spent": table.to_pylist()}))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    # where nothing is unsettled, what is settled is the cost
    console.print(
        as_table(table if totals["unsettled_usd"] else table.drop_columns(["unsettled_usd", "cost_usd"]))
    )
    console.print(
        f"{counted(totals['attempts'], 'attempt')}: {spent(totals['settled_usd'], totals['unsettled_usd'])}"
    )
    return 0


def reconcile_invoice(
    path: Path,
    invoice: Path,
    provider: str | None,
    since: str | None,
    until: str | None,
    *,
    settling: bool,
    as_json: bool,
) -> int:
    """Compare the ledger with a provider's usage export; return 0 whatever is found. Raises UserError.

    `settling` writes down what the export says of unsettled attempts.
    """
    with _as_user_errors():
        theirs = read_invoice(invoice)
    first, last = _span(theirs, since, until)
    with _opened(path) as warehouse:
        providers = warehouse.query(PROVIDERS, first=first, last=last).to_pylist()
        chosen = _provider(provider, [row["provider"] for row in providers], invoice)
        ours = warehouse.query(ENTRIES, first=first, last=last, provider=chosen)
        settled = settlement(ours, theirs, until=min(last, _made_at(invoice) - LAG)) if settling else None
        if settled is not None:
            settle(warehouse, settled, f"invoice {invoice.name}")
    result = reconcile(ours, theirs)
    head = {"invoice": str(invoice), "provider": chosen, "since": first, "until": last}
    if as_json:
        data = {} if settled is None else {"settlement": _settlement_data(settled)}
        print(json_text(head | _as_data(result) | data))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    _show(result, head, console)
    if settled is not None:
        for line in _settlement_lines(settled, invoice):
            console.print(line, markup=False)
    return 0


def _settlement_data(settled: Settlement) -> dict[str, Any]:
    return {
        "entries": len(settled.costs),
        "cost_usd": settled.cost_usd,
        "at_most_usd": settled.at_most_usd,
        "left": list(settled.left),
    }


def _settlement_lines(settled: Settlement, invoice: Path) -> Iterator[str]:
    if settled.costs:
        yield (
            f"{len(settled.costs):,} attempts settled by {invoice.name}: they cost {settled.cost_usd} USD, at most "
            f"{settled.at_most_usd} was counted"
        )
    elif not settled.left:
        yield "no attempt of that time is unsettled"
    for line in settled.left:
        yield f"not settled: {line}"


def _span(invoice: pa.Table, since: str | None, until: str | None) -> tuple[datetime, datetime]:
    """Return the time from the first day to the end of the last one that the invoice names; all time if it names none."""
    days = pc.min_max(invoice["day"]).as_py()
    first, last = days["min"] or date(1970, 1, 1), days["max"] or date(9998, 12, 31)
    begins = datetime.combine(first, time(), UTC) if since is None else day_of(since, "--since")
    if until is not None:
        return begins, day_of(until, "--until")
    return begins, datetime.combine(last, time(), UTC) + timedelta(days=1)


def _made_at(invoice: Path) -> datetime:
    """Return when a usage export was made, as far as its file tells."""
    return datetime.fromtimestamp(invoice.stat().st_mtime, UTC)


def _provider(stated: str | None, known: Sequence[str], invoice: Path) -> str:
    if stated is not None:
        if stated not in known:
            listed = ", ".join(known) or "no entry at all"
            raise UserError(f"--provider {stated}: the ledger has, for the invoice's time, {listed}")
        return stated
    if len(known) > 1:
        raise UserError(
            f"invoice {invoice}: the ledger has entries of {', '.join(known)} for its time; say whose it is with "
            "--provider NAME"
        )
    return known[0] if known else "unknown"


def _as_data(result: Reconciliation) -> dict[str, Any]:
    return {
        "agrees": result.count(Discrepancy.MATCHED) == len(result.lines),
        "counts": {finding.value.replace(" ", "_"): result.count(finding) for finding in Discrepancy},
        "settled_usd": result.settled_usd,
        "unsettled_usd": result.unsettled_usd,
        "invoiced_usd": result.theirs_usd,
        "lines": [asdict(line) for line in result.lines],
    }


def _show(result: Reconciliation, head: Mapping[str, Any], console: Console) -> None:
    counts = ", ".join(f"{result.count(finding):,} {finding.value}" for finding in Discrepancy)
    console.print(escape(f"{head['provider']}: {counts}"))
    more = f", at most {result.unsettled_usd} USD more unsettled" if result.unsettled_usd else ""
    console.print(f"ours {result.settled_usd} USD settled{more}; invoiced {result.theirs_usd} USD")
    lines = [line for line in result.lines if line.finding is not Discrepancy.MATCHED or line.note]
    if lines:
        rows = [{**asdict(line), "finding": line.finding.value} for line in lines[:SHOWN_LINES]]
        told = [name for name in rows[0] if any(row[name] for row in rows)]
        console.print(as_table(pa.Table.from_pylist(rows).select(told)))
    if len(lines) > SHOWN_LINES:
        console.print(f"{len(lines) - SHOWN_LINES:,} more lines: --json gives all")
