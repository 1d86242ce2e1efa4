"""The pilot: requests answered before there is a plan, to learn which endpoint is good enough for which, and how long its
answers are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.console import money
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.preparation import PreparedRun, adopted_shards, scoring_shards
from thirdshift.flows.execution.waiting import wait_until
from thirdshift.flows.formats import counted
from thirdshift.flows.planning.first_answers import first_answers
from thirdshift.flows.planning.pilot_time import falls_in, in_time, seconds_of_round
from thirdshift.router.values import Purpose

GUESSED_SHARE = 0.05
"""Where the cap is too small by a guess of how long answers are, a round of the pilot may cost this share of it."""


def pilot(prepared: PreparedRun) -> list[ShardWork]:
    """Return the next shards of the pilot; none where observing more would not pay."""
    run, learner, audit = prepared.run, prepared.learner, prepared.audit
    learner.broken = [e for e, name in enumerate(run.endpoint_names) if name in run.dispatcher.given_up]
    if adopted := adopted_shards(prepared, {Purpose.PILOT, Purpose.JUDGE}):
        return adopted
    if audit is not None and (shards := scoring_shards(prepared, audit.pilot_requests)):
        return shards
    if not learner.rounds and run.context.job.budget.approve_above_usd is not None:
        costs = learner.market().by_endpoint()
        run.approve(
            _cheapest_usd(prepared, costs), "the cheapest plan there can be", _pilot_usd(prepared, costs)
        )
    while not run.dispatcher.stopped and (next_round := learner.looks()) is not None:
        looks, cost = next_round
        rows_by_endpoint = learner.not_held(looks.row, looks.endpoint)
        round_usd = float(cost[looks.row, looks.endpoint].sum())
        if not _affordable(prepared, round_usd, cost):
            run.console.say(_left_out(prepared, round_usd, cost), "yellow")
            break
        if not _in_time(prepared, looks.endpoint):
            run.console.say(
                "the deadline leaves no time for (more of) a pilot: the plan goes by what is known"
            )
            break
        if rows_by_endpoint:
            _wait_for_price(prepared)
            return run.create_shards(Purpose.PILOT, rows_by_endpoint)
    if run.dispatcher.stopped or run.orphans_of({Purpose.MAIN}):  # what a batch tier has is not sent again
        return []
    up = any(lifetime.stopped_at is None for _, lifetime in run.dispatcher.worker_lifetimes())
    if not up and (first := first_answers(learner)):  # workers would wait for them, and be paid
        count = sum(len(rows) for _, rows in first)
        run.console.say(f"{counted(count, 'request')} first: how long answers are is not known yet")
        return run.create_shards(Purpose.MAIN, first)
    return []


def _wait_for_price(prepared: PreparedRun) -> None:
    """Wait with the first round for a lower price where the plan waits for it anyway."""
    run, learner, market = prepared.run, prepared.learner, prepared.learner.market()
    if learner.rounds > 1 or not any(offer.option.starts_seconds > 0 for offer in market.offered):
        return
    if seconds := falls_in(learner.decide(market, run.context.terms())):
        opens_at = run.context.world.time() + seconds
        wait_until(opens_at, run, "when the price falls: the plan waits for it, and so does its pilot")


def _in_time(prepared: PreparedRun, endpoint: NDArray[np.int32]) -> bool:
    """Whether the deadline leaves, after these looks, the time to answer everything."""
    learner, terms = prepared.learner, prepared.run.context.terms()
    if terms.seconds is None:
        return True
    market = learner.market()
    counts = np.bincount(endpoint, minlength=prepared.columns.allowed.shape[1])
    return in_time(prepared.columns, market, terms, seconds_of_round(market, counts))


def _affordable(prepared: PreparedRun, round_usd: float, cost_usd: NDArray[np.float64]) -> bool:
    """Whether the cap leaves, after a round of the pilot, what answering everything costs at least."""
    left = prepared.run.budget.left_usd
    if left is None or round_usd + _cheapest_usd(prepared, cost_usd) <= left:
        return True
    # by a guess of how long answers are: a few of them tell whether the cap does
    return prepared.learner.guesses_lengths and round_usd <= GUESSED_SHARE * float(left)


def _left_out(prepared: PreparedRun, round_usd: float, cost_usd: NDArray[np.float64]) -> str:
    """Say why the pilot does not go on, and what that does to the plan."""
    window, left = prepared.run.context.job.budget.window, prepared.run.budget.left_usd
    cap = "the cap" if window == "run" else f"the cap of this {window}"
    if len(prepared.learner.observed()):
        known = "it is planned by what is known so far"
    elif len(prepared.learner.before.score):
        known = "nobody has been tried tonight, and the plan and its quality are by what earlier nights tell"
    else:
        known = "nobody has been tried, and the plan and its quality are by what is believed beforehand"
    return (
        f"{money(left or 0)} is left of {cap}: a round of the pilot costs {money(round_usd)} and answering everything "
        f"{money(_cheapest_usd(prepared, cost_usd))} at least, so the pilot ends here; {known}"
    )


def _pilot_usd(prepared: PreparedRun, cost_usd: NDArray[np.float64]) -> float:
    """Return what the pilot costs if all that it may try is tried: as many requests of mean cost on every endpoint."""
    allowed = prepared.columns.allowed
    tried = np.minimum(prepared.run.context.pilots, allowed.sum(axis=0))
    mean = np.where(allowed, cost_usd, 0.0).sum(axis=0) / np.maximum(allowed.sum(axis=0), 1)
    return float(tried @ mean)


def _cheapest_usd(prepared: PreparedRun, cost_usd: NDArray[np.float64]) -> float:
    """Return what all requests cost at the cheapest endpoint allowed. `cost_usd`: [leaders, endpoints]."""
    return float(np.where(prepared.columns.allowed, cost_usd, np.inf).min(axis=1).sum())
