"""A model that reasons is held to a schema when it has done so; vLLM on the CPU, with a tiny model made to reason."""

from __future__ import annotations

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.engines import MemoryJournal, request, shard
from tests.support.workers import MODEL, VLLM_PYTHON, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.metered.queue import QueuedRequest, ShardQueue
from thirdshift.engines.metered.records import reply_of
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.engines.vllm.reasoners import REASONERS
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Answer

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["b", "cd"]}},
    "required": ["a"],
    "additionalProperties": False,
}
SAID = json.dumps({"a": "b"})


def test_every_parser_is_one_of_vllms() -> None:
    (registry,) = Path(VLLM_PYTHON).parents[1].glob("lib/python*/site-packages/vllm/reasoning/__init__.py")
    names = set(re.findall(r'^    "(\w+)": \(', registry.read_text(), re.MULTILINE))
    assert set(REASONERS.values()) <= names


@pytest.mark.parametrize(("schema", "text", "reasoning"), [(SCHEMA, SAID, None), (None, "", SAID)])
def test_an_answer_that_was_taken_for_reasoning_is_an_answer(
    schema: dict[str, object] | None, text: str, reasoning: str | None
) -> None:
    asked = request(0, "say b", response_schema=schema)
    queued = QueuedRequest(ShardQueue(shard("house", [asked]), "key"), asked, 1)
    reply = reply_of(queued, {"text": "", "finish_reason": "stop", "reasoning": SAID})
    assert isinstance(reply, Answer)
    assert (reply.output, reply.reasoning) == (text, reasoning)


@pytest.fixture
def thinker(tmp_path: Path) -> tuple[Path, int]:
    """The tiny model whose template opens its reasoning; and the number of the token that ends it."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    place = folder / "tokenizer.json"
    tokenizer = json.loads(place.read_text())
    ids = {}
    for old, new in (("<|system|>", "<think>"), ("<|user|>", "</think>")):
        (token,) = [token for token in tokenizer["added_tokens"] if token["content"] == old]
        token["content"], ids[new] = new, token["id"]
        vocabulary = tokenizer["model"]["vocab"]
        if old in vocabulary:
            vocabulary[new] = vocabulary.pop(old)
    place.write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] + '<|end|>' }}{% endfor %}<|assistant|><think>"
    )
    return folder, ids["</think>"]


def test_a_schema_holds_from_the_end_of_the_reasoning_on(thinker: tuple[Path, int]) -> None:
    folder, end = thinker
    pool = VllmEngine(worker_endpoint(str(folder)), EngineContext(MemoryJournal(), RunBudget(Decimal(1))))
    ends = {"logit_bias": {str(end): 100.0}}  # the tiny model never learnt to end it by itself
    asked = [
        request(0, "1+1", 24, response_schema=SCHEMA, sampling=ends),
        request(1, "1+1", 8, response_schema=SCHEMA),
    ]
    try:
        replies = {reply.row: reply for reply in pool.collect(pool.submit(shard("house", asked), "key"))}
    finally:
        pool.close()
    answered, cut = replies[0], replies[1]
    assert isinstance(answered, Answer), answered
    assert answered.valid, answered.output
    assert json.loads(answered.output)["a"] in {"b", "cd"}
    assert not (isinstance(cut, Answer) and cut.output), (
        "what has no end is reasoning, which no grammar holds"
    )
