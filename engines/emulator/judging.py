"""An emulated model that is asked to judge: it knows which answer was right, and errs at stated rates."""

from __future__ import annotations

import json

from thirdshift.engines.emulator.answer_key import AnswerKey, last_user_text, messages_key, text_key
from thirdshift.engines.emulator.models import EmulatedModel
from thirdshift.router.certification.comparisons import agrees
from thirdshift.router.certification.judge import Question

EVEN = 0.5
"""From this score on an answer counts as right."""


def verdict_on(
    question: Question, model: EmulatedModel, known: AnswerKey, drawn: float, recorded: float | None = None
) -> tuple[str, bool]:
    """Return (what the judge says, whether that is so). `drawn`: a random number in 0..1 for this question; `recorded`:
    what the answer scored, where that is known."""
    messages = question.messages
    key = messages_key(messages)
    fact = known.find(key, text_key(last_user_text(messages)))
    reference = question.reference if fact is None or fact.reference is None else fact.reference
    true = recorded if recorded is not None else float(_is_right(question.answer, reference or invented(key)))
    errs = drawn < (model.harsh if true >= EVEN else model.lenient)
    score = 1.0 - true if errs else true
    return json.dumps({"reason": "an emulated judge's verdict", "score": score}), not errs


def invented(key: int) -> str:
    """Make a right answer where none is known: the same for every model."""
    return f"answer {key % 1_000_003}"


def _is_right(answer: str, reference: str) -> bool:
    """Write the right answer as the emulated models do: the reference itself, or JSON that holds it."""
    return agrees(answer, reference) == 1.0 or (answer.lstrip()[:1] in ("{", "[") and reference in answer)
