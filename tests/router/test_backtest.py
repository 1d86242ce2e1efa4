from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tests.support.outcomes import FIGURES, outcomes
from thirdshift.router.backtesting import audited_night
from thirdshift.router.backtesting.backtest import backtest, figures, play, population_of
from thirdshift.router.backtesting.played_night import BacktestSettings, PlayedNight
from thirdshift.router.backtesting.recorded_outcomes import (
    Outcomes,
    OutcomesError,
    best_mix_usd,
    oracle_usd,
    read,
)
from thirdshift.router.prediction.observations import Population


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return outcomes()


def test_a_night_meets_its_floor_for_less_than_the_best_model_alone(table: pa.Table) -> None:
    answer, _ = backtest(table, BacktestSettings(0.9, True), repeat=4)
    assert len(answer["repeats"]) == 4
    for night in answer["repeats"]:
        assert set(night) == FIGURES
        assert night["floor"] == pytest.approx(0.9 * night["quality_best_single"])
        assert night["cost_learning_usd"] <= night["cost_usd"]
        assert night["scores_used"] <= 1800
        assert night["cost_oracle"] <= night["cost_best_mix"]
    assert sum(night["met"] for night in answer["repeats"]) >= 3
    assert answer["mean"]["cost_usd"] < 0.5 * answer["mean"]["cost_best_single"]
    json.dumps(answer, allow_nan=False)


def test_the_same_seed_plays_the_same_night(table: pa.Table) -> None:
    first, second, other = (backtest(table, BacktestSettings(0.8), seed=seed)[0] for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_an_absolute_floor_and_few_labels(table: pa.Table) -> None:
    answer, _ = backtest(table, BacktestSettings(0.7, labels=200), repeat=2)
    for night in answer["repeats"]:
        assert night["scores_used"] <= 200
        assert night["floor"] == 0.7


def test_a_floor_that_is_out_of_reach_is_come_as_near_to_as_can_be(table: pa.Table) -> None:
    answer, _ = backtest(table, BacktestSettings(0.999), repeat=3)
    for night in answer["repeats"]:
        assert not night["met"]
        assert night["quality"] >= night["quality_best_single"] - 0.03


@pytest.mark.parametrize("labels", [0, 1, 4, 50])
def test_a_night_with_hardly_a_label_is_played_to_its_end(table: pa.Table, labels: int) -> None:
    for relative in (False, True):
        answer, _ = backtest(table, BacktestSettings(0.8, relative, labels=labels))
        assert answer["mean"]["scores_used"] <= labels
        assert 0 < answer["mean"]["cost_usd"] <= 1.2 * answer["mean"]["cost_best_single"]


@pytest.mark.parametrize("column", ["prompt", "task"])
def test_outcomes_without_text_or_tasks_are_played(table: pa.Table, column: str) -> None:
    blank = pa.array([None] * table.num_rows, pa.string())
    answer, _ = backtest(
        table.set_column(table.column_names.index(column), column, blank), BacktestSettings(0.8, True)
    )
    assert answer["mean"]["met"]


@pytest.mark.parametrize(("endpoints", "rows"), [(("small",), 600), ((), 30), ((), 3)])
def test_one_model_or_hardly_a_request_is_a_night_too(
    table: pa.Table, endpoints: tuple[str, ...], rows: int
) -> None:
    answer, _ = backtest(table.slice(0, rows), BacktestSettings(0.8, True), endpoints=endpoints)
    assert answer["mean"]["cost_usd"] > 0


def test_nothing_but_what_was_looked_at_or_served_reaches_the_router(table: pa.Table) -> None:
    """Turning every score and cost that was neither looked at nor served leaves the night as it was."""
    known, _ = read(table)
    population = population_of(known, np.random.default_rng(0))
    settings = BacktestSettings(0.9, True, labels=900)
    played = play(known, population, settings, np.random.default_rng(5))
    lied = Outcomes(
        known.models,
        known.tasks,
        known.task,
        known.prompts,
        np.where(played.paid, known.score, 1.0 - known.score),
        np.where(played.paid, known.cost_usd, 1e3),
    )
    again = play(lied, population, settings, np.random.default_rng(5))
    np.testing.assert_array_equal(again.choice, played.choice)
    assert again.scores_used == played.scores_used


def test_an_answer_is_paid_for_once(table: pa.Table) -> None:
    known, _ = read(table)
    played = play(
        known,
        population_of(known, np.random.default_rng(0)),
        BacktestSettings(0.9, True),
        np.random.default_rng(1),
    )
    night = figures(known, BacktestSettings(0.9, True), played)
    assert night["cost_usd"] == pytest.approx(known.cost_usd[played.paid].sum())
    assert played.paid[np.arange(len(known)), played.choice].all()


def test_a_certificate_of_a_backtest_is_seldom_false() -> None:
    """Floors near what is served, few scores: 30 nights, of which a bound at 0.8 may be false in 6; 13 is one in 1,000."""
    false = shown = 0
    for seed in range(30):
        known, _ = read(outcomes(400, seed))
        floor = 0.8 if seed % 2 else 0.6
        settings = BacktestSettings(floor, False, labels=330, confidence=0.8)
        population = Population(known.task, np.zeros((400, 0), np.float32), len(known.tasks))
        night = figures(known, settings, play(known, population, settings, np.random.default_rng(seed)))
        false += night["certified"] and not night["met"]
        shown += night["certified"]
    assert false <= 12
    assert shown, "the floors are within reach of the audit"


def test_a_relative_certificate_holds_against_whichever_endpoint_is_the_best(table: pa.Table) -> None:
    known, _ = read(table)
    population = Population(known.task, np.zeros((len(known), 0), np.float32), len(known.tasks))
    for floor, word in ((0.5, True), (0.97, False)):
        settings = BacktestSettings(floor, True)
        played = play(known, population, settings, np.random.default_rng(2))
        assert played.certificate.certified is word
        share = figures(known, settings, played)["quality"] / known.score.mean(axis=0).max()
        assert played.certificate.lower_bound <= share


def test_what_was_left_out_is_said() -> None:
    table = outcomes(400)
    rows = np.ones(table.num_rows, dtype=bool)
    rows[[0, 4]] = False  # one outcome of small, one of middle
    rows[2 : 3 * 40 : 3] = False  # a tenth of frontier
    known, said = read(table.filter(pa.array(rows)))
    assert known.models == ("small", "middle")
    assert len(known) == 398
    assert any("frontier left out: outcomes for 90.0% of 400 requests" in line for line in said)
    assert any("2 of 400 requests left out" in line for line in said)


def test_the_shortlist_is_the_contracts() -> None:
    """By mean cost, only those strictly better than all cheaper ones, of these linspace."""
    score = {"a": 0.1, "b": 0.05, "c": 0.2, "d": 0.2, "e": 0.3, "f": 0.4, "g": 0.35}
    rows = [
        {
            "request_id": f"{i}",
            "prompt": "p",
            "task": "t",
            "model": m,
            "score": float(i < s * 100),
            "cost_usd": k + 1.0,
        }
        for k, (m, s) in enumerate(score.items())
        for i in range(100)
    ]
    table = pa.Table.from_pylist(rows)
    assert read(table, shortlist=8)[0].models == ("a", "c", "e", "f")
    known, said = read(table, shortlist=3)
    assert known.models == ("a", "e", "f")  # round(linspace(0, 3, 3)) = 0, 2, 3
    assert said == ["shortlist a, e, f; left out: b, c, d, g"]
    assert read(table, endpoints=("g", "b"))[0].models == ("g", "b")


def test_a_shortlist_that_is_asked_for_has_no_voters_beside_it() -> None:
    models = {"a": (0.1, 1.0), "b": (0.05, 2.0), "c": (0.4, 100.0)}
    table = pa.Table.from_pylist(
        [
            {
                "request_id": f"{i}",
                "prompt": "p",
                "task": "t",
                "model": m,
                "score": float(i < s * 100),
                "cost_usd": usd,
                "answer": "x",
            }
            for m, (s, usd) in models.items()
            for i in range(100)
        ]
    )
    assert read(table)[0].models == ("a", "c", "b")
    assert read(table, shortlist=8)[0].models == ("a", "c")
    assert read(table, shortlist=1)[0].models == ("a",)
    assert read(table.drop_columns(["answer"]))[0].models == ("a", "c")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["cost_usd"]), "no column cost_usd"),
        (lambda t: t.filter(pa.array([False] * t.num_rows)), "the outcomes have no row"),
    ],
)
def test_outcomes_that_cannot_be_played_say_why(change: object, says: str) -> None:
    with pytest.raises(OutcomesError, match=says):
        read(change(outcomes(50)))  # type: ignore[operator]
    with pytest.raises(OutcomesError, match="no outcomes of nobody; there are frontier, middle, small"):
        read(outcomes(50), endpoints=("nobody",))


def test_the_yardsticks_are_what_they_say() -> None:
    score = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    cost = np.tile([1.0, 10.0], (4, 1))
    known = Outcomes(("low", "high"), ("t",), np.zeros(4, np.int32), ["p"] * 4, score, cost)
    assert best_mix_usd(known, 0.25) == 1.0
    assert best_mix_usd(known, 0.5) == pytest.approx(5.5)  # half of each
    assert best_mix_usd(known, 0.8) is None
    assert oracle_usd(known, 0.75) == pytest.approx((10 + 1 + 1 + 10) / 4)
    assert oracle_usd(known, 0.25) == pytest.approx(1.0)


def test_no_mix_is_cheaper_than_the_oracle_who_says_what_nobody_can_reach() -> None:
    """Ten requests alike: all of them change sides at one price of quality."""
    score, cost = np.tile([0.0, 1.0], (10, 1)), np.tile([1.0, 2.0], (10, 1))
    known = Outcomes(("low", "high"), ("t",), np.zeros(10, np.int32), ["p"] * 10, score, cost)
    assert oracle_usd(known, 0.6) == pytest.approx(1.6)
    assert best_mix_usd(known, 0.6) == pytest.approx(1.6)
    assert oracle_usd(known, 1.0) == 2.0
    assert oracle_usd(known, 1.1) is None
    free = Outcomes(known.models, known.tasks, known.task, known.prompts, score, 0 * cost)
    assert oracle_usd(free, 0.6) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_oracle_is_the_linear_programs_optimum(seed: int) -> None:
    """By each request's efficient steps, the cheapest per point of quality first."""
    rng = np.random.default_rng(seed)
    score, cost = rng.integers(0, 5, (12, 3)) / 4, rng.integers(1, 6, (12, 3)) / 10
    known = Outcomes(("a", "b", "c"), ("t",), np.zeros(12, np.int32), ["p"] * 12, score, cost)
    quality = float(rng.uniform(score.min(axis=1).mean(), score.max(axis=1).mean()))
    prices = [*np.linspace(0, 20, 20001)]
    dual = max((cost - p * score).min(axis=1).mean() + p * quality for p in prices)
    assert oracle_usd(known, quality) == pytest.approx(dual, abs=1e-3)


def test_named_models_that_lack_outcomes_are_left_out_and_said() -> None:
    table = outcomes(100)
    rows = np.ones(table.num_rows, dtype=bool)
    rows[2 : 3 * 10 : 3] = False  # a tenth of frontier
    known, said = read(table.filter(pa.array(rows)), endpoints=("frontier", "small", "small"))
    assert known.models == ("small",)
    assert any("frontier left out: outcomes for 90.0%" in line for line in said)
    with pytest.raises(OutcomesError, match=r"no model has outcomes .*; frontier left out"):
        read(table.filter(pa.array(rows)), endpoints=("frontier",))


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("score", 1.5, "score of 1 rows is not from 0 to 1, such as 1.5 of r1 by small"),
        ("score", -0.5, "score of 1 rows is not from 0 to 1"),
        ("cost_usd", -1.0, "cost_usd of 1 rows is not a finite number, 0 or more"),
        ("cost_usd", float("inf"), "cost_usd of 1 rows is not a finite number"),
        ("model", None, "model is null in 1 rows"),
        ("request_id", None, "request_id is null in 1 rows"),
        ("model", "middle", "1 rows repeat a request and model, such as r1 of middle"),
    ],
)
def test_an_outcome_that_is_none_is_refused(column: str, value: object, says: str) -> None:
    rows = outcomes(50).to_pylist()
    rows[3][column] = value
    with pytest.raises(OutcomesError, match=says):
        read(pa.Table.from_pylist(rows))


def test_scores_that_are_no_numbers_are_refused() -> None:
    rows = [{**row, "score": "good"} for row in outcomes(5).to_pylist()]
    with pytest.raises(OutcomesError, match="score is string; needed are numbers"):
        read(pa.Table.from_pylist(rows))


def test_a_night_that_has_nothing_new_to_look_at_ends(
    table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every answer that the plan would try is passed over, or was looked at under another vote."""
    tries = 0

    def nobody(night: PlayedNight, choice: NDArray[np.int32]) -> NDArray[np.bool_]:
        nonlocal tries
        tries += 1
        assert tries < 20
        return np.zeros(len(choice), bool)

    monkeypatch.setattr(audited_night, "_believed", nobody)
    answer, _ = backtest(table, BacktestSettings(0.7))
    assert answer["mean"]["quality"] >= 0.6
