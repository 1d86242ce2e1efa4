"""How often a night claims a floor that it has not reached, where only some answers can be scored.

    .venv/bin/python benchmarks/claims.py [--seeds 200] [--nights NAME …]

900 tickets in three tasks, three models at prices 1 : 10 : 60, the truth of every answer kept aside. A night's own
decisions are played (pilot, plan, repair, audit, certificate) with answers and scores held in memory: no Prefect, no
provider. References stand on a random seventh, on the easiest half, on one task only, or on rows that a policy sends
elsewhere; each night is played as a job that says nothing of them (`given`), as one that asks for no more than what can be
scored (`scorable`), and as one that says that they are a random sample (`sample`). Where that is untrue, and it can be seen
beforehand (a task, a policy, the prompts' lengths), nothing may be certified of all. A certificate is false where the truth
of what it is about is below its floor or its bound: all requests, or those alone that can be scored.

The easiest half by an ease that no feature tells, said to be a random sample, is the user's word, which nobody can check:
that night is played and shown, and is not judged. Ends with one JSON line; exits 1 where false certificates are more than
5 % of the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.history import EarlierNights
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.measured.run_queries import CallFigures, FinalReplies, RunQueries, TokenUsage
from thirdshift.flows.planning.planner import best_possible
from thirdshift.flows.quality import audit
from thirdshift.flows.quality.population import about
from thirdshift.flows.quality.repair import Repair
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.certification.certificate import Certificate, Claim, ScoredSample, certify
from thirdshift.router.certification.representative import unlike
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.prediction.observations import Observations, Population, no_observations, no_past
from thirdshift.router.pricing.caches import CacheableTokens
from thirdshift.router.values import Purpose

ROWS, TASKS, MODELS = 900, 3, 3
SKILL = np.array([[0.2, 1.0, 2.6], [-0.6, 0.6, 2.2], [-1.4, 0.4, 2.0]])
"""[tasks, models] log odds of being right at a ticket of usual ease."""
EASE = 1.2
"""Standard deviation of what makes a ticket easy for all models alike; no feature of it is known."""
ALLOWED = 0.05
JOB = """\
name: tickets
input: none.parquet
quality: {{floor: {floor}, scorer: exact, pilot: 60, {said}{relative}}}
endpoints:
  - {{name: small, model: openai/small, api_base: http://127.0.0.1:1/v1, price: {{input: 1, output: 1}}}}
  - {{name: middle, model: openai/middle, api_base: http://127.0.0.1:1/v1, price: {{input: 10, output: 10}}}}
  - {{name: large, model: openai/large, api_base: http://127.0.0.1:1/v1, price: {{input: 60, output: 60}}}}
"""
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """One batch with its truth."""

    task: NDArray[np.int32]
    score: Floats
    """[rows, models] 1 where right."""
    scorable: Bools
    policy: NDArray[np.int32]
    allowed: Bools
    """[rows, models]"""
    length: Floats
    """Of the prompts."""


def world(rng: np.random.Generator, references: str) -> World:
    task = rng.integers(0, TASKS, ROWS).astype(np.int32)
    ease = rng.normal(0.0, EASE, ROWS)
    odds = SKILL[task] + ease[:, None] + rng.normal(0.0, 0.5, (ROWS, MODELS))
    score = (rng.random((ROWS, MODELS)) < 1.0 / (1.0 + np.exp(-odds))).astype(float)
    allowed = np.ones((ROWS, MODELS), bool)
    seventh = rng.permutation(ROWS) % 7 == 0
    length = rng.normal(0.0, 1.0, ROWS)
    if references.startswith("easiest half"):
        scorable = ease > np.median(ease)
        length -= ease if references == "easiest half, short" else 0.0
    elif references == "one task":
        scorable = task == 0
    else:
        scorable = seventh
    policy = np.zeros(ROWS, np.int32)
    if references == "policy elsewhere":  # whoever has a reference may be answered by the large model alone
        policy = seventh.astype(np.int32)
        allowed[seventh, :2] = False
    return World(task, score, scorable, policy, allowed, length)


@dataclass
class Memory:
    """`RunQueries` of a night that is held in memory."""

    seen: Observations = field(default_factory=no_observations)
    looked: Observations = field(default_factory=no_observations)
    held: list[tuple[int, int, str]] = field(default_factory=list)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def scores(self, *, voted: bool = False) -> Observations:  # noqa: ARG002 - as RunQueries has it
        return self.seen

    def pilot_scores(self, *, served: bool = False) -> Observations:  # noqa: ARG002 - as RunQueries has it
        return self.looked

    def token_usage(self) -> TokenUsage:
        none = np.zeros(0, np.int64)
        return TokenUsage(none, none.astype(np.int32), none, none)

    def calls(self) -> CallFigures:
        """Nothing is known of how long answers take: the nights have no deadline."""
        none = np.zeros(0)
        return CallFigures(none.astype(np.int32), none.astype(np.int64), none, none, none)

    def replies(self) -> FinalReplies:
        row, endpoint, purpose = zip(*self.held, strict=True) if self.held else ((), (), ())
        named = np.array(purpose, np.str_)
        return FinalReplies(
            np.array(row, np.int64), np.array(endpoint, np.int32), np.ones(len(row), bool),
            named == "repair", named == "main", np.zeros(len(row), bool),
        )  # fmt: skip

    def answers(self, _: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], list[str]]:
        """No texts are held, so that nobody votes."""
        none = np.zeros(0, np.int64)
        return none, none.astype(np.int32), []

    def answer(
        self, world: World, row: NDArray[np.int64], endpoint: NDArray[Any], purpose: str, *, scored: bool
    ) -> None:
        """Have these answered; scores of rows that can be scored come with them, where `scored`."""
        self.held += [(int(r), int(e), purpose) for r, e in zip(row, endpoint, strict=True)]
        known = world.scorable[row] & scored
        row, endpoint = row[known], endpoint[known]
        have = set(zip(self.seen.row.tolist(), self.seen.endpoint.tolist(), strict=True))
        new = np.array(
            [(r, e) not in have for r, e in zip(row.tolist(), endpoint.tolist(), strict=True)], bool
        )
        found = Observations(row[new], endpoint[new].astype(np.int32), world.score[row[new], endpoint[new]])
        self.seen = self.seen.plus(found)
        if purpose == "pilot":
            self.looked = self.looked.plus(found)


@dataclass
class Night:
    """One night in play."""

    world: World
    context: RunContext
    memory: Memory
    learner: Learner
    sample: bool
    """The references are taken for a random sample."""

    @staticmethod
    def of(world: World, context: RunContext) -> Night:
        rows = np.arange(ROWS, dtype=np.int64)
        tokens = np.full(ROWS, 200, np.int32)
        population = Population(world.task, np.zeros((ROWS, 0), np.float32), TASKS, np.ones(ROWS))
        columns = RequestColumns(
            rows, np.ones(ROWS, np.int32), population, np.full(ROWS, 64, np.int32), (tokens,) * MODELS,
            world.allowed, (CacheableTokens(np.zeros(ROWS, np.int32), None),) * MODELS, rows, tuple("abc"[:TASKS]),
        )  # fmt: skip
        memory = Memory()
        none = np.full(MODELS, -1, np.int32)
        learner = Learner(
            context,
            cast("RunQueries", memory),
            columns,
            world.scorable,
            EarlierNights(None, no_past(), None),
            none,
            lambda *_: None,
        )
        different = unlike(
            world.scorable, {"task": world.task, "policy": world.policy}, {"the prompt's length": world.length},
            {"task": columns.tasks, "policy": ("none", "large alone")},
        )  # fmt: skip
        return Night(world, context, memory, learner, context.by_sample and different is None)

    def play(self) -> tuple[Certificate | None, Floats]:
        """The certificate of the whole, and the truth of every answer served."""
        while (found := self.learner.looks()) is not None:
            looks, _ = found
            self.memory.answer(self.world, looks.row, looks.endpoint, "pilot", scored=True)
        market = self.learner.market()
        decision = self.learner.decide(market, self.context.terms())
        plan, _ = best_possible(decision, lambda _: None)
        assignment = Assignment.of(
            plan, market, realtime_counterpart=self.learner.realtime_counterpart, ordered=False, now=self.context.clock(),
        )  # fmt: skip
        line = np.arange(ROWS)
        repair = Repair(self.learner, assignment, lambda *_: None)
        self.memory.answer(self.world, line, assignment.target, "main", scored=True)
        while True:
            assignment.record_replies(self.memory.replies(), self.learner.columns)
            self._audit(assignment.served)
            certificates = self.certificates(assignment.served)
            due = repair.due(certificates, self.context.terms())
            if due is None or not len(due[1]):
                break
            purpose = "repair" if due[0] is Purpose.REPAIR else "audit"
            self.memory.answer(self.world, due[1].position, due[1].endpoint, purpose, scored=True)
        certificates = self.certificates(assignment.served)
        return certificates[0] if certificates else None, self.world.score[line, assignment.served]

    def _audit(self, served: NDArray[np.int32]) -> None:
        """The served answers that can be scored are; beside them the anchor's, for a relative floor."""
        rows = np.flatnonzero(self.world.scorable)
        self.memory.answer(self.world, rows, served[rows], "audit", scored=True)
        if self.context.baseline is not None and self.sample:
            self.memory.answer(
                self.world, rows, np.full(len(rows), self.context.baseline), "audit", scored=True
            )

    def certificates(self, served: NDArray[np.int32]) -> tuple[Certificate, ...]:
        quality = self.context.job.quality
        claim = Claim(quality.floor, quality.confidence, Basis.REFERENCE, "exact")
        line = np.arange(ROWS)
        scores = np.where(self.world.scorable, self.world.score[line, served], np.nan)
        if self.sample:
            anchor = np.full(ROWS, np.nan)
            if self.context.baseline is not None:
                anchor = np.where(self.world.scorable, self.world.score[:, self.context.baseline], np.nan)
            view = audit.ServedAnswers(
                line,
                np.array(["a"] * ROWS, np.object_),
                [str(e) for e in served.tolist()],
                scores,
                scores,
                anchor,
            )
            audit.in_force(self.context, view, np.flatnonzero(self.world.scorable))
            found = audit.shown(self.context, view)
        else:
            known = scores[self.world.scorable]
            if self.context.baseline is not None:  # of what can be scored: as if the anchor were known there
                anchored = self.world.score[self.world.scorable, self.context.baseline].mean()
                found = (certify(claim, ScoredSample(len(known), known / max(anchored, 1e-9), np.zeros(0))),)
            else:
                found = (certify(claim, ScoredSample(len(known), known, np.zeros(0))),)
        return about(found, {None: ROWS}, claim, per_task=False, of_part=quality.population == "scorable")


NIGHTS: dict[str, tuple[str, str, float, bool]] = {
    "a random seventh, given": ("random seventh", "given", 0.75, False),
    "a random seventh, sample": ("random seventh", "sample", 0.75, False),
    "the easiest half, given": ("easiest half", "given", 0.75, False),
    "the easiest half, scorable": ("easiest half", "scorable", 0.75, False),
    "the easiest half by length, sample": ("easiest half, short", "sample", 0.75, False),
    "the easiest half, sample": ("easiest half", "sample", 0.75, False),
    "one task, given": ("one task", "given", 0.75, False),
    "one task, scorable": ("one task", "scorable", 0.75, False),
    "one task, sample": ("one task", "sample", 0.75, False),
    "a policy elsewhere, given": ("policy elsewhere", "given", 0.75, False),
    "a policy elsewhere, sample": ("policy elsewhere", "sample", 0.75, False),
    "a relative floor, given": ("random seventh", "given", 0.85, True),
    "a relative floor, sample": ("random seventh", "sample", 0.85, True),
}
"""Name to where references stand, what the job says of them, the floor, and whether it is relative to the large model."""
SAYS = {
    "given": "references: given",
    "scorable": "population: scorable",
    "sample": "references: sample",
}
UNJUDGED = frozenset({"the easiest half, sample"})
"""Nights whose job says what is not so and what nobody can see."""


def played(name: str, seed: int) -> dict[str, Any]:
    references, said, floor, relative = NIGHTS[name]
    rng = np.random.default_rng([20261129, list(NIGHTS).index(name), seed])
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.yaml"
        anchor = ", relative_to: large" if relative else ""
        job.write_text(JOB.format(floor=floor, said=SAYS[said], relative=anchor))
        context = context_for(RunOptions(job), f"seed-{seed}")
        context.folder.mkdir(parents=True)
        tonight = world(rng, references)
        found, truth = Night.of(tonight, replace(context)).play()
    best = tonight.score[:, MODELS - 1] if relative else np.ones(ROWS)
    whole = float(truth.mean() / best.mean())
    part = float(truth[tonight.scorable].mean() / best[tonight.scorable].mean())
    about_all = found is not None and found.population >= ROWS
    subject = whole if about_all else part
    return {
        "certified": found is not None and found.certified,
        "of_all": found is not None and found.certified and about_all,
        "false": found is not None and found.certified and subject < floor - 1e-12,
        "bound_false": found is not None and found.lower_bound > subject + 1e-12,
        "scored": float(truth[tonight.scorable].mean()),
        "others": float(truth[~tonight.scorable].mean()),
        "truth": whole,
    }


def figures(name: str, seeds: int, workers: Callable[..., Any]) -> dict[str, Any]:
    begun = time.monotonic()
    nights = list(workers(played, [name] * seeds, range(seeds)))
    return {
        "night": name,
        "judged": name not in UNJUDGED,
        "certified": sum(night["certified"] for night in nights),
        "of_all": sum(night["of_all"] for night in nights),
        "false": sum(night["false"] for night in nights),
        "bound_false": sum(night["bound_false"] for night in nights),
        **{
            key: round(float(np.mean([night[key] for night in nights])), 4)
            for key in ("scored", "others", "truth")
        },
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> int:
    ask = argparse.ArgumentParser(description="false certificates where only some answers can be scored")
    ask.add_argument("--seeds", type=int, default=200)
    ask.add_argument("--nights", nargs="*", default=list(NIGHTS))
    ask.add_argument("--workers", type=int, default=2)
    given = ask.parse_args()
    found = []
    with ProcessPoolExecutor(given.workers) as pool:
        for name in given.nights:
            found.append(figures(name, given.seeds, pool.map))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    judged = [line for line in found if line["judged"]]
    most = max((max(line["false"], line["bound_false"]) for line in judged), default=0)
    print(json.dumps({"benchmark": "claims", "seeds": given.seeds, "most_false": most, "found": found}))
    return 1 if most > ALLOWED * given.seeds else 0


if __name__ == "__main__":
    sys.exit(main())
