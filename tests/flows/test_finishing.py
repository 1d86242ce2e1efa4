"""How a night is judged once its answers are in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thirdshift.flows.quality.finishing import unanswered_score_nothing
from thirdshift.flows.verdicts import Verdict, outcomes_of, verdicts_of
from thirdshift.warehouse.store.store import Warehouse


def test_a_request_that_was_never_sent_scores_0_where_it_could_have_been_scored(tmp_path: Path) -> None:
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        warehouse.execute(
            "insert into requests by name select 'one' as run_id, 'r' || i as request_id, i as row, i as leader "
            "from range(4) t(i)"
        )
        warehouse.execute(
            """insert into results by name from (values
               ('one', 'r0', null, 1.0), ('one', 'r1', 'unanswered', null), ('one', 'r2', 'unanswered', null),
               ('one', 'r3', null, null)) t(run_id, request_id, error, score)"""
        )
        unanswered_score_nothing(warehouse, "one", np.array([True, True, False, True]))
        scores = warehouse.query("select score from results order by request_id")["score"].to_pylist()
    assert scores == [1.0, 0.0, None, None]


def test_what_a_runs_outcomes_name_are_its_verdicts() -> None:
    assert outcomes_of([]) == ["done"]
    assert verdicts_of(["done"]) == []
    assert verdicts_of(outcomes_of(Verdict)) == list(Verdict)
