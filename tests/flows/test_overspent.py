"""A provider that bills more than its ceiling allowed: the verdict is the budget's, and the endpoint is named."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.flows.quality.finishing import finish
from thirdshift.flows.runs.context import context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.values import Answer, Intent, LedgerStatus, Mode, Outcome, Purpose, Usage
from thirdshift.warehouse.intake.intake import freeze
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.store import requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
JOB = """\
name: tickets
input: in.parquet
budget: {cap_usd: 1}
endpoints:
  - {name: greedy, model: openai/m, api_base: "http://127.0.0.1:1/v1", mode: batch, price: {input: 1, output: 1}}
"""


def test_what_is_spent_above_the_cap_is_exit_4_though_all_is_answered(tmp_path: Path) -> None:
    """The cap is 1 USD, 0.50 was set aside, and the batch's usage comes to 10."""
    pq.write_table(pa.table({"request_id": ["a"], "prompt": ["x"]}), tmp_path / "in.parquet")
    (tmp_path / "job.yaml").write_text(JOB)
    context = context_for(RunOptions(tmp_path / "job.yaml"), "one")
    freeze(context.input, context.folder)
    with Warehouse.open(context.warehouse) as w:
        runs.start(w, {"run_id": "one", "job": "tickets", "status": "running", "started_at": NOW})
        requests.save(w, "one", context.folder)
    with FileJournal(context.folder) as journal:
        intent = Intent(
            "e",
            "one",
            "s",
            0,
            "a",
            "greedy",
            "openai/m",
            "127.0.0.1",
            Mode.BATCH,
            Purpose.MAIN,
            1,
            Decimal("0.5"),
            NOW,
        )
        journal.sent([intent])
        answer = Answer(0, "a", "yes", "stop")
        journal.settled([Outcome("e", LedgerStatus.SETTLED, Decimal(10), NOW, Usage(100, 10), reply=answer)])
        part = journal.seal("s")
    assert part is not None
    with Warehouse.open(context.warehouse) as w:
        ingest_parts(w, part)
        results.compose(w, "one", pa.table({"row": [0], "endpoint": ["greedy"]}))
        summary = finish(w, context, set(), out_of_reach=False)
    assert (summary.exit, summary.outcomes[0], summary.errors) == (4, "budget", 0)
    assert summary.spent_usd == 10
    assert summary.notes == (
        "greedy billed $10.00 for 1 attempts that could cost $0.50 at most by its own ceiling",
    )
