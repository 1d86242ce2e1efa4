"""Scores that cost nothing: what each answer held scores, and whom the requests go to whose answer failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.simulated.books import Entry, answers
from thirdshift.engines.emulator.answer_key import messages_key
from thirdshift.engines.emulator.judging import invented
from thirdshift.flows.planning.assignment import Assignment, PendingRows
from thirdshift.router.certification.scorers import Scorer, score
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Endpoint, Request

EXACT = Scorer("exact")


def references(requests: Sequence[Request]) -> list[str | None]:
    """The right answers: those that the emulated provider makes up. None where it is to be JSON: it is not scored."""
    return [None if r.response_schema else _reference(str(r.messages[0]["content"])) for r in requests]


@cache
def _reference(text: str) -> str:
    return invented(messages_key([{"role": "user", "content": text}]))


def observed(
    entries: Sequence[Entry], endpoints: Sequence[Endpoint], requests: Sequence[Request]
) -> Observations:
    """The scores of all answers that are held and can be scored, by the product's own scorer."""
    row, endpoint, outputs = answers(entries, endpoints, np.arange(len(requests)))
    known = references(requests)
    scores = [score(EXACT, output, known[r]) for r, output in zip(row.tolist(), outputs, strict=True)]
    scored = np.array([value is not None for value in scores], bool)
    values = np.array([value or 0.0 for value in scores])
    return Observations(row[scored], endpoint[scored], values[scored])


def sent_on(
    assignment: Assignment,
    seen: Observations,
    allowed: NDArray[np.bool_],
    price: NDArray[np.float64],
    now: float,
) -> PendingRows:
    """The requests whose served answer scores 0, each for the cheapest endpoint that its policy allows and that was not
    tried. (`repair` decides by what is predicted; what it sends goes the same way.)"""
    known = np.full(assignment.answered.shape, np.nan)
    known[seen.row, seen.endpoint] = seen.score
    served = assignment.served
    failed = (served >= 0) & (known[np.arange(len(served)), served] == 0.0)
    tried = assignment.answered | assignment.failed | (assignment.not_run > 0) | (assignment.out_until > now)
    cost = np.where(allowed & ~tried, price, np.inf)
    rows = np.flatnonzero(failed & np.isfinite(cost).any(axis=1))
    return PendingRows(rows, cost[rows].argmin(axis=1).astype(np.int32))


def by_place(seen: Observations) -> Mapping[tuple[int, int], Any]:
    """The same by row and endpoint."""
    pairs = zip(seen.row.tolist(), seen.endpoint.tolist(), strict=True)
    return dict(zip(pairs, seen.score.tolist(), strict=True))
