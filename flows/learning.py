"""What a night learns: this run's scores and token counts, what earlier nights tell, and what to look at next."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.deciding import Columns, Decision, Market, decide, market
from flows.history import Past, past_nights, past_scores
from flows.knowledge import Knowledge
from flows.prepare import Batch
from flows.setting import Setting
from flows.tiers import looked_at, shared, twins
from router.aim import Aim
from router.drift import Drift, since_then
from router.pilot import Looks, Situation, next_round
from router.planning.problem import Terms
from router.predict import Observations
from router.predict import Past as Scores

DRIFT = "drift.json"
"""In the run's folder: the endpoints that have got worse."""


class Learner:
    """Asked anew each time: what it knows is in the warehouse, so a resumed run knows the same."""

    def __init__(
        self,
        setting: Setting,
        knowledge: Knowledge,
        columns: Columns,
        scorable: NDArray[np.bool_],
        past: Past | None,
        before: Scores,
        twin: NDArray[np.int32],
        say: Callable[..., None],
    ) -> None:
        self.setting, self.knowledge, self.columns, self.say = setting, knowledge, columns, say
        self.past, self.twin, self.paces = past, twin, setting.paces
        self.before = before
        """Scores of earlier nights, those of endpoints that got worse taken out."""
        self.drifts: list[Drift] = []
        self.scorable = scorable
        """[leaders]"""
        self.rounds = 0
        """Of looking, so far."""

    @staticmethod
    def of(
        setting: Setting, knowledge: Knowledge, columns: Columns, batch: Batch, say: Callable[..., None]
    ) -> Learner:
        """With what earlier nights tell."""
        earlier = setting.warehouse, setting.job.name, setting.run_id, setting.endpoints, batch.intake.tasks
        twin, emulated = twins(setting.endpoints), setting.call.emulated
        past = past_nights(*earlier, emulated=emulated)
        before = past_scores(*earlier, scorer=setting.scorer, twin=twin, emulated=emulated)
        return Learner(setting, knowledge, columns, batch.scorable[columns.rows], past, before, twin, say)

    def observed(self) -> Observations:
        """Scores of this run; rows are positions among the leaders."""
        seen = self.knowledge.seen()
        return shared(Observations(self.columns.positions(seen.row), seen.endpoint, seen.score), self.twin)

    def market(self) -> Market:
        """Prices and lengths as known now; answers held cost nothing."""
        held, setting = self.knowledge.held(), self.setting
        answered = self.columns.positions(held.row[held.answered]), held.endpoint[held.answered]
        return market(
            self.columns, setting.endpoints, self.knowledge.used(), self.past, self.paces,
            now=setting.clock(), deadline=setting.deadline, held=answered,
        )  # fmt: skip

    def looks(self) -> tuple[Looks, NDArray[np.float64]] | None:
        """The next answers to look at, and what each [leaders, endpoints] costs; None: more would not pay."""
        aim = self.setting.aim
        if aim is None or not self.setting.pilots:
            return None
        self.watch()
        situation = self._situation(aim)
        found = next_round(situation, np.random.default_rng(self.rounds))
        if found is None and not self.rounds and len(situation.observations):  # an earlier process played it
            self.rounds = 1
            found = next_round(replace(situation, rounds=1), np.random.default_rng(1))
        if not self.rounds and found is not None and len(self.before.score):
            alone = next_round(replace(situation, past=None), np.random.default_rng(0))
            self._tell_spared(len(alone or ()) - len(found))
        self.rounds += 1
        return None if found is None else (found, np.asarray(situation.cost_usd, np.float64))

    def _tell_spared(self, looks: int) -> None:
        if looks > 0:
            self.say(f"{len(self.before.score):,} scores of earlier nights stand in for {looks:,} looks")

    def _situation(self, aim: Aim) -> Situation:
        setting = self.setting
        tried = self.columns.allowed & self.scorable[:, None]
        allowed, cost = looked_at(tried, self.market().by_endpoint(), self.twin)
        return Situation(
            population=self.columns.population,
            cost_usd=cost,
            allowed=allowed,
            priors=setting.priors,
            aim=aim,
            observations=self.observed(),
            pilot=setting.pilots,
            looks=setting.looks,
            rounds=self.rounds,
            past=self.before,
        )

    def watch(self) -> None:
        """Endpoints that are found to have got worse since earlier nights are named; those nights say nothing of them
        from then on."""
        setting = self.setting
        names = tuple(endpoint.name for endpoint in setting.endpoints)
        seen = self.knowledge.tried()
        tried = Observations(self.columns.positions(seen.row), seen.endpoint, seen.score)
        found = since_then(names, tried, self.columns.population, setting.priors, self.before)
        self.before = self.before.without([names.index(each.endpoint) for each in found])
        self.drifts += found
        for each in found:
            self.say(each.sentence(), "yellow")
        if found:
            told = json.dumps([asdict(each) for each in self.drifts])
            (setting.folder / DRIFT).write_text(told, encoding="utf-8")

    def not_held(
        self, positions: NDArray[np.int64], endpoint: NDArray[np.int32]
    ) -> list[tuple[str, NDArray[np.int64]]]:
        """Pairs without a final reply, as (endpoint's name, rows)."""
        held = self.knowledge.held()
        known = set(zip(held.row.tolist(), held.endpoint.tolist(), strict=True))
        rows = self.columns.rows[positions]
        fresh = np.array(
            [pair not in known for pair in zip(rows.tolist(), endpoint.tolist(), strict=True)], bool
        )
        names = [each.name for each in self.setting.endpoints]
        return [(names[e], rows[fresh & (endpoint == e)]) for e in np.unique(endpoint[fresh])]

    def decide(self, priced: Market, terms: Terms) -> Decision:
        """The plan that what is known now leads to."""
        self.watch()
        setting = self.setting
        return decide(
            self.columns, priced, self.observed(), setting.priors, terms, setting.aim, before=self.before
        )


def drifts_of(folder: Path) -> list[dict[str, Any]]:
    """Endpoints that were found to have got worse: endpoint, expected, observed, scored."""
    try:
        found: list[dict[str, Any]] = json.loads((folder / DRIFT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found
