"""What of that which needs mending is sent in this round, and what waits until more is known.

A round in real time costs hardly any time, so it sends what is surely needed and no more. What a batch mends is told when
it is back. So where there is time the dearer of the two waits, for less of it may be needed: what finds no room in a batch
costs twice as much in real time. And where hardly anything is known of a model whose one batch is to mend, a few are asked
in real time first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment, PendingRows
from thirdshift.flows.planning.batch_room import SURE
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.planner import Market
from thirdshift.router.learning.free_scores import FEWEST, GROWTH, first_of
from thirdshift.router.learning.repair import Mended
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Mode

TWO_ROUNDS = 2.2
"""So many times a batch's turnaround must be left for a first batch to tell how good the second will be."""
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
        """Whether no more is sent in a round than is surely needed: rounds cost little time, or hardly anything is known of
        a batch tier's answers and there is time for a round to tell."""
        modes = self._modes(found)
        if not modes <= {Mode.REALTIME, Mode.BATCH}:
            return False
        if Mode.BATCH not in modes:
            return True
        unknown = self._hardly_known(found.endpoint[found.new], FEWEST).any()
        return bool(unknown) and (self.seconds is None or self.seconds > TWO_ROUNDS * self._turnaround(found))

    def part_of(self, found: Mended) -> Mended:
        """Return what is sent of it in one round."""
        rows = np.flatnonzero(found.new)
        cost, gain = self._costs(found, rows)
        later = np.ones(len(rows), bool)
        later[first_of(cost / gain, found.endpoint[rows], self._answers)] = False
        return self._without(found, rows[later])

    def tried_first(self, found: Mended, askable: NDArray[np.bool_]) -> Mended | None:
        """Return what may be asked in real time of a model of which hardly anything is known, before much is sent to it in
        the only batch that there is time for. None: nothing. `askable`: [leaders, endpoints] what may be asked now."""
        rows = np.flatnonzero(found.new)
        sent = found.endpoint[rows]
        counterpart = self.learner.realtime_counterpart[sent]
        both = (self._modes_of(sent) == Mode.BATCH) & (counterpart >= 0)
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
            np.bincount(found.endpoint[rows], gain), 1e-9
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
        gain = np.maximum(self.quality[rows, endpoint] - held, 1e-9)
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
    starts = np.array([offer.option.starts_seconds for offer in market.offered])[found.option[rows]]
    opens_at = now + float(starts.min()) if len(rows) and (starts > 0).all() else None
    return PendingRows(rows[starts <= 0], found.endpoint[rows[starts <= 0]], opens_at)
