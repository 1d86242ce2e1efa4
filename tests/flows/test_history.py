"""What earlier answers tell of lengths and of which endpoints they hold."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from thirdshift.flows.planning.history import ceilings
from thirdshift.flows.planning.tiers import same_answers
from thirdshift.router.tokens.output_lengths import Observed, fit
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule

CAP = 256
REALTIME = Endpoint("m", "openai/m", PriceSchedule(Price(Decimal(1), Decimal(4))))


def test_earlier_answers_cut_at_their_ceiling_foretell_the_mean_of_the_next_night() -> None:
    rng = np.random.default_rng(1)
    written = np.minimum(np.exp(rng.normal(5.2, 0.7, 2000)).astype(np.int64) + 1, CAP)
    task, endpoint = np.zeros(2000, np.int32), np.zeros(2000, np.int32)
    run = pa.chunked_array([["before"] * 2000])
    most = ceilings(run, task, written, written >= CAP)
    model = fit(
        None,
        tasks=1,
        endpoints=1,
        max_tokens=np.full(10, CAP),
        history=Observed(task, endpoint, written, most),
    )
    mean = model.mean(np.zeros(10, np.int64), np.full(10, CAP), 0).mean()
    assert mean == pytest.approx(written.mean(), rel=0.03)


def test_without_a_cut_answer_no_ceiling_is_made_up() -> None:
    run = pa.chunked_array([["a", "a", "b"]])
    most = ceilings(run, np.zeros(3, np.int32), np.array([10, 64, 20]), np.array([False, True, False]))
    assert most.tolist() == [64, 64, np.iinfo(np.int32).max]


def test_a_models_tiers_count_as_one_and_other_params_do_not() -> None:
    batch = replace(REALTIME, name="m-batch", mode=Mode.BATCH)
    thoughtful = replace(REALTIME, name="m-high", params={"reasoning_effort": "high"})
    assert same_answers((REALTIME, thoughtful, batch)).tolist() == [0, 1, 0]
