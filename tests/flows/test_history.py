"""What earlier answers tell of lengths and of which endpoints they hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from thirdshift.flows.planning.history import ceilings, past_scores
from thirdshift.flows.planning.measured.latency import earlier_latencies
from thirdshift.flows.planning.tiers import same_answers
from thirdshift.router.tokens.output_lengths import Observed, fit
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

CAP = 256
REALTIME = Endpoint("m", "openai/m", PriceSchedule(Price(Decimal(1), Decimal(4))))


def test_earlier_answers_cut_at_their_ceiling_foretell_the_mean_of_the_next_night() -> None:
    rng = np.random.default_rng(1)
    written = np.minimum(np.exp(rng.normal(5.2, 0.7, 2000)).astype(np.int64) + 1, CAP)
    task, endpoint = np.zeros(2000, np.int32), np.zeros(2000, np.int32)
    run = pa.chunked_array([["before"] * 2000])
    most = ceilings(run, task, written, written >= CAP)
    model = fit(
        None,
        tasks=1,
        endpoints=1,
        max_tokens=np.full(10, CAP),
        history=Observed(task, endpoint, written, most),
    )
    mean = model.mean(np.zeros(10, np.int64), np.full(10, CAP), 0).mean()
    assert mean == pytest.approx(written.mean(), rel=0.03)


def test_without_a_cut_answer_no_ceiling_is_made_up() -> None:
    run = pa.chunked_array([["a", "a", "b"]])
    most = ceilings(run, np.zeros(3, np.int32), np.array([10, 64, 20]), np.array([False, True, False]))
    assert most.tolist() == [64, 64, np.iinfo(np.int32).max]


def test_a_models_tiers_count_as_one_and_other_params_do_not() -> None:
    batch = replace(REALTIME, name="m-batch", mode=Mode.BATCH)
    thoughtful = replace(REALTIME, name="m-high", params={"reasoning_effort": "high"})
    assert same_answers((REALTIME, thoughtful, batch)).tolist() == [0, 1, 0]


def test_scores_of_a_task_teach_where_nearly_all_of_it_went_to_one_endpoint(tmp_path: Path) -> None:
    path, now = tmp_path / "warehouse.duckdb", datetime(2026, 11, 28, tzinfo=UTC)
    rows = 100
    ids, tasks = [f"r{n}" for n in range(rows)], ["whole", "split"] * (rows // 2)
    asked = pa.table({"run_id": ["before"] * rows, "request_id": ids, "task": tasks,
                      "row": range(rows), "leader": range(rows)})  # fmt: skip
    # of "split" half went elsewhere, since it was thought to do well there
    served = [n for n in range(rows) if tasks[n] == "whole" or n % 4 == 1]
    scored = pa.table({"run_id": ["before"] * len(served), "request_id": [ids[n] for n in served],
                       "endpoint": ["m"] * len(served), "model": ["openai/m"] * len(served), "score": [1.0] * len(served),
                       "scorer": ["exact"] * len(served), "purpose": ["main"] * len(served),
                       "observed_at": [now] * len(served)})  # fmt: skip
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "before", "job": "j", "status": "done", "started_at": now})
        warehouse.execute("insert into requests by name select * from asked", {"asked": asked})
        warehouse.execute("insert into observations by name select * from scored", {"scored": scored})
    past = past_scores(
        path, "j", "tonight", [REALTIME], ["split", "whole"], scorer=None, realtime_counterpart=np.array([-1])
    )
    assert past.task.tolist() == [1] * (rows // 2)


def test_scores_of_what_was_sent_on_teach_where_its_choice_is_known(tmp_path: Path) -> None:
    """All of "whole" was scored at one endpoint, so that who was mended is told by those scores; of "split" it is not."""
    path, now, rows = tmp_path / "warehouse.duckdb", datetime(2026, 11, 29, tzinfo=UTC), 100
    ids, tasks = [f"r{n}" for n in range(rows)], ["whole", "split"] * (rows // 2)
    asked = pa.table({"run_id": ["before"] * rows, "request_id": ids, "task": tasks,
                      "row": range(rows), "leader": range(rows)})  # fmt: skip
    first = [(n, "m", "main", float(n % 3 > 0)) for n in range(rows) if tasks[n] == "whole" or n % 4 == 1]
    again = [(n, "better", "repair", 1.0) for n, _, _, score in first if score == 0.0]
    row, endpoint, purpose, score = zip(*(first + again), strict=True)
    scored = pa.table({"run_id": ["before"] * len(row), "request_id": [ids[n] for n in row], "endpoint": endpoint,
                       "model": [f"openai/{name}" for name in endpoint], "score": score, "purpose": purpose,
                       "scorer": ["exact"] * len(row), "observed_at": [now] * len(row)})  # fmt: skip
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "before", "job": "j", "status": "done", "started_at": now})
        warehouse.execute("insert into requests by name select * from asked", {"asked": asked})
        warehouse.execute("insert into observations by name select * from scored", {"scored": scored})
    endpoints = [REALTIME, replace(REALTIME, name="better", model="openai/better")]
    past = past_scores(
        path,
        "j",
        "tonight",
        endpoints,
        ["split", "whole"],
        scorer=None,
        realtime_counterpart=np.array([-1, -1]),
    )
    assert set(past.task.tolist()) == {1}
    mended = past.endpoint == 1
    assert mended.sum() == sum(1 for n, *_ in again if tasks[n] == "whole")
    assert past.request is not None
    assert set(past.request[mended]) <= set(past.request[~mended])


def test_batches_that_came_back_sooner_than_stated_are_enqueued_as_soon(tmp_path: Path) -> None:
    path, begun = tmp_path / "warehouse.duckdb", datetime(2026, 11, 28, tzinfo=UTC)
    batches = [begun + timedelta(hours=n) for n in range(6) for _ in range(3)]
    took = [timedelta(minutes=40 + 4 * (n // 3)) for n in range(18)]
    ledger = pa.table({"entry_id": [f"e{n}" for n in range(18)], "run_id": ["before"] * 18,
                       "request_id": [f"r{n}" for n in range(18)], "shard_id": ["s"] * 18, "endpoint": ["m-batch"] * 18,
                       "model": ["openai/m"] * 18, "mode": ["batch"] * 18, "status": ["settled"] * 18,
                       "output_tokens": [5] * 18, "started_at": batches,
                       "settled_at": [at + one for at, one in zip(batches, took, strict=True)]})  # fmt: skip
    tier = replace(REALTIME, name="m-batch", mode=Mode.BATCH, turnaround_seconds=5400.0)
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "before", "job": "j", "status": "done", "started_at": begun})
        warehouse.execute("insert into ledger by name select * from ledger_rows", {"ledger_rows": ledger})
        (known,) = earlier_latencies((tier,), warehouse, emulated=False).values()
    assert known.turnaround_seconds == 60 * 60
    assert known.refill_seconds == pytest.approx(1.05 * 50 * 60)
