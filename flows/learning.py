"""What a night learns: this run's scores and token counts, what earlier nights tell, and what to look at next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flows.deciding import Columns, Decision, Market, decide, market
from flows.history import Past
from flows.knowledge import Knowledge
from flows.setting import Setting
from flows.tiers import looked_at, shared
from router.pilot import Looks, Situation, next_round
from router.planning.problem import Terms
from router.predict import Observations


class Learner:
    """Asked anew each time: what it knows is in the warehouse, so a resumed run knows the same."""

    def __init__(
        self,
        setting: Setting,
        knowledge: Knowledge,
        columns: Columns,
        scorable: NDArray[np.bool_],
        past: Past | None,
        twin: NDArray[np.int32],
    ) -> None:
        self.setting, self.knowledge, self.columns = setting, knowledge, columns
        self.past, self.twin = past, twin
        self.scorable = scorable
        """[leaders]"""
        self.rounds = 0
        """Of looking, so far."""

    def observed(self) -> Observations:
        """Scores of this run; rows are positions among the leaders."""
        seen = self.knowledge.seen()
        return shared(Observations(self.columns.positions(seen.row), seen.endpoint, seen.score), self.twin)

    def market(self) -> Market:
        """Prices and lengths as known now; answers held cost nothing."""
        held, setting = self.knowledge.held(), self.setting
        answered = self.columns.positions(held.row[held.answered]), held.endpoint[held.answered]
        return market(
            self.columns, setting.endpoints, self.knowledge.used(), self.past, setting.paces,
            now=setting.clock(), deadline=setting.deadline, held=answered,
        )  # fmt: skip

    def looks(self) -> tuple[Looks, NDArray[np.float64]] | None:
        """The next answers to look at, and what each [leaders, endpoints] costs; None: more would not pay."""
        setting = self.setting
        if setting.aim is None or not setting.pilots:
            return None
        tried = self.columns.allowed & self.scorable[:, None]
        allowed, cost = looked_at(tried, self.market().by_endpoint(), self.twin)
        situation = Situation(
            population=self.columns.population,
            cost_usd=cost,
            allowed=allowed,
            priors=setting.priors,
            aim=setting.aim,
            observations=self.observed(),
            pilot=setting.pilots,
            looks=setting.pilots * len(setting.endpoints),
            rounds=self.rounds,
        )
        found = next_round(situation, np.random.default_rng(self.rounds))
        self.rounds += 1
        return None if found is None else (found, cost)

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
        return decide(self.columns, priced, self.observed(), self.setting.priors, terms, self.setting.aim)
