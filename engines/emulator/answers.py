"""What a model answers: right or wrong, how long, with what usage. The same request gets the same answer."""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

from thirdshift.engines.emulator.answer_key import (
    AnswerKey,
    KnownAnswer,
    last_user_text,
    messages_key,
    text_key,
)
from thirdshift.engines.emulator.generation import right_json, wrong, wrong_json
from thirdshift.engines.emulator.judging import invented, verdict_on
from thirdshift.engines.emulator.models import EmulatedModel
from thirdshift.engines.emulator.recorded_outcomes import Recorded, RecordedOutcome
from thirdshift.router.certification.judge import Question, question_in
from thirdshift.router.values import Usage

NORMAL = NormalDist()
BYTES_PER_TOKEN = 4
"""Characters of English per token: no tokenizer is loaded, so that a server is up within a second."""
MESSAGE_TOKENS = 4
"""Per message for its role and marks, and once for the reply's."""
UNREAD = "unread"
"""How an answer begins whose recorded text nobody could read: no two are equal."""
CACHED_FROM, CACHED_STEP = 1024, 128
"""A prefix counts as cached from so many tokens on, in steps of so many: OpenAI's rule."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it came over any wire."""

    model: str
    messages_key: int
    prompt_key: int
    prompt: str = field(repr=False)
    """The last user message's text."""
    input_tokens: int
    prefix_tokens: int
    """Tokens of the messages before the last one."""
    prefix_key: int
    max_tokens: int | None
    schema: Mapping[str, Any] | None = None
    request_id: str | None = None
    flex: bool = False
    """Asked for at leisure, at the price of that."""
    keeps: bool = False
    """Asks for what comes before the last message to be kept in a cache, and pays for that."""


@dataclass(frozen=True, slots=True)
class EmulatedAnswer:
    text: str = field(repr=False)
    usage: Usage
    finish_reason: str
    """`stop` or `length`."""
    right: bool


class Draws(NamedTuple):
    """Four numbers in 0..1 and a seed that follow from what they are drawn for."""

    right: float
    length: float
    difficulty: float
    trouble: float
    text: int

    @classmethod
    def of(cls, *what: object) -> Draws:
        digest = hashlib.blake2b("\0".join(map(str, what)).encode(), digest_size=40).digest()
        right, length, difficulty, trouble, text = struct.unpack("<5Q", digest)
        return cls(right / 2**64, length / 2**64, difficulty / 2**64, trouble / 2**64, text)


def tokens_of(text: str) -> int:
    """Estimate a text's tokens: bytes over four, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


class Oracle:
    """What the provider knows: right answers, how recorded models did, the seed of everything else."""

    def __init__(self, seed: int, known: AnswerKey, recorded: Recorded | None) -> None:
        self._seed = seed
        self._known = known
        self._recorded = recorded

    def answer(self, model: EmulatedModel, asked: WireRequest) -> EmulatedAnswer:
        if (question := question_in(asked.prompt)) is not None:
            return self._judge(model, asked, question)
        fact = self._known.find(asked.messages_key, asked.prompt_key)
        record = self._record(model, asked, fact)
        draws = Draws.of(self._seed, model.name, asked.messages_key)
        difficulty = self._difficulty(asked, fact)
        chance = record.score if record else logistic(model.slope * (model.ability - difficulty))
        is_right = draws.right < chance
        if record and self._recorded and self._recorded.has_answers:
            text = record.answer or f"{UNREAD} {draws.text % 1_000_003}"
            return _as_recorded(text, record, asked, is_right=is_right)
        text = self._text(asked, fact, draws, is_right=is_right)
        if record:
            return _as_recorded(text, record, asked, is_right=is_right)
        visible, reasoning = _lengths(model, text, draws.length, difficulty, asked.max_tokens)
        return _cut(text, visible, reasoning, asked, is_right=is_right)

    def _judge(self, model: EmulatedModel, asked: WireRequest, question: Question) -> EmulatedAnswer:
        draws = Draws.of(self._seed, model.name, asked.messages_key)
        text, is_right = verdict_on(question, model, self._known, draws.right, self._scored(question))
        return _cut(
            text, *_lengths(model, text, draws.length, 0.0, asked.max_tokens), asked, is_right=is_right
        )

    def _scored(self, question: Question) -> float | None:
        """Return what the answer that is judged scored, where recorded answers are given."""
        if self._recorded is None or not self._recorded.has_answers:
            return None
        prompt = text_key(last_user_text(question.messages))
        fact = self._known.find(messages_key(question.messages), prompt)
        return self._recorded.score_of(question.answer, fact.request_id if fact else None, prompt) or 0.0

    def draw(self, *what: object) -> float:
        return Draws.of(self._seed, *what).trouble

    def _record(
        self, model: EmulatedModel, asked: WireRequest, fact: KnownAnswer | None
    ) -> RecordedOutcome | None:
        if self._recorded is None:
            return None
        request_id = fact.request_id if fact else None
        return self._recorded.find(
            model.recorded_as or model.name, request_id or asked.request_id, asked.prompt_key
        )

    def _difficulty(self, asked: WireRequest, fact: KnownAnswer | None) -> float:
        if fact is not None and fact.difficulty is not None:
            return fact.difficulty
        drawn = min(max(Draws.of(self._seed, asked.messages_key).difficulty, 1e-9), 1 - 1e-9)
        return math.log(drawn / (1.0 - drawn))

    def _text(self, asked: WireRequest, fact: KnownAnswer | None, draws: Draws, *, is_right: bool) -> str:
        """Answer a request. Where the right answer is not known one is made up, the same for every model."""
        reference = fact.reference if fact else None
        right = _right(asked, reference)
        if is_right:
            return right
        rng = random.Random(draws.text)  # noqa: S311 - repeatable, not secret
        if asked.schema is None:
            return wrong(right, asked.prompt, rng)
        return wrong_json(asked.schema, right, rng)


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0


def _right(asked: WireRequest, reference: str | None) -> str:
    if asked.schema is None:
        return invented(asked.messages_key) if reference is None else reference
    if reference is not None and reference.lstrip()[:1] in ("{", "["):
        return reference
    return right_json(asked.schema, asked.messages_key, reference)


def _lengths(
    model: EmulatedModel, text: str, drawn: float, difficulty: float, ceiling: int | None
) -> tuple[int, int]:
    """Return (visible, reasoning) tokens: as drawn, but never fewer visible ones than the text has."""
    output = model.output
    spread = output.spread * NORMAL.inv_cdf(min(max(drawn, 1e-9), 1 - 1e-9)) if output.spread else 0.0
    total = output.median * math.exp(spread + output.growth * difficulty)
    reasoning = round(total * output.reasoning_share)
    visible = max(tokens_of(text), round(total) - reasoning, 1)
    if output.fits and ceiling is not None and tokens_of(text) <= ceiling:
        visible = min(visible, ceiling)
        reasoning = min(reasoning, ceiling - visible)
    return visible, reasoning


def _cut(text: str, visible: int, reasoning: int, asked: WireRequest, *, is_right: bool) -> EmulatedAnswer:
    """Cut an answer to max_tokens: reasoning comes first, the text is cut where the tokens end."""
    ceiling = asked.max_tokens
    if ceiling is None or visible + reasoning <= ceiling:
        return EmulatedAnswer(
            text, Usage(asked.input_tokens, visible + reasoning, 0, reasoning), "stop", is_right
        )
    reasoning = min(reasoning, ceiling)
    left = text[: len(text) * (ceiling - reasoning) // visible]
    # what is left may still be the whole answer: cut is what was to follow it
    whole = is_right and left == text
    return EmulatedAnswer(left, Usage(asked.input_tokens, ceiling, 0, reasoning), "length", whole)


def _as_recorded(text: str, record: RecordedOutcome, asked: WireRequest, *, is_right: bool) -> EmulatedAnswer:
    """Answer with the recorded tokens. A record above max_tokens is billed at max_tokens, and its answer stands:
    how the model did is what is replayed.
    """
    output = record.output_tokens if asked.max_tokens is None else min(record.output_tokens, asked.max_tokens)
    return EmulatedAnswer(text, Usage(record.input_tokens, output), "stop", is_right)
