"""The random audit as decisions: what is drawn, what counts, how many are asked for, who may see what."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.quality.audit import (
    ENOUGH,
    Audit,
    Scope,
    certificate,
    first_size,
    given_up,
    pairs_within,
    scopes,
    shown,
    size_for,
)
from thirdshift.flows.quality.draws import Draw, ServedAnswers, load, save
from thirdshift.flows.quality.scoring import Scoring, judgeable
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.intake.intake import Intake
from thirdshift.warehouse.store.judgements import replies
from thirdshift.warehouse.store.store import Warehouse

JOB = """\
name: polite
input: tickets.parquet
quality: {floor: 0.8, scorer: judge, judge: {endpoint: wise, rubric: Be kind.}%s}
budget: {cap_usd: 10}
policies: {pii: {regions: {allow: [eu]}}}
endpoints:
  - {name: flash, model: openai/f, api_base: http://127.0.0.1:1/v1, region: eu, price: {input: 1, output: 1}}
  - {name: wise, only: judge, model: openai/w, api_base: http://127.0.0.1:1/v1, price: {input: 1, output: 1}}
"""


def context(folder: Path, more: str = "", text: str = JOB) -> RunContext:
    path = folder / "job.yaml"
    path.write_text(text % more)
    return context_for(RunOptions(path), "run")


def served(score: NDArray[np.float64], predicted: float = 0.9) -> ServedAnswers:
    count = len(score)
    task = np.array([("easy", "hard")[n % 2] for n in range(count)], np.object_)
    none = np.full(count, np.nan)
    return ServedAnswers(np.arange(count), task, ["flash"] * count, score, np.full(count, predicted), none)


def draw(order: NDArray[np.int64], view: ServedAnswers, **sizes: int) -> Draw:
    names = np.array(view.endpoint, np.str_)
    return Draw(1, 0, "2026-11-22T00:00:00+00:00", sizes, view.row, names, order)


@given(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=1, max_size=40))
def test_the_audit_is_the_beginning_of_its_order_and_everything_is_counted_once(
    values: list[float],
) -> None:
    score = np.array(values)
    order = np.random.default_rng(len(values)).permutation(np.flatnonzero(np.arange(len(values)) % 3 > 0))
    (scope,) = scopes(served(score), draw(order, served(score)), per_task=False, relative=False)
    done = len(scope.audit)
    np.testing.assert_array_equal(scope.audit, score[order[:done]])
    assert not np.isnan(scope.audit).any()
    assert done == len(order) or np.isnan(score[order[done]])
    assert scope.population == len(values)
    assert scope.known.sum() == np.nansum(score[np.setdiff1d(np.arange(len(values)), order)])


def test_tasks_have_beginnings_of_their_own() -> None:
    view = served(np.array([1.0, np.nan, 1.0, 0.0, np.nan, 1.0]))
    order = np.array([2, 1, 0, 3, 5, 4])
    whole, easy, hard = scopes(view, draw(order, view), per_task=True, relative=False)
    assert (whole.audit.tolist(), easy.audit.tolist(), hard.audit.tolist()) == ([1.0], [1.0, 1.0], [])
    tasks = {n: ("easy", "hard")[n % 2] for n in range(6)}
    assert draw(order, view, **{"": 1, "hard": 2}).asked(tasks).tolist() == [2, 1, 3]


def test_an_audit_takes_more_the_nearer_the_floor_and_never_more_than_there_are(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    none = np.zeros(0)
    sizes = [size_for(given_, Scope(None, none, none, 2000, mean, none)) for mean in (0.99, 0.95, 0.9, 0.85)]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[-1] < 2000
    known = Scope(None, np.ones(1700), none, 300, 0.9, none)
    assert size_for(given_, known) == 0, "what is known already shows the floor"
    assert certificate(given_, known, 1).certified
    assert size_for(context(tmp_path, ", audit: 77"), Scope(None, none, none, 2000, 0.9, none)) == 77


def test_a_judge_that_answers_at_once_is_asked_about_a_few_first_and_a_batch_tier_about_what_it_takes(
    tmp_path: Path,
) -> None:
    none = np.zeros(0)
    near, far = (Scope(None, none, none, 2000, mean, none) for mean in (0.85, 0.99))
    at_once = context(tmp_path)
    assert first_size(at_once, near) == ENOUGH < size_for(at_once, near)
    assert first_size(at_once, far) == size_for(at_once, far) < ENOUGH
    fixed = context(tmp_path, ", audit: 77")
    assert first_size(fixed, near) == 77
    (tmp_path / "batch").mkdir()
    tier = JOB.replace("model: openai/w, ", "model: openai/w, mode: batch, ")
    assert tier != JOB
    waits = context(tmp_path / "batch", text=tier)
    assert first_size(waits, near) == size_for(waits, near)


def test_an_audit_is_extended_by_no_more_than_it_takes_and_given_up_only_where_chance_does_not_explain_it(
    tmp_path: Path,
) -> None:
    """0.87 is right and the floor is 0.8; of the first thirty 0.77 are, which is luck."""
    given_ = context(tmp_path)
    given_.folder.mkdir(parents=True)
    right = np.random.default_rng(3).random(2000) < 0.87
    order = np.concatenate([np.flatnonzero(right)[:23], np.flatnonzero(~right)[:7]])
    order = np.concatenate(
        [order, np.random.default_rng(3).permutation(np.setdiff1d(np.arange(2000), order))]
    )
    score = np.full(2000, np.nan)
    asked, sizes = draw(order, served(score), **{"": ENOUGH}), [ENOUGH]
    audit = Audit.__new__(Audit)
    audit.context = given_
    while True:
        score[order[: sizes[-1]]] = right[order[: sizes[-1]]]
        grown = audit._grown(served(score), asked, None)
        if grown is None:
            break
        asked = grown
        sizes.append(grown.sizes[""])
    (scope,) = scopes(served(score), asked, per_task=False, relative=False)
    assert certificate(given_, scope, 1).certified
    assert len(sizes) > 3
    assert all(more <= int(1.4 * less) + 1 for less, more in pairwise(sizes))
    worse = Scope(None, np.zeros(0), np.repeat([1.0, 0.0], [140, 60]), 1800, 0.9, np.zeros(0))
    assert given_up(given_, worse, certificate(given_, worse, 1))


def test_answers_that_a_repair_exchanged_are_no_sample_of_the_rest(tmp_path: Path) -> None:
    """Seven in ten are right; of 300 drawn the wrong ones are exchanged, and no more may be asked."""
    given_ = context(tmp_path)
    given_.folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    right, order = (rng.random(2000) < 0.7).astype(float), rng.permutation(2000)
    score = np.full(2000, np.nan)
    score[order[:300]] = right[order[:300]]
    view = served(score)
    save(given_.folder, draw(order, view, **{"": 300}))
    (before,) = shown(given_, view)
    assert (before.scored, before.certified) == (300, False)
    assert before.lower_bound == pytest.approx(0.7, abs=0.1)
    wrong = np.flatnonzero(score == 0.0)
    mended = [("flash", "better")[row in wrong] for row in range(2000)]
    (after,) = shown(given_, replace(view, endpoint=mended, score=np.where(score == 0.0, 1.0, score)))
    assert after.lower_bound == pytest.approx(300 / 2000), "what was scored counts, the rest is not known"
    assert not after.certified
    another = load(given_.folder)
    assert another is not None
    assert another.number == 2
    assert not np.isin(another.order, order[:300]).any()


def test_a_certificate_names_its_judge_and_a_later_round_is_held_to_more(tmp_path: Path) -> None:
    scores = (np.random.default_rng(1).random(300) < 0.9).astype(float)
    scope = Scope(None, np.zeros(0), scores, 1700, 0.9, np.zeros(0))
    first, second = (certificate(context(tmp_path), scope, number) for number in (1, 2))
    assert first.scorer == "judge wise, rubric " + first.scorer[-4:]
    assert first.basis == "judge"
    assert second.lower_bound < first.lower_bound < scores.mean()


def inputs(folder: Path, leader: NDArray[np.int64], policy: NDArray[np.int32]) -> PreparedInput:
    zeros = np.zeros(len(leader), np.int32)
    return PreparedInput(
        folder, Intake.__new__(Intake), zeros, leader, policy, (), zeros, np.ones(len(leader), bool)
    )


def test_a_judge_sees_nothing_that_a_policy_keeps_from_it(tmp_path: Path) -> None:
    """Nor what a duplicate of the request is kept from it by."""
    batch = inputs(tmp_path, np.array([0, 1, 0, 3]), np.array([0, 1, 1, 0], np.int32))
    assert judgeable(context(tmp_path), batch).scorable.tolist() == [False, False, False, True]
    everyone = JOB.replace("policies:", "policy: {regions: {allow: [eu]}}\npolicies:")
    with pytest.raises(UserError, match="may see no request under the job's policy"):
        context(tmp_path, text=everyone)


@pytest.mark.parametrize(
    "scorer", ["scorer: agreement", "scorer: judge, judge: {endpoint: wise, rubric: Be kind.}"]
)
def test_the_endpoint_of_a_relative_floor_sees_nothing_that_a_policy_keeps_from_it(
    tmp_path: Path, scorer: str
) -> None:
    """Its answers are asked for to score others' by, whoever serves them; a policy may also have come after a draw."""
    abroad = (
        "  - {name: abroad, model: openai/a, api_base: http://127.0.0.1:1/v1, price: {input: 1, output: 1}}\n"
    )
    text = JOB.replace(
        "scorer: judge, judge: {endpoint: wise, rubric: Be kind.}", f"{scorer}, relative_to: abroad"
    )
    if scorer == "scorer: agreement":
        text = text.replace("name: wise, only: judge", "name: wise")
    given_ = context(tmp_path, text=text + abroad)
    batch = inputs(tmp_path, np.array([0, 1, 0, 3]), np.array([0, 1, 1, 0], np.int32))
    assert judgeable(given_, batch).scorable.tolist() == [False, False, False, True]
    (asked,) = Scoring(given_, batch).baseline_requests([0, 1, 2, 3], None)
    assert (asked.endpoint, asked.rows.tolist()) == ("abroad", [3])


def test_judging_has_a_limit_of_its_own_and_labels_are_shared_with_the_pilot(tmp_path: Path) -> None:
    assert context(tmp_path).judge_usd == 2, "a fifth of the cap"
    limited = context(tmp_path, ", labels: 500, audit: 350")
    assert (limited.pilot_labels, limited.looks) == (150, 0), "with one endpoint there is nothing to pilot"
    assert context(tmp_path, ", labels: 500").pilot_labels == 250


def test_the_anchor_answers_no_more_than_the_labels_left_can_make_pairs_of() -> None:
    """Of six rows one has both scores, one the served answer's, and one is the baseline's own answer."""
    none = np.full(6, np.nan)
    view = served(np.array([np.nan, 1.0, np.nan, np.nan, 0.0, np.nan]))
    view = replace(view, baseline=none.copy(), endpoint=[*["flash"] * 5, "best"])
    view.baseline[1] = 1.0
    rows = np.array([1, 0, 4, 5, 2, 3])  # which take 0, 2, 1, 1, 2 and 2
    pairs = [pairs_within(view, rows, ["best"], left) for left in (-1, 0, 1, 2, 3, 4, 5, 6, 8, 99)]
    assert pairs == [0, 1, 1, 2, 3, 4, 4, 5, 6, 6]


def test_a_verdict_that_fails_twice_is_0_unless_the_judge_is_out_of_order(tmp_path: Path) -> None:
    columns = "run_id, shard_id, row, request_id, purpose, reply, output, failure_kind"
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:

        def reply(shard: str, row: int, output: str | None, kind: str | None = None) -> None:
            told = [
                ("reply", "answer" if kind is None else "failure"),
                ("output", output),
                ("failure_kind", kind),
            ]
            values = {"run_id": ["run"], "shard_id": [shard], "row": [row], "request_id": [f"r{row}"]}
            values |= {"purpose": ["judge"]} | {name: pa.array([value], pa.string()) for name, value in told}
            warehouse.execute(
                f"insert into responses by name select {columns} from told", {"told": pa.table(values)}
            )

        for shard in ("1", "2", "3"):
            warehouse.execute(
                f"insert into shards (run_id, shard_id, subject) values ('run', '{shard}', 'flash')"
            )
        for row in range(20):
            reply("1", row, None, "timeout") if row in (3, 4, 5) else reply("1", row, "1")
        assert replies(warehouse, "run")["row"].to_pylist() == [
            row for row in range(20) if row not in (3, 4, 5)
        ]
        reply("2", 3, "1")
        reply("2", 4, None, "overloaded")
        reply("2", 5, None, "budget")
        told = replies(warehouse, "run").to_pylist()
        assert [each["row"] for each in told if each["output"] is None] == [4], "5 was not sent a second time"
        assert len(told) == 19
        for row in (21, 22):
            reply("2", row, None, "timeout")
            reply("3", row, None, "timeout")
        assert None not in replies(warehouse, "run")["output"].to_pylist(), "an outage is no opinion"


def test_a_judge_that_did_not_answer_is_asked_once_more(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    assert given_.judge is not None
    scoring = Scoring(given_, inputs(tmp_path, np.arange(1), np.zeros(1, np.int32)))
    found = [
        {
            "row": 0,
            "request_id": "r0",
            "endpoint": "flash",
            "output": "4",
            "messages": "[]",
            "reference": None,
        }
    ]
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        asked = [scoring._judged(warehouse, given_.judge, found, None)[1] for _ in range(3)]
    assert [len(each) for each in asked] == [1, 1, 0]


def test_a_relative_floor_served_wholly_by_its_own_anchor_is_met_and_nothing_is_asked(tmp_path: Path) -> None:
    """Its share is 1 whatever its answers are worth: no score is bought for that."""
    relative = JOB.replace("floor: 0.8,", "floor: 0.9, relative_to: flash,")
    given_ = context(tmp_path, text=relative)
    given_.folder.mkdir(parents=True)
    view = served(np.full(50, np.nan))
    (made,) = shown(given_, view)
    assert (made.mean, made.lower_bound, made.scored, made.certified) == (1.0, 1.0, 0, True)
    found = load(given_.folder)
    assert found is not None
    assert dict(found.sizes) == {"": 0}
    (other,) = shown(given_, replace(view, endpoint=["flash"] * 49 + ["other"]))
    assert not other.certified
