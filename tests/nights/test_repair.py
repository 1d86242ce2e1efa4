"""Repair: the plan made again, with what is held at no cost, under all the terms that held for the plan."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.support.nights import answer, ask, thirdshift, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import EmulatedModel, ability_for
from thirdshift.flows.quality.repair import Wanted
from thirdshift.router.certification.certificate import Certificate, Method
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.learning.repair import Mended, expected, mend
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import fit
from thirdshift.router.values import Price

SMALL, LARGE = 0, 1
OF = np.array([SMALL, LARGE], np.int32)
VENDORS = ("house", "lab")
N = 400
BY_SMALL, NONE = np.full(N, SMALL, np.int32), np.zeros(N, bool)


def served_by_small(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Small has answered all and its scores are known; large is right in half of what small has wrong."""
    right = np.random.default_rng(seed).random(N) < 0.7
    quality = np.stack([right, np.where(right, 0.95, 0.5)], axis=1).astype(np.float32)
    return quality, np.tile([True, False], (N, 1))


def problem(terms: Terms, **changes: object) -> Problem:
    posed = Problem(
        options=(Option("small", "small", "house"), Option("large", "large", "lab")),
        tasks=("a", "b"),
        task=np.arange(N) % 2,
        weight=np.ones(N, np.int64),
        cost=np.tile([0.001, 0.01], (N, 1)),
        quality=np.zeros((N, 2)),
        input_tokens=np.full(N, 10.0),
        output_tokens=np.full((N, 2), 10.0),
        terms=terms,
    )
    return replace(posed, **changes)


def mended(terms: Terms, **changes: object) -> tuple[Mended, NDArray[np.float32]]:
    quality, held = served_by_small()
    found = mend(problem(terms, **changes), OF, VENDORS, quality, held, BY_SMALL, fixed=NONE)
    assert found is not None
    return found, quality


def test_only_what_is_wrong_is_sent_again_and_no_more_than_the_floor_needs() -> None:
    found, quality = mended(Terms(floor=0.8))
    assert found.reached
    assert not quality[found.new, SMALL].any()
    assert set(found.endpoint[found.new]) == {LARGE}
    missing = 0.8 * N - float(quality[:, SMALL].sum())
    assert found.new.sum() == pytest.approx(missing / 0.5, abs=1)
    assert (found.endpoint[~found.new] == SMALL).all()


def test_cap_capacity_and_shares_hold_in_a_repair() -> None:
    for terms, most in (
        (Terms(floor=0.8, cap_usd=0.2), 20),
        (Terms(floor=0.8, max_vendor_share=0.95), None),
    ):
        found, _ = mended(terms)
        if most is not None:
            assert not found.reached
            assert found.new.sum() == most
        else:
            assert (found.endpoint == SMALL).mean() <= 0.95
    slow = (Option("small", "small", "house"), Option("large", "large", "lab", requests_per_second=0.5))
    found, _ = mended(Terms(floor=0.8, seconds=60.0), options=slow)
    assert not found.reached
    assert found.new.sum() == 30, "what was served before does not count against what can be sent now"


def test_a_floor_per_task_is_mended_in_the_tasks_that_miss_it() -> None:
    certificates = [
        Certificate(task, 0.8, 0.95, Basis.REFERENCE, "exact", N, N, mean, mean, Method.CENSUS)
        for task, mean in ((None, 0.78), ("a", 0.9), ("b", 0.66))
    ]
    wanted = Wanted.of(certificates, {None: 0.78, "a": 0.9, "b": 0.66}, exact=True, relative=False)
    assert wanted is not None
    quality, held = served_by_small()
    quality[::2, SMALL] = 1.0  # all of task a is right
    found = mend(problem(wanted.terms(Terms())), OF, VENDORS, quality, held, BY_SMALL, fixed=NONE)
    assert found is not None
    assert found.reached
    assert found.new.any()
    assert not found.new[::2].any()
    after = np.take_along_axis(quality, found.endpoint[:, None], axis=1)[1::2].mean()
    assert after >= 0.8 - 1e-6


def test_a_relative_floor_is_mended_to_what_shows_it() -> None:
    shown = Certificate(None, 0.95, 0.95, Basis.REFERENCE, "exact", N, 50, 0.98, 0.9, Method.POWERED)
    wanted = Wanted.of([shown], {None: 0.7}, exact=True, relative=True)
    assert wanted is not None
    assert wanted.mean == pytest.approx(0.7 * 0.95 / 0.9)
    assert Wanted.of([replace(shown, lower_bound=0.96)], {None: 0.7}, exact=True, relative=True) is None
    # where answers are audited, it is the estimate that starts a repair, not the want of a certificate
    assert Wanted.of([shown], {None: 0.7}, exact=False, relative=True) is None
    nothing = replace(shown, scored=0, mean=0.0, lower_bound=0.0, method=Method.NONE)
    assert Wanted.of([nothing], {None: 0.7}, exact=False, relative=True) is None, (
        "no estimate is not a low one"
    )
    audited = Wanted.of([replace(shown, mean=0.9, floor=0.95)], {None: 0.7}, exact=False, relative=False)
    assert audited is not None
    assert audited.mean == 0.95, "the mean of what was scored is that of a part; the floor is for all"


def test_where_every_answer_is_wrong_the_floor_is_aimed_at() -> None:
    known = Certificate(None, 0.5, 0.95, Basis.REFERENCE, "exact", N, N, 0.0, 0.0, Method.CENSUS)
    wanted = Wanted.of([known], {None: 0.0}, exact=True, relative=False)
    assert wanted is not None
    assert wanted.mean == 0.5


def test_a_better_answer_that_is_held_is_served_and_not_bought() -> None:
    quality, held = served_by_small()
    held[:] = True
    quality[:, LARGE] = 1.0
    # what small has wrong, large has right
    found = mend(problem(Terms(floor=0.99)), OF, VENDORS, quality, held, BY_SMALL, fixed=NONE)
    assert found is not None
    assert not found.new.any()
    assert quality[np.arange(N), found.endpoint].mean() >= 0.99


@pytest.mark.parametrize("share", [None, 0.9])
def test_of_the_answers_held_the_best_is_served_and_not_one_that_is_good_enough(share: float | None) -> None:
    """A floor that most would reach is no reason to serve a worse one than is served."""
    quality, held = served_by_small()
    held[: N // 2] = True
    quality[: N // 4, SMALL] = 1.0
    quality[: N // 4, LARGE] = 0.95
    quality[N // 4 : N // 2] = 0.3, 0.9
    posed, served = problem(Terms(floor=0.5, max_vendor_share=share)), BY_SMALL.copy()
    served[: N // 2] = LARGE
    found = mend(posed, OF, VENDORS, quality, held, served, fixed=NONE)
    assert found is not None
    assert found.reached
    assert not found.new.any()
    assert (found.endpoint[: N // 4] == SMALL).all()
    assert (found.endpoint[N // 4 : N // 2] == LARGE).all()
    quality[: N // 2] = 0.7
    for now in (SMALL, LARGE):
        served[: N // 2] = np.where(np.arange(N // 2) % 3, SMALL, now)
        found = mend(posed, OF, VENDORS, quality, held, served, fixed=NONE)
        assert found is not None
        assert (found.endpoint == served).all() or share is not None, "none is served instead of one as good"


def test_shares_of_vendors_are_kept_by_the_least_loss_of_what_is_held() -> None:
    quality, held = np.tile(np.array([0.5, 0.9], np.float32), (N, 1)), np.ones((N, 2), bool)
    quality[: N // 4, SMALL] = 0.8  # least is lost by these
    served = np.full(N, LARGE, np.int32)
    found = mend(
        problem(Terms(floor=0.6, max_vendor_share=0.8)), OF, VENDORS, quality, held, served, fixed=NONE
    )
    assert found is not None
    assert not found.new.any()
    assert (found.endpoint == SMALL).sum() == N // 5
    assert (np.flatnonzero(found.endpoint == SMALL) < N // 4).all()


def test_where_one_was_wrong_another_is_expected_to_be_wrong_more_often() -> None:
    rng = np.random.default_rng(1)
    ease = rng.normal(size=600)
    scores = np.stack([(ease + rng.normal(size=600) * 0.5 > t).astype(float) for t in (0.0, -0.5)], axis=1)
    population = Population(np.zeros(600, np.int32), np.zeros((600, 0), np.float32), 1)
    both = np.arange(200)
    seen = Observations(
        np.concatenate([np.arange(600), both]),
        np.concatenate([np.zeros(600, np.int32), np.ones(200, np.int32)]),
        np.concatenate([scores[:, 0], scores[both, 1]]),
    )
    told = expected(fit(seen, population, np.full(2, np.nan)), population, seen)
    wrong = scores[200:, 0] == 0
    assert told[200:, 1][wrong].mean() == pytest.approx(scores[200:, 1][wrong].mean(), abs=0.08)
    assert told[200:, 1][~wrong].mean() == pytest.approx(scores[200:, 1][~wrong].mean(), abs=0.08)


def test_an_audit_below_the_floor_is_followed_by_a_repair_and_another_audit(tmp_path: Path) -> None:
    known = write_sums(tmp_path / "requests.parquet", 400)
    pq.write_table(
        pq.read_table(tmp_path / "requests.parquet").drop(["reference"]), tmp_path / "requests.parquet"
    )
    models = [
        dear(ability=ability_for(0.995), slope=1, latency_seconds=0.01),
        cheap(ability=ability_for(0.5), slope=1, latency_seconds=0.01),
        EmulatedModel("wise", Price(Decimal(1), Decimal(4)), lenient=0.0, harsh=0.0, latency_seconds=0.01),
    ]
    endpoints = {  # what is believed of the cheap one beforehand is wrong, and no pilot tells
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.97},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.95},
        "wise": {"price": {"input": 1, "output": 4}, "only": "judge"},
    }
    judge = {"endpoint": "wise", "rubric": "1 if right, else 0", "max_usd": 2}
    quality = {"floor": 0.8, "pilot": 0, "labels": 400, "scorer": "judge", "judge": judge}
    with emulated(models, items=known, seed=2) as emulator:
        job = write_job(tmp_path, emulator, endpoints, quality=quality, budget={"cap_usd": 5})
        done = thirdshift("run", job, "--run-id", "one", "--json", timeout=PATIENCE_SECONDS)
    assert done.returncode in (0, 3), done.stderr
    warehouse = tmp_path / "warehouse.duckdb"
    (repaired,) = ask(warehouse, "select count(*) from ledger where purpose = 'repair'")[0]
    assert repaired > 50, done.stderr
    right = {f"r{n:05d}": str(n * 8) for n in range(400)}
    served = ask(warehouse, "select request_id, output from results")
    truth = float(np.mean([right[name] in (output or "") for name, output in served]))
    claim = answer(done)["certificate"]
    assert truth >= 0.8
    assert claim["lower_bound"] <= truth
    assert claim["mean"] == pytest.approx(truth, abs=0.1)
