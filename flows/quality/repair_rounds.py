"""What of that which needs mending is sent in this round, and what waits until more is known.

A round in real time costs hardly any time, so it sends what is surely needed and no more; so does a batch that another can
follow. What a batch mends is told when it is back. So where there is time for one batch the dearer of the two waits, for
less of it may be needed: what finds no room in a batch costs twice as much in real time. And where hardly anything is known
of a model whose one batch is to mend, a few are asked in real time first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment, PendingRows
from thirdshift.flows.planning.batch_room import SURE
from thirdshift.flows.planning.first_answers import HOPED, SEEN, lengths_seen, looks_worth
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.planner import Market
from thirdshift.router.learning.free_scores import FEWEST, GROWTH, first_of
from thirdshift.router.learning.repair import Mended
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Mode

TWO_ROUNDS = 2.2
"""So many times a batch's turnaround must be left for a first batch to tell how good the second will be."""
PATIENCE = 12 * 3600.0
"""Without a deadline too nobody waits another day for what a second batch may save of what is known."""
SLACK = 1.0
"""Standard deviations of luck at most that a round allows for, so that it seldom takes another."""
NEAR = 1e-9
ROUND_SECONDS = 30.0
"""A round in real time takes so long at least: a long answer, and what is done between rounds."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What the next round is weighed by, where every score is free and what fails is sent on."""

    learner: Learner
    assignment: Assignment
    market: Market
    seen: Observations
    quality: NDArray[np.float32]
    """[leaders, endpoints] what each answer is worth."""
    seconds: float | None
    """Until the deadline."""

    def in_parts(self, found: Mended) -> bool:
        """Whether no more is sent in a round than is surely needed: another costs little time, or there is time for it."""
        modes = self._modes(found)
        if not modes <= {Mode.REALTIME, Mode.BATCH}:
            return False
        turnaround = self._turnaround(found)
        if self.seconds is not None:
            return self.seconds > TWO_ROUNDS * turnaround
        return turnaround <= PATIENCE or bool(self._hardly_known(found.endpoint[found.new], FEWEST).any())

    def slack(self, found: Mended, askable: NDArray[np.bool_]) -> float:
        """Standard deviations of luck that a round allows for which is sent whole: what it leaves undone is mended in real
        time, where that can still be had, at so many times the price. `askable`: [leaders, endpoints] who may be asked."""
        rows = np.flatnonzero(found.new)
        live = np.flatnonzero(self._modes_of(np.arange(askable.shape[1])) == Mode.REALTIME)
        if not len(live) or not self._in_no_time(live, self._turnaround(found)):
            return SLACK
        cost, gain = self._costs(found, rows)
        each = np.where(askable[rows], self.market.by_endpoint()[rows], np.inf)[:, live]
        later = (each / np.maximum(self.quality[rows][:, live], NEAR)).min(axis=1)
        now = float(cost.sum() / gain.sum())
        if not np.isfinite(later).any() or now <= 0:
            return SLACK
        dearer = float(np.median(later)) / now
        return float(np.clip(NormalDist().inv_cdf(1.0 - 1.0 / dearer), 0.0, SLACK)) if dearer > 1.0 else 0.0

    def part_of(self, found: Mended) -> Mended:
        """Return what is sent of it in one round."""
        rows = np.flatnonzero(found.new)
        cost, gain = self._costs(found, rows)
        later = np.ones(len(rows), bool)
        later[first_of(cost / gain, found.endpoint[rows], self._answers)] = False
        return self._without(found, rows[later])

    def measured_first(
        self, mended: Callable[[Market], Mended | None], askable: NDArray[np.bool_]
    ) -> Mended | None:
        """Return what is asked in real time of models of which nobody knows how long their answers are, and that may mend
        for less than is guessed: a few of what failed. None: nothing. `mended`: what is to be sent at these prices."""
        task, seen = lengths_seen(self.learner)
        everyone, counterpart = np.arange(askable.shape[1]), self.learner.realtime_counterpart
        live = np.where(self._modes_of(everyone) == Mode.REALTIME, everyone, counterpart)
        unknown = (live >= 0)[:, None] & (seen < SEEN)  # [endpoints, tasks]
        if not (unknown[:, task].T & askable).any():
            return None
        of = self.market.endpoint
        hoped = np.where(unknown[of][:, task].T, HOPED, 1.0)
        found = mended(replace(self.market, cost_usd=self.market.cost_usd * hoped))
        if found is None or not self._in_no_time(live[live >= 0], self._turnaround(found)):
            return None
        rows = np.flatnonzero(found.new)
        sent = live[found.endpoint[rows]]
        rows = rows[unknown[found.endpoint[rows], task[rows]] & askable[rows, sent]]
        asked = [rows[:0]]
        for e in np.unique(live[found.endpoint[rows]]):
            mine = rows[live[found.endpoint[rows]] == e]
            if len(mine) >= FEWEST // 2:
                parts = [mine[task[mine] == t] for t in np.unique(task[mine])]
                asked += [part[: looks_worth(len(part))] for part in parts]
        chosen = np.concatenate(asked)
        if not len(chosen):
            return None
        few = self._without(found, np.setdiff1d(np.flatnonzero(found.new), chosen))
        few.endpoint[chosen] = live[found.endpoint[chosen]]
        return few

    def tried_first(self, found: Mended, askable: NDArray[np.bool_]) -> Mended | None:
        """Return what may be asked in real time of a model of which hardly anything is known, before much is sent to it in
        the only batch that there is time for. None: nothing. `askable`: [leaders, endpoints] what may be asked now."""
        rows = np.flatnonzero(found.new)
        sent = found.endpoint[rows]
        counterpart = self.learner.realtime_counterpart[sent]
        both = counterpart >= 0
        live = np.where(both, counterpart, sent)
        unknown = self._hardly_known(live, GROWTH * FEWEST) & np.isin(live, live[both])
        tried = unknown & askable[rows, live]
        if not tried.any():
            return None
        if not self._in_no_time(np.repeat(np.unique(live[tried]), FEWEST), self._turnaround(found)):
            return None
        fewer = self._without(found, rows[~tried])
        fewer.endpoint[rows[tried]] = live[tried]
        return fewer

    def dearest_last(self, found: Mended) -> Mended:
        """Return it without what costs most for what it mends, where there is time to see what the others mend: batches
        wait for answers in real time that cost less, and dearer ones for the batches."""
        if self._modes(found) != {Mode.REALTIME, Mode.BATCH}:
            return found
        rows = np.flatnonzero(found.new)
        batch = self._modes_of(found.endpoint[rows]) == Mode.BATCH
        if not self._in_no_time(found.endpoint[rows[~batch]], self._turnaround(found)):
            return found
        cost, gain = self._costs(found, rows)
        price = np.bincount(found.endpoint[rows], cost) / np.maximum(
            np.bincount(found.endpoint[rows], gain), NEAR
        )
        in_batches = float(cost[batch].sum() / gain[batch].sum())
        cheaper = ~batch & (price[found.endpoint[rows]] <= in_batches)
        if cheaper.any():
            return self.part_of(self._without(found, rows[~cheaper]))
        return self._without(found, rows[~batch])

    def _costs(
        self, found: Mended, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[rows] what each is expected to cost, and to score more than what is held."""
        endpoint = found.endpoint[rows]
        held = np.where(self.assignment.answered[rows], self.quality[rows], 0.0).max(axis=1)
        gain = np.maximum(self.quality[rows, endpoint] - held, NEAR)
        return self.market.by_endpoint()[rows, endpoint], gain.astype(np.float64)

    @property
    def _answers(self) -> NDArray[np.int64]:
        """[endpoints] how many scores are known, of this night and of earlier ones."""
        known = np.concatenate([self.seen.endpoint, self.learner.before.endpoint])
        return np.bincount(known, minlength=self.quality.shape[1])

    def _hardly_known(self, endpoint: NDArray[np.integer], many: float) -> NDArray[np.bool_]:
        """[requests] whether few scores are known of an endpoint that is sent more than so many of these requests."""
        sent = np.bincount(endpoint, minlength=self.quality.shape[1])
        found: NDArray[np.bool_] = ((self._answers < FEWEST) & (sent > many))[endpoint]
        return found

    def _modes_of(self, endpoint: NDArray[np.integer]) -> NDArray[np.object_]:
        modes = [offered.mode for offered in self.learner.context.endpoints]
        found: NDArray[np.object_] = np.array(modes, object)[endpoint]
        return found

    def _modes(self, found: Mended) -> set[Mode]:
        return set(self._modes_of(np.unique(found.endpoint[found.new])).tolist())

    def _turnaround(self, found: Mended) -> float:
        """Return the seconds that the slowest batch of it takes."""
        options = np.unique(found.option[found.new]).tolist()
        return max((self.market.offered[option].option.turnaround_seconds for option in options), default=0.0)

    def _in_no_time(self, endpoint: NDArray[np.integer], batch_seconds: float) -> bool:
        """Whether these requests take little of the time that a batch leaves. At prices that change before the deadline
        they are not to wait."""
        if self.seconds is None:
            return True
        left, asked = SURE * (self.seconds - batch_seconds), np.bincount(endpoint)
        for offer in self.market.offered:
            rate, count = offer.option.requests_per_second, asked[offer.endpoint : offer.endpoint + 1].sum()
            needed = max(count / rate if rate else 0.0, ROUND_SECONDS)
            if count and (offer.option.windows or needed > left):
                return False
        return True

    def _without(self, found: Mended, later: NDArray[np.intp]) -> Mended:
        """Return it without these requests, which stay what they are for now."""
        new, endpoint = found.new.copy(), found.endpoint.copy()
        new[later] = False
        endpoint[later] = self.assignment.served[later]
        return replace(found, new=new, endpoint=endpoint)


def due_of(found: Mended, assignment: Assignment, market: Market, now: float) -> PendingRows:
    """What is to be sent, or if all of it waits for a lower price until when; what is held and better is served at once."""
    line = np.arange(len(found.new))
    known = ~found.new | assignment.answered[line, found.endpoint]
    swapped = np.flatnonzero(known & (found.endpoint >= 0) & (found.endpoint != assignment.served))
    assignment.override(swapped, found.endpoint[swapped])
    rows = np.flatnonzero(~known)
    # what is asked for now is served once it is here
    assignment.override(rows, np.full(len(rows), -1, np.int32))
    starts = np.array([offer.option.starts_seconds for offer in market.offered])[found.option[rows]]
    opens_at = now + float(starts.min()) if len(rows) and (starts > 0).all() else None
    return PendingRows(rows[starts <= 0], found.endpoint[rows[starts <= 0]], opens_at)
