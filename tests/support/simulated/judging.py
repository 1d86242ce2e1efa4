"""Scores that cost money: a judge's verdicts on some answers, or how far they agree with a baseline's answers.

Which answers are to be scored is drawn. What is asked, how a verdict is read, what judging may cost and when a question is
asked again are the product's own; where its warehouse keeps whose answers a shard is about, a night does here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random

import numpy as np
from numpy.typing import NDArray

from tests.support.simulated.books import Entry, answers
from thirdshift.flows.quality.scoring import ASKED
from thirdshift.router.certification.comparisons import agrees
from thirdshift.router.certification.judge import VERDICT, VERDICT_TOKENS, Judge, Question, verdict
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Endpoint, Mode, Purpose, Request, usd

RUBRIC = "1 where the answer is right, else 0."
SHARE = 0.25
"""Of the nights with scores that are judged, and of those that are compared with a baseline."""


@dataclass(frozen=True, slots=True)
class PaidScores:
    """Who tells what answers are worth, and how many of them."""

    purpose: Purpose
    """`judge`, or `audit`: a baseline answers the same requests."""
    endpoint: int
    """Position of who is asked."""
    rows: int
    """So many of a night's first requests have their answers scored."""
    most_usd: Decimal | None
    """What a judge's calls may cost in all."""


def paid_scores(rng: Random, endpoints: Sequence[Endpoint], expected_usd: float) -> PaidScores | None:
    """Draw them; None where scores are free."""
    drawn = rng.random()
    if drawn < SHARE:
        most = None if rng.random() < 0.4 else usd(expected_usd * 10 ** rng.uniform(-1.5, 0.5))
        return PaidScores(Purpose.JUDGE, rng.randrange(len(endpoints)), rng.choice((10, 40, 120)), most)
    live = [place for place, endpoint in enumerate(endpoints) if endpoint.mode is Mode.REALTIME]
    if drawn < 2 * SHARE and live:
        return PaidScores(Purpose.AUDIT, rng.choice(live), rng.choice((10, 40, 120)), None)
    return None


class PaidScoring:
    """Asks in one life for the scores that are missing."""

    def __init__(
        self,
        wanted: PaidScores,
        endpoints: Sequence[Endpoint],
        requests: Sequence[Request],
        allowed: NDArray[np.bool_],
        subjects: Mapping[str, int],
    ) -> None:
        """`subjects`: as `NightStory` has them; they outlive a life, as the warehouse does."""
        self.wanted, self._endpoints, self._requests, self._subjects = wanted, endpoints, requests, subjects
        self._judge = Judge(endpoints[wanted.endpoint], RUBRIC)
        seen = (row for row in range(wanted.rows) if allowed[row, wanted.endpoint])
        self._rows = np.array([row for row in seen if not requests[row].response_schema], np.int64)
        """Those that the asked one may see. The emulated judge knows of no JSON whether it is right."""
        self._asked: Counter[tuple[int, int]] = Counter()

    def scored(self, entries: Sequence[Entry]) -> Observations:
        """The scores that are known."""
        known = scores(self.wanted, entries, self._endpoints, self._subjects)
        return Observations(
            np.array([row for row, _ in known], np.int64),
            np.array([subject for _, subject in known], np.int32),
            np.array(list(known.values()), np.float64),
        )

    def due(self, entries: Sequence[Entry]) -> list[tuple[int, NDArray[np.int64]]]:
        """Whose answers to which requests are to be asked about now; of a baseline, its own are missing."""
        held = _held(entries, self._endpoints, self._rows)
        if self.wanted.purpose is Purpose.JUDGE:
            known = scores(self.wanted, entries, self._endpoints, self._subjects)
            missing = [about for about in held if about not in known and self._asked[about] < ASKED]
        else:
            its = dict.fromkeys((row, self.wanted.endpoint) for row, _ in held)
            missing = [about for about in its if about not in held and not self._asked[about]]
        self._asked.update(missing)
        by_subject: dict[int, list[int]] = {}
        for row, subject in missing:
            by_subject.setdefault(subject, []).append(row)
        return [(subject, np.array(rows, np.int64)) for subject, rows in by_subject.items()]

    def questions(self, shard_id: str, rows: NDArray[np.int64], entries: Sequence[Entry]) -> list[Request]:
        """What a judge's shard sends, as `questions.py` has it."""
        held, subject = _held(entries, self._endpoints, rows), self._subjects[shard_id]
        return [
            self._question(self._requests[row], output) for (row, by), output in held.items() if by == subject
        ]

    def _question(self, request: Request, output: str) -> Request:
        question = Question(request.messages, output)
        return Request(
            request.row,
            request.request_id,
            self._judge.key(question),
            request.task,
            self._judge.messages(question),
            VERDICT_TOKENS,
            response_schema=VERDICT,
        )


def scores(
    wanted: PaidScores, entries: Sequence[Entry], endpoints: Sequence[Endpoint], subjects: Mapping[str, int]
) -> dict[tuple[int, int], float]:
    """By row and endpoint, what its answer is worth to whom was asked."""
    if wanted.purpose is Purpose.JUDGE:
        told = (
            ((entry.row, subjects[entry.shard_id]), verdict(entry.output))
            for entry in entries
            if entry.purpose == Purpose.JUDGE and entry.usable
        )
        return {about: score for about, score in told if score is not None}
    told_rows = np.array(sorted({entry.row for entry in entries if entry.purpose == Purpose.AUDIT}), np.int64)
    held, baseline = _held(entries, endpoints, told_rows), wanted.endpoint
    return {
        (row, by): agrees(output, held[row, baseline])
        for (row, by), output in held.items()
        if by != baseline and (row, baseline) in held
    }


def _held(
    entries: Sequence[Entry], endpoints: Sequence[Endpoint], rows: NDArray[np.int64]
) -> dict[tuple[int, int], str]:
    """By row and endpoint, in this order, the answers to these requests."""
    row, endpoint, outputs = answers(entries, endpoints, rows)
    return dict(zip(zip(row.tolist(), endpoint.tolist(), strict=True), outputs, strict=True))
