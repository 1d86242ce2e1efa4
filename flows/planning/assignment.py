"""Which endpoint each request's answer is to come from, which answers are held, and what to send next."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.console import money
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.flows.planning.planner import Market
from thirdshift.router.planning.options import workers_to_run
from thirdshift.router.planning.problem import NOBODY, Plan, Problem
from thirdshift.router.planning.shards import Cutting, batch_cutting, cut
from thirdshift.router.planning.usage import costs_of
from thirdshift.router.policy import most_of_a_vendor
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Endpoint, Mode

IN_ORDER_REQUESTS = 1_000
"""Where the cap or the deadline will stop the run, so many requests are sent at a time, in the order of the input."""
MOST_BATCHES = 2
"""A request that so many batches have left undone is not given to another at the same endpoint."""
MOST_PASSING = 4
"""A request that so many batches have answered with a server's error is not given to another there either: at one in
thirty, four leave one in a million."""


@dataclass(slots=True)
class Assignment:
    """The state of every request while a plan is carried out.

    Rows are leaders (requests that are answered themselves); endpoints are positions in the job's list.
    """

    target: NDArray[np.int32]
    """[leaders] the endpoint whose answer is wanted; -1: none."""
    opens: NDArray[np.float64]
    """[leaders] POSIX time before which the request is not sent: its price window is not open."""
    realtime_counterpart: NDArray[np.int32] = field(repr=False)
    """[endpoints] for a batch tier, the endpoint that serves the same model in real time; -1: none."""
    ordered: bool = False
    """A limit will stop the run: requests are sent in the order of the input."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """Workers that the plan starts, by endpoint; those with none are left out."""
    answered: NDArray[np.bool_] = field(init=False, repr=False)
    """[leaders, endpoints] a usable answer is held."""
    failed: NDArray[np.bool_] = field(init=False, repr=False)
    """[leaders, endpoints] the endpoint failed at the request, and is not asked again."""
    repaired: NDArray[np.int32] = field(init=False, repr=False)
    """[leaders] the endpoint whose answer the last repair brought; -1: none."""
    overridden: NDArray[np.int32] = field(init=False, repr=False)
    """[leaders] the endpoint whose held answer is served instead of the planned or repaired one; -1: none."""
    in_flight: NDArray[np.bool_] = field(init=False, repr=False)
    """[leaders] with an adopted batch: not sent again until that batch is over."""
    not_run: NDArray[np.int8] = field(init=False, repr=False)
    """[leaders, endpoints] number of batches that ended before they ran the request."""
    vote: NDArray[np.int16] = field(init=False, repr=False)
    """[leaders, 3] the first two endpoints that are asked, and the third if those differ; -1: no vote."""
    decided: NDArray[np.bool_] = field(init=False, repr=False)
    """[leaders] the vote is over: `target` is whose answer it has come to."""
    agreed: NDArray[np.bool_] = field(init=False, repr=False)
    """[leaders] as two answers that agree."""
    passing: NDArray[np.int8] = field(init=False, repr=False)
    """[leaders, endpoints] how often a batch's server failed at the request by a fault that can pass."""
    out_until: NDArray[np.float64] = field(init=False, repr=False)
    """[endpoints] POSIX time until which an endpoint has asked to be left alone; 0: it can be asked."""

    def __post_init__(self) -> None:
        leaders, endpoints = len(self.target), len(self.realtime_counterpart)
        self.answered, self.failed = np.zeros((2, leaders, endpoints), bool)
        self.not_run, self.passing = np.zeros((2, leaders, endpoints), np.int8)
        self.repaired, self.overridden = np.full((2, leaders), -1, np.int32)
        self.in_flight, self.decided, self.agreed = np.zeros((3, leaders), bool)
        self.vote = np.full((leaders, 3), -1, np.int16)
        self.out_until = np.zeros(endpoints)

    @classmethod
    def of(
        cls,
        plan: Plan,
        market: Market,
        *,
        realtime_counterpart: NDArray[np.int32],
        ordered: bool,
        now: datetime,
    ) -> Assignment:
        starts = np.array([*(offer.option.starts_seconds for offer in market.offered), 0.0])
        opens = now.timestamp() + starts[plan.choice]
        made = cls(market.target(plan.choice), opens, realtime_counterpart, ordered, plan.workers)
        under = np.flatnonzero(plan.choice >= market.singles)
        votes = np.array([astuple(vote) for vote in market.votes], np.int16).reshape(-1, 3)
        made.vote[under] = votes[plan.choice[under] - market.singles]
        return made

    def keep_answered(self, replies: FinalReplies, columns: RequestColumns) -> None:
        """Keep every answer that an earlier process of this run got as planned: a plan of a later hour would pay again."""
        self.target[columns.positions(replies.row[replies.served])] = replies.endpoint[replies.served]

    def mark_in_flight(self, positions: NDArray[np.int64], endpoint: int) -> None:
        """Target requests at the endpoint whose batch has them already, whatever the plan says."""
        self.target[positions] = endpoint
        self.in_flight[positions] = True
        self.vote[positions] = -1

    def record_replies(
        self, replies: FinalReplies, columns: RequestColumns, in_vain: Collection[int] = ()
    ) -> None:
        """Take in every final reply of the run so far. `in_vain`: endpoints whose "wait" is a failure."""
        position = columns.positions(replies.row)
        self.answered[position[replies.answered], replies.endpoint[replies.answered]] = True
        unanswered = ~replies.answered & (~replies.limited | np.isin(replies.endpoint, list(in_vain)))
        self.failed[position[unanswered], replies.endpoint[unanswered]] = True
        repaired, before = replies.repaired, self.repaired.copy()
        # as they came, so that the last stands
        self.repaired[position[repaired]] = replies.endpoint[repaired]
        self.overridden[self.repaired != before] = -1  # what has come since is served

    def override(self, positions: NDArray[np.int64], endpoint: NDArray[np.int32]) -> None:
        """Serve these held answers instead of the planned or repaired ones."""
        self.overridden[positions] = endpoint

    def override_by_scores(self, observed: Observations) -> None:
        """Serve, where a repair brought another answer, the best of those that are held by their scores."""
        score = np.full(self.answered.shape, -1.0)
        score[observed.row, observed.endpoint] = observed.score
        score[~self.answered] = -1.0
        several = np.flatnonzero((self.repaired >= 0) & (score.max(axis=1) >= 0))
        now = self.served[several]
        best = score[several].argmax(axis=1)
        known = np.where(now >= 0, score[several, now], -1.0)
        gains = (known >= 0) & (score[several, best] > known)
        self.override(several[gains], best[gains].astype(np.int32))

    def answerable(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[leaders] whether a request has no answer yet though an allowed endpoint is left that may give one.

        `allowed`: [leaders, endpoints].
        """
        return (self.served < 0) & (allowed & ~self.failed).any(axis=1)

    def mark_failed(self, positions: NDArray[np.int64], endpoint: int) -> None:
        """Ask the endpoint for these no more, except where it has answered."""
        self.failed[positions, endpoint] |= ~self.answered[positions, endpoint]

    def mark_passing(self, positions: NDArray[np.int64], endpoint: int) -> None:
        """A server's fault that can pass: another batch, or the same model in real time, is asked, a few times."""
        self.passing[positions, endpoint] += 1
        self.not_run[positions, endpoint] = np.maximum(self.not_run[positions, endpoint], 1)
        often = self.passing[positions, endpoint] >= MOST_PASSING
        self.mark_failed(positions[often], endpoint)

    def mark_not_run(self, positions: NDArray[np.int64], endpoint: int) -> None:
        """Count a batch that ended before it ran these; after the second one the endpoint is not asked again."""
        self.not_run[positions, endpoint] += 1
        twice = self.not_run[positions, endpoint] >= MOST_BATCHES
        self.mark_failed(positions[twice], endpoint)

    @property
    def served(self) -> NDArray[np.int32]:
        """[leaders] the endpoint whose answer is the result; -1 where there is none yet."""
        everyone = np.arange(len(self.target))
        has = (self.target >= 0) & self.answered[everyone, self.target]
        first = self.vote[:, 0]  # who answered before a vote went against it is better than nobody
        held = (first >= 0) & self.answered[everyone, first]
        planned = np.where(has, self.target, np.where(held, first, -1))
        repaired = np.where(self.repaired >= 0, self.repaired, planned)
        return np.where(self.overridden >= 0, self.overridden, repaired).astype(np.int32)

    @property
    def by_vote(self) -> NDArray[np.bool_]:
        """[leaders] what is served is what a vote has come to."""
        replaced = (self.repaired >= 0) | (self.overridden >= 0)
        ended = np.where(self.agreed, self.vote[:, 0], self.vote[:, 2])
        return np.asarray((self.vote[:, 0] >= 0) & self.decided & ~replaced & (self.served == ended))

    def settle(
        self,
        now: float,
        same: Callable[[NDArray[np.int64], NDArray[np.int16], NDArray[np.int16]], NDArray[np.bool_]],
    ) -> None:
        """End the votes on which enough is known: `same` says which of these requests' two answers agree. Who has failed,
        or would have to be waited for, agrees with nobody; where the first has, there is no vote."""
        rows = np.flatnonzero((self.vote[:, 0] >= 0) & ~self.decided)
        first, second, third = self.vote[rows].T
        lost = self.target[rows] != first
        has = self.answered[rows, first] & ~lost
        both = has & self.answered[rows, second]
        agreed = np.zeros(len(rows), bool)
        agreed[both] = same(rows[both], first[both], second[both])
        gone = ~self.answered[rows, second] & (self.failed[rows, second] | (self.out_until[second] > now))
        differ = (both & ~agreed) | (has & gone)
        self.target[rows[differ]] = third[differ]
        self.decided[rows] = lost | agreed | differ
        self.agreed[rows] = agreed

    def second_to_ask(self, pending: PendingRows) -> PendingRows:
        """Return whose second answer is to be had, of those whose first is held or among `pending`."""
        everyone = np.arange(len(self.target))
        open_ = (self.vote[:, 0] >= 0) & ~self.decided & (self.target == self.vote[:, 0])
        second = np.where(open_, self.vote[:, 1], 0)
        open_ &= ~self.answered[everyone, second] & ~self.failed[everyone, second]
        sent = self.answered[everyone, np.where(open_, self.target, 0)]
        sent[pending.position] = True
        rows = np.flatnonzero(open_ & sent)
        return PendingRows(rows, second[rows].astype(np.int32))

    def next_to_send(self, problem: Problem, endpoint_of: NDArray[np.int32], now: float) -> PendingRows:
        """Return the requests to send next.

        Requests whose endpoint failed move on to the next best one first. `endpoint_of`: [options] the endpoint of each
        option of `problem`; `now`: POSIX time. Where requests are left but the price window of none is open at `now`,
        the rows are empty and `opens_at` says when the first one opens. So it is where all have to wait for endpoints
        that have asked to be left alone.
        """
        self._move_on(problem, endpoint_of, now)
        everyone = np.arange(len(self.target))
        pending = np.flatnonzero(
            (self.target >= 0) & ~self.answered[everyone, self.target] & (self.repaired < 0) & ~self.in_flight
        )
        pending = pending[~self.failed[pending, self.target[pending]]]
        opens = np.maximum(self.opens[pending], self.out_until[self.target[pending]])
        open_now = pending[opens <= now]
        opens_at = float(opens.min()) if pending.size and not open_now.size else None
        if self.ordered:
            open_now = open_now[:IN_ORDER_REQUESTS]
        return PendingRows(open_now, self.target[open_now], opens_at)

    def _move_on(self, problem: Problem, endpoint_of: NDArray[np.int32], now: float) -> None:
        """Give requests that failed at their target, or would have to wait for it, another one, where the shares of
        vendors allow one."""
        everyone = np.arange(len(self.target))
        out = self.out_until > now
        undone = self.not_run[everyone, self.target] > 0
        undone |= self.out_until[self.target] > np.maximum(self.opens, now)
        lost = np.flatnonzero(
            (self.target >= 0)
            & (self.failed[everyone, self.target] | undone)
            & ~self.answered[everyone, self.target]
            & (self.repaired < 0)
        )
        quality, target = problem.quality[lost], self.target[lost]
        free = ~self.failed[lost][:, endpoint_of] & np.isfinite(problem.cost[lost])
        again = self.not_run[lost][:, endpoint_of] > 0  # tried again where nobody else is left
        free &= ~again | self.failed[lost, target][:, None]
        # as good as what was planned if there is such a one, then the cheapest of them; else the best there is
        planned = (quality * (endpoint_of == target[:, None])).max(axis=1, initial=0.0)
        cost = costs_of(problem, lost, self.workers)
        last = float(cost[free].max(initial=0.0)) + 1.0
        order = np.where(quality >= planned[:, None] - 0.02, cost, last + 1.0 - quality)
        # what a batch left undone goes to the same model, if that can be had in real time
        realtime_counterpart = np.where(undone[lost], self.realtime_counterpart[target], -1)
        order[endpoint_of == realtime_counterpart[:, None]] = -1.0
        order[again] += 1e5
        # where all that is left has to be waited for, that which is back first
        order[:, out[endpoint_of]] = 1e6 + (self.out_until - now)[endpoint_of[out[endpoint_of]]]
        order[~free] = np.inf
        option = order.argmin(axis=1)
        if problem.terms.max_vendor_share is not None:
            option = self._within_shares(problem, endpoint_of, lost, order)
        moved = np.isfinite(order[np.arange(len(lost)), option]) & (option >= 0)
        self.target[lost[moved]] = endpoint_of[option[moved]]
        self.opens[lost[moved]] = np.minimum(self.opens[lost[moved]], now)

    def _within_shares(
        self,
        problem: Problem,
        endpoint_of: NDArray[np.int32],
        lost: NDArray[np.int64],
        order: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """[lost] the first option in `order` whose vendor has not its share yet; -1: none."""
        names, vendor = np.unique([option.vendor for option in problem.options], return_inverse=True)
        of_endpoint = np.full(self.answered.shape[1], len(names))  # who offers nothing any more
        of_endpoint[endpoint_of] = vendor
        kept = np.setdiff1d(np.flatnonzero(self.target >= 0), lost)
        weight = np.asarray(problem.weight, np.int64)
        taken = np.bincount(of_endpoint[self.target[kept]], weight[kept], len(names) + 1)[: len(names)]
        room = vendor_room(problem) - taken
        replacement = np.full(len(lost), -1)
        for place, row in enumerate(lost.tolist()):
            for option in np.argsort(order[place], kind="stable"):
                if not np.isfinite(order[place, option]):
                    break
                if room[vendor[option]] >= weight[row]:
                    room[vendor[option]] -= weight[row]
                    replacement[place] = option
                    break
        return replacement


def vendor_room(problem: Problem) -> float:
    """Requests that one vendor may answer; infinite: all."""
    share = problem.terms.max_vendor_share
    return math.inf if share is None else most_of_a_vendor(share, float(problem.weight.sum()))


@dataclass(frozen=True, slots=True)
class PendingRows:
    """Requests to be sent: positions among the leaders, and the endpoint of each."""

    position: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    opens_at: float | None = None
    """POSIX time at which the first request's price window opens or its endpoint is back, where none can be sent now."""

    def __len__(self) -> int:
        return len(self.position)


def shards_of(
    due: PendingRows,
    columns: RequestColumns,
    market: Market,
    endpoints: Sequence[Endpoint],
    *,
    workers: Mapping[str, int] | None = None,
    ordered: bool = False,
) -> list[tuple[str, NDArray[np.int64]]]:
    """Cut what is due into shards: (endpoint's name, rows). `workers`: how many the plan starts, by endpoint."""
    first_option = {offer.endpoint: k for k, offer in reversed(list(enumerate(market.offered)))}
    choice = np.full(len(columns.rows), NOBODY, np.int16)
    choice[due.position] = [first_option[e] for e in due.endpoint.tolist()]
    output = np.zeros(len(columns.rows))
    output[due.position] = market.output_tokens[due.position, due.endpoint]
    options = tuple(offer.option for offer in market.offered)
    cuttings = {
        option.name: _cutting(
            endpoints[offer.endpoint],
            workers_to_run(endpoints[offer.endpoint], workers or {}) or 1,
            int((due.endpoint == offer.endpoint).sum()),
            ordered=ordered,
        )
        for option, offer in zip(options, market.offered, strict=True)
    }
    plans = cut(
        choice,
        options,
        input_tokens=columns.tokens[0].astype(np.float64),
        output_tokens=output,
        cuttings=cuttings,
        prefix=columns.prefix,
    )
    return [(plan.endpoint, columns.rows[np.sort(plan.rows) if ordered else plan.rows]) for plan in plans]


def _cutting(endpoint: Endpoint, workers: int, requests: int, *, ordered: bool) -> Cutting:
    if ordered:  # side by side, shards would be served at once and not one after the other
        return Cutting(
            least_requests=IN_ORDER_REQUESTS, most_requests=IN_ORDER_REQUESTS, least_seconds=math.inf
        )
    if endpoint.mode is Mode.BATCH:
        return batch_cutting(endpoint.tier, requests)
    return Cutting(lanes=workers) if endpoint.workers is not None else Cutting()


def plan_sentence(
    plan: Plan,
    assignment: Assignment,
    weight: NDArray[np.int32],
    endpoints: Sequence[Endpoint],
    *,
    aimed: bool,
) -> str:
    """The plan in a line or two. `aimed`: a floor was planned for; else its quality is nobody's prediction."""
    alone = (assignment.target >= 0) & (assignment.vote[:, 0] < 0)
    counts = np.bincount(assignment.target[alone], minlength=len(endpoints))
    shares = [
        f"{count:,} to {endpoint.name}{' (emulated)' if endpoint.emulated else ''}"
        for endpoint, count in zip(endpoints, counts.tolist(), strict=True)
        if count
    ]
    triples, voted = np.unique(assignment.vote[assignment.vote[:, 0] >= 0], axis=0, return_counts=True)
    for triple, count in zip(triples.tolist(), voted.tolist(), strict=True):
        first, second, third = (endpoints[e].name for e in triple)
        shares.append(f"{count:,} to {first} and {second}, where they differ to {third}")
    followers = int(weight.sum()) - len(weight)
    again = f", {followers:,} duplicates answered with them" if followers else ""
    pools = "".join(
        f"; {count} worker{'s' if count > 1 else ''} of {endpoint.name}"
        for endpoint in endpoints
        if (count := workers_to_run(endpoint, plan.workers))
    )
    waits = "".join(
        f"; {name} waits {timedelta(seconds=round(seconds))} for its price"
        for name, seconds in plan.waits.items()
    )
    quality = f"quality {plan.quality:.3f}, " if aimed else ""
    return (
        f"plan: {', '.join(shares)}{again}; expected {money(plan.cost_usd)}, {quality}within {plan.gap:.2%} of the cheapest"
        f"{pools}{waits}"
    )
