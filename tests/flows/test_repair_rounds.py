"""How much of what needs mending is sent at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.learners import learner
from thirdshift.flows.quality.repair_rounds import in_parts
from thirdshift.router.learning.free_scores import FEWEST
from thirdshift.router.learning.repair import Mended
from thirdshift.router.planning.problem import NOBODY
from thirdshift.router.prediction.observations import Observations

PRICE, HOUR, ROWS = {"input": 1, "output": 4}, 3600.0, 200
CHEAP = {"price": PRICE, "quality_prior": 0.6}
BATCH = {"price": PRICE, "quality_prior": 0.9, "mode": "batch", "turnaround": "1h"}
REALTIME = {"price": PRICE, "quality_prior": 0.9}
FREE = {"floor": 0.8, "scorer": "exact"}


@pytest.mark.parametrize(
    ("mender", "scored", "seconds", "partly"),
    [
        (REALTIME, 0, 60.0, True),  # a round costs no time
        (BATCH, 0, None, True),
        (BATCH, FEWEST, None, False),  # how well it mends is known
        (BATCH, 0, 3 * HOUR, True),
        (BATCH, 0, 2 * HOUR, False),  # there is no time for a second batch
    ],
)
def test_what_a_batch_tier_mends_is_tried_on_a_few_first_where_nothing_is_known_of_it_and_there_is_time(
    tmp_path: Path, mender: dict[str, object], scored: int, seconds: float | None, partly: bool
) -> None:
    with learner(tmp_path, ROWS, {"cheap": CHEAP, "mender": mender}, quality=FREE) as before:
        columns, market = before.columns, before.market()
        seen = Observations(np.arange(scored), np.ones(scored, np.int32), np.zeros(scored))
        new = np.arange(len(columns.rows)) < 3 * FEWEST
        option = market.endpoint.tolist().index(1)
        found = Mended(
            np.where(new, 1, 0).astype(np.int32),
            new,
            True,
            1.0,
            np.where(new, option, NOBODY).astype(np.int16),
        )
        assert before.sends_on
        assert in_parts(before, market, seen, found, seconds) == partly
