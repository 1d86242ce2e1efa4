"""How much of what needs mending is sent at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.learners import learner
from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.first_answers import HOPED, looks_worth
from thirdshift.flows.planning.history import PastAnswers
from thirdshift.flows.planning.planner import Market
from thirdshift.flows.quality.repair_rounds import SLACK, Rounds
from thirdshift.router.learning.free_scores import FEWEST, GROWTH, HASTE
from thirdshift.router.learning.repair import Mended
from thirdshift.router.planning.problem import NOBODY
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.tokens.output_lengths import Observed

PRICE, HALF, HOUR, ROWS = {"input": 1, "output": 4}, {"input": 0.5, "output": 2}, 3600.0, 200
CHEAP = {"price": PRICE, "quality_prior": 0.6}
BATCH = {"price": HALF, "quality_prior": 0.9, "mode": "batch", "turnaround": "1h"}
REALTIME = {"price": PRICE, "quality_prior": 0.9}
BOTH = {"live": REALTIME | {"model": "openai/mender"}, "batch": BATCH | {"model": "openai/mender"}}
FREE = {"floor": 0.8, "scorer": "exact"}
MANY = round(GROWTH * FEWEST) + 1


@contextmanager
def rounds(
    folder: Path, menders: Mapping[str, Any], seconds: float | None, scored: int = 0
) -> Iterator[Rounds]:
    """All has been answered by the cheap endpoint. `scored`: answers known of the first mender."""
    with learner(folder, ROWS, {"cheap": CHEAP, **menders}, quality=FREE) as before:
        assert before.sends_on
        count = len(before.context.endpoints)
        served = Assignment(np.zeros(ROWS, np.int32), np.zeros(ROWS), before.realtime_counterpart)
        served.answered[:, 0] = True
        seen = Observations(np.arange(scored), np.ones(scored, np.int32), np.zeros(scored))
        quality = np.full((ROWS, count), 0.5, np.float32)
        yield Rounds(before, served, before.market(), seen, quality, seconds)


def mended(weighed: Rounds, *sent: tuple[int, int]) -> Mended:
    """So many requests are to go to each endpoint, and the others keep their answer. `sent`: (endpoint, count)"""
    endpoint = np.zeros(ROWS, np.int32)
    endpoint[: sum(count for _, count in sent)] = np.concatenate([np.full(n, e, np.int32) for e, n in sent])
    options = weighed.market.endpoint.tolist()
    option = np.array([options.index(e) if e else NOBODY for e in endpoint.tolist()], np.int16)
    return Mended(endpoint, endpoint > 0, True, 1.0, option)


def counts(weighed: Rounds, found: Mended) -> list[int]:
    """How many requests go to each endpoint now."""
    return np.bincount(found.endpoint[found.new], minlength=len(weighed.learner.context.endpoints)).tolist()


def all_askable(weighed: Rounds) -> NDArray[np.bool_]:
    return ~weighed.assignment.answered


@pytest.mark.parametrize(
    ("mender", "scored", "seconds", "share"),
    [
        (REALTIME, 0, 60.0, 1 / 3),  # a round costs no time
        (BATCH, 0, None, 1 / 3),
        (BATCH, FEWEST, None, HASTE),  # how well it mends is known, not how lucky it is
        (BATCH | {"turnaround": "24h"}, FEWEST, None, None),  # nobody waits another day for that
        (BATCH | {"turnaround": "24h"}, 0, None, 1 / 3),
        (BATCH, 0, 3 * HOUR, 1 / 3),
        (BATCH, 0, 2 * HOUR, None),  # there is no time for a second batch
    ],
)
def test_a_part_is_sent_first_where_there_is_time_for_another_and_a_few_where_nothing_is_known(
    tmp_path: Path, mender: dict[str, object], scored: int, seconds: float | None, share: float | None
) -> None:
    with rounds(tmp_path, {"mender": mender}, seconds, scored) as weighed:
        found = mended(weighed, (1, 3 * FEWEST))
        assert weighed.in_parts(found) == (share is not None)
        if share is not None:
            assert counts(weighed, weighed.part_of(found)) == [0, round(share * 3 * FEWEST)]


@pytest.mark.parametrize(
    ("times", "minutes", "slack"),
    [
        (2.0, 90.0, 0.0),  # half of the time luck is bad, and then costs twice
        (4.0, 90.0, 0.67),
        (40.0, 90.0, SLACK),
        (2.0, 60.5, SLACK),  # nothing can be sent after the batch
        (None, 90.0, SLACK),  # nor where nobody is left to ask
    ],
)
def test_a_batch_allows_for_as_much_luck_as_it_is_dearer_to_mend_the_rest_in_real_time(
    tmp_path: Path, times: float | None, minutes: float, slack: float
) -> None:
    live = {} if times is None else {"live": REALTIME | {"price": {k: times * v for k, v in HALF.items()}}}
    with rounds(tmp_path, {"batch": BATCH} | live, 60 * minutes) as weighed:
        weighed.quality[:, 0] = 0.0  # all has failed
        assert weighed.slack(mended(weighed, (1, 30)), all_askable(weighed)) == pytest.approx(slack, abs=0.01)


@pytest.mark.parametrize(
    ("scored", "minutes", "count", "tried"),
    [
        (0, 90.0, MANY, True),
        (FEWEST, 90.0, MANY, False),  # how well it mends is known
        (0, 60.5, MANY, False),  # the batch would be late
        (0, 90.0, MANY - 1, False),  # so few cost no more than it would save
    ],
)
def test_a_model_of_which_nothing_is_known_is_asked_a_few_at_once_before_its_only_batch(
    tmp_path: Path, scored: int, minutes: float, count: int, tried: bool
) -> None:
    with rounds(tmp_path, BOTH, 60 * minutes, scored) as weighed:
        found = mended(weighed, (2, count))
        few = weighed.tried_first(found, all_askable(weighed))
        assert (few is not None) == tried
        if few is not None:
            sent = weighed.part_of(few)
            assert counts(weighed, sent) == [0, FEWEST, 0]
            assert (sent.endpoint[~sent.new] == 0).all()  # the others keep what they have until then


def test_nothing_is_asked_in_real_time_for_a_batch_where_that_may_not_be_asked(tmp_path: Path) -> None:
    with rounds(tmp_path, BOTH, 1.5 * HOUR) as weighed:
        askable = all_askable(weighed)
        askable[:, 1] = False
        assert weighed.tried_first(mended(weighed, (2, MANY)), askable) is None


@pytest.mark.parametrize(
    ("known", "count", "minutes", "asked"),
    [
        (False, 40, 90.0, True),
        (True, 40, 90.0, False),  # how long its answers are is known
        (False, FEWEST // 2 - 1, 90.0, False),  # there is little to save
        (False, 40, 60.5, False),  # there is no time to wait for them
    ],
)
def test_a_few_are_asked_at_once_of_a_model_that_may_mend_for_less_than_is_guessed(
    tmp_path: Path, known: bool, count: int, minutes: float, *, asked: bool
) -> None:
    with rounds(tmp_path, BOTH, 60 * minutes) as weighed:
        if known:
            lengths = Observed(np.zeros(40, int), np.ones(40, int), np.full(40, 20), np.full(40, 512))
            none = np.zeros(40)
            weighed.learner.past = PastAnswers(lengths, np.ones(40, np.int32), none, none, none + np.nan)
        weighed.learner.in_kinds = True  # all requests are of one task
        prices = []

        def hoping(market: Market) -> Mended:
            prices.append(market.cost_usd)
            return mended(weighed, (2, count))

        few = weighed.measured_first(hoping, all_askable(weighed))
        if prices:  # of the batch tier less is hoped than is guessed, of what has answered nothing
            cheaper = prices[0] / weighed.market.cost_usd
            assert (cheaper[:, weighed.market.endpoint == 2] == HOPED).all()
        assert (few is not None) == asked
        if few is not None:
            assert counts(weighed, few) == [0, looks_worth(count), 0]
            assert (few.endpoint[~few.new] == 0).all()


@pytest.mark.parametrize(
    ("minutes", "window", "waits"),
    [
        (None, {}, True),
        (90.0, {}, True),
        (60.5, {}, False),  # no time is left after the batch
        (90.0, {"windows": ((0.0, 4000.0),)}, False),  # by then it may be dearer
        (90.0, {"requests_per_second": 0.05}, False),  # as many take too long
    ],
)
def test_what_finds_no_room_in_a_batch_waits_for_what_that_mends(
    tmp_path: Path, minutes: float | None, window: dict[str, Any], waits: bool
) -> None:
    with rounds(tmp_path, BOTH, None if minutes is None else 60 * minutes, FEWEST) as weighed:
        live = weighed.market.endpoint.tolist().index(1)
        offered = tuple(
            replace(offer, option=replace(offer.option, **window)) if place == live else offer
            for place, offer in enumerate(weighed.market.offered)
        )
        changed = replace(weighed, market=replace(weighed.market, offered=offered))
        first = changed.dearest_last(mended(weighed, (2, 60), (1, 30)))
        assert counts(weighed, first) == [0, 0 if waits else 30, 60]
        alone = mended(weighed, (1, 30))
        assert counts(weighed, changed.dearest_last(alone)) == [0, 30, 0]


@pytest.mark.parametrize(("minutes", "waits"), [(90.0, True), (60.5, False)])
def test_a_dear_batch_waits_for_what_mends_cheaper_at_once(
    tmp_path: Path, minutes: float, waits: bool
) -> None:
    cheaper = {"price": {"input": 0.4, "output": 1.6}, "quality_prior": 0.8}
    with rounds(tmp_path, BOTH | {"weak": cheaper}, 60 * minutes, FEWEST) as weighed:
        first = weighed.dearest_last(mended(weighed, (2, 40), (3, 30), (1, 10)))
        assert counts(weighed, first) == ([0, 0, 0, FEWEST] if waits else [0, 10, 40, 30])
