"""People's scores: what they are given, what is taken back, and what their scores show."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.warehouses import COUNT, NOW, secret_run
from thirdshift.flows.cli.labels_io import export_labels
from thirdshift.flows.errors import UserError
from thirdshift.flows.quality.human_labels import Answers, _readable, answers_of, certified
from thirdshift.router.certification.certificate import Method
from thirdshift.warehouse.exchange.labels import COLUMNS, LabelsError, harmless, read_labels, write_labels
from thirdshift.warehouse.exchange.purge import purge
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

ROW = dict.fromkeys(COLUMNS, "x") | {"run_id": "r", "score": None}


def test_a_file_for_people_is_harmless_to_spreadsheets_and_terminals_and_is_not_overwritten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.csv"
    write_labels(path, [ROW | {"prompt": "=1+1", "output": "\x1b[31mred", "task": "-5", "reference": None}])
    (row,) = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    assert (row["prompt"], row["output"], row["task"]) == ("'=1+1", "\\x1b[31mred", "'-5")
    assert (row["reference"], row["score"]) == ("", "")
    assert harmless("plain, text") == "plain, text"
    with pytest.raises(LabelsError, match="is there already"):
        write_labels(path, [ROW])
    with pytest.raises(LabelsError, match=r"\.csv or \.parquet"):
        write_labels(tmp_path / "labels.xlsx", [ROW])


def test_scores_come_back_as_people_and_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("request_id;score\na;1\nb;0,5\nc;\nd; 0.25 \n", encoding="utf-8-sig")
    assert {row["request_id"]: row["score"] for row in read_labels(path)} == {
        "a": 1,
        "b": 0.5,
        "c": None,
        "d": 0.25,
    }
    write_labels(tmp_path / "labels.parquet", [ROW | {"score": 0.75}])
    assert pq.read_table(tmp_path / "labels.parquet").column_names == list(COLUMNS)
    assert read_labels(tmp_path / "labels.parquet")[0]["score"] == 0.75


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("request_id,score\na,1.5\nb,good\n", "line 2, request a: '1.5' is no score from 0 to 1"),
        ("request_id,points\na,1\n", "has no column score; it has request_id, points"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_line_by_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LabelsError, match=says):
        read_labels(path)
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "nowhere.csv")


def answers(rng: np.random.Generator, judged: float | None, truth: np.ndarray[Any, Any]) -> Answers:
    """1,000 results; a share of them scored by a judge that is right nine times in ten."""
    count = len(truth)
    judge = np.where(rng.random(count) < 0.9, truth, 1.0 - truth)
    known = rng.random(count) < (judged or 0.0)
    table = pa.table(
        {
            "request_id": [f"r{n}" for n in range(count)],
            "task": ["easy", "hard"] * (count // 2),
            "endpoint": ["a"] * count,
            "model": ["m"] * count,
            "score": pa.array(np.where(known, judge, np.nan), from_pandas=True),
            "predicted": np.full(count, 0.8),
        }
    )
    return Answers(table, np.arange(count), rng.permutation(count))


RUN = {"config": {"quality": {"floor": 0.7, "confidence": 0.95, "per_task": False}}}


@pytest.mark.parametrize(
    ("judged", "method"), [(None, Method.EXACT), (0.3, Method.POWERED), (1.0, Method.POWERED)]
)
def test_the_bound_by_people_covers_the_truth_with_the_confidence_stated(
    judged: float | None, method: Method
) -> None:
    """False in at most 21 of 200 audits: what one that is false in 5 % stays below with probability 0.999."""
    rng = np.random.default_rng(20261122)
    false, bounds = 0, []
    for _ in range(200):
        truth = (rng.random(1000) < 0.85).astype(float)
        answered = answers(rng, judged, truth)
        scores: dict[int, float | None] = {place: truth[place] for place in answered.firsts()[:300].tolist()}
        (made,) = certified(answered, scores, RUN, again=False)
        assert (made.method, made.scored, made.population) == (method, 300, 1000)
        false += made.lower_bound > truth.mean() + 1e-9
        bounds.append(truth.mean() - made.lower_bound)
    assert false <= 21
    assert np.mean(bounds) < 0.08


def test_an_answer_that_people_passed_over_counts_as_0_and_what_was_not_drawn_counts_not_at_all() -> None:
    rng = np.random.default_rng(1)
    answered = answers(rng, None, np.ones(1000))
    first = answered.order[:100].tolist()
    scores: dict[int, float | None] = dict.fromkeys(first, 1.0)
    ((whole),) = certified(answered, scores, RUN, again=False)
    scores[first[10]] = None
    ((gap),) = certified(answered, scores, RUN, again=False)
    assert (whole.mean, gap.mean) == (1.0, 0.99)
    picked = {int(answered.order[-1]): 1.0} | scores
    ((same),) = certified(answered, picked, RUN, again=False)
    assert same == gap, "a row that somebody chose is no random one"
    scores |= dict.fromkeys(first[50:], None)
    ((fewer),) = certified(answered, scores, RUN, again=False)
    assert fewer.scored == 50


def test_duplicates_are_asked_about_once_and_count_each() -> None:
    answered = answers(np.random.default_rng(2), None, np.ones(1000))
    answered = Answers(answered.table, np.arange(1000) // 2 * 2, answered.order)
    asked = answered.firsts()[:100].tolist()
    assert len({place // 2 for place in asked}) == 100
    (made,) = certified(answered, dict.fromkeys(asked, 1.0), RUN, again=False)
    assert 100 <= made.scored <= 200


def test_a_purge_leaves_the_order_of_the_others_as_it_was(tmp_path: Path) -> None:
    """Labels that people have begun are still the beginning of the draw, and the erased answer counts as 0."""
    path = tmp_path / "warehouse.duckdb"
    secret_run(path, "run", NOW)
    with Warehouse.open(path) as warehouse:
        before = answers_of(warehouse, "run")
    purge(path, request_ids=["r2"])
    with Warehouse.open(path) as warehouse:
        after = answers_of(warehouse, "run")
    assert (before.purged, after.purged) == ((), ("r2",))
    assert after.firsts().tolist() == [place for place in before.firsts().tolist() if place != 2]
    (made,) = certified(after, dict.fromkeys(after.firsts().tolist(), 1.0), RUN, again=False)
    assert (made.population, made.scored, made.mean) == (COUNT, COUNT - 1, 0.75)


def test_an_export_leaves_out_what_was_purged_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "warehouse.duckdb", tmp_path / "labels.csv"
    secret_run(path, "run", NOW)
    with Warehouse.open(path) as warehouse:
        runs.update(warehouse, "run", config={"quality": {"relative_to": None}})
    purge(path, request_ids=["r2"])
    assert export_labels(path, "run", output, 300, as_json=False) == 0
    assert "left out, as their text was purged: r2" in capsys.readouterr().out
    with output.open(encoding="utf-8-sig") as file:
        assert sorted(row["request_id"] for row in csv.DictReader(file)) == ["r0", "r1", "r3"]
    purge(path, request_ids=["r0", "r1", "r3"])
    with pytest.raises(UserError, match="nothing left to read"):
        export_labels(path, "run", tmp_path / "none.csv", 300, as_json=False)


def test_a_repeated_request_is_asked_about_where_the_first_of_its_kind_was_purged() -> None:
    leader = np.array([0, 0, 2, 0, 2])
    assert _readable(leader, np.zeros(5, bool)).tolist() == [0, 0, 2, 0, 2]
    assert _readable(leader, np.array([True, False, False, False, False])).tolist() == [0, 1, 2, 1, 2]
