"""Whether what needs mending is sent at once or a part at a time."""

from __future__ import annotations

import numpy as np

from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.planner import Market
from thirdshift.router.learning.free_scores import FEWEST
from thirdshift.router.learning.repair import Mended
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Mode

TWO_ROUNDS = 2.2
"""So many times a batch's turnaround must be left for a first batch to tell how good the second will be."""


def in_parts(
    learner: Learner, market: Market, seen: Observations, found: Mended, seconds: float | None
) -> bool:
    """Whether no more is sent in a round than is surely needed: rounds cost little time, or hardly anything is known of a
    batch tier's answers and there is time for a round to tell. `seconds`: until the deadline."""
    endpoints, new = learner.context.endpoints, found.endpoint[found.new]
    modes = {endpoints[e].mode for e in np.unique(new)}
    if not learner.sends_on or not modes <= {Mode.REALTIME, Mode.BATCH}:
        return False
    if Mode.BATCH not in modes:
        return True
    options = np.unique(found.option[found.new])
    longest = max(market.offered[option].option.turnaround_seconds for option in options)
    known = np.concatenate([seen.endpoint, learner.before.endpoint])
    scored, sent = (np.bincount(e, minlength=len(endpoints))[: len(endpoints)] for e in (known, new))
    unknown = bool(((scored < FEWEST) & (sent > FEWEST)).any())
    return unknown and (seconds is None or seconds > TWO_ROUNDS * longest)
