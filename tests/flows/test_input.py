"""From a job's input to columns: whose answer serves which row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from thirdshift.flows.console import LongWork
from thirdshift.flows.errors import UserError
from thirdshift.flows.planning.columns import request_columns
from thirdshift.flows.planning.input import PreparedInput, check_shares, prepare
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions

PRICE = {"price": {"input": 1, "output": 4}}


def prepared(
    folder: Path, policies: list[str | None], endpoints: dict[str, Any]
) -> tuple[RunContext, PreparedInput]:
    """One request after the other with the same prompt, each under a policy."""
    rows = [{"request_id": f"r{k}", "prompt": "same", "policy": name} for k, name in enumerate(policies)]
    job = {
        "policies": {
            "home": {"regions": {"allow": ["eu"]}},
            "away": {"regions": {"allow": ["us"]}},
        },
        "endpoints": [
            {"name": name, "model": f"openai/{name}", "api_base": "http://127.0.0.1:9/v1", **PRICE, **more}
            for name, more in endpoints.items()
        ],
    }
    return from_rows(folder, rows, job)


def from_rows(
    folder: Path, rows: list[dict[str, Any]], job: dict[str, Any]
) -> tuple[RunContext, PreparedInput]:
    """These requests, as a job that says so much more prepares them."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    whole = {"name": "twins", "input": "requests.parquet", **job}
    (folder / "job.yaml").write_text(yaml.safe_dump(whole))
    context = context_for(RunOptions(job=folder / "job.yaml"), "one")
    return context, again(folder, context)


def again(folder: Path, context: RunContext) -> PreparedInput:
    """The same once more, as a resumed run does it."""
    return prepare(
        context.input,
        folder / "run",
        context.endpoints,
        context.policy,
        context.policies,
        context.needs,
        LongWork(print),
    )


def test_duplicates_under_policies_that_no_endpoint_keeps_together_are_answered_each_of_their_own(
    tmp_path: Path,
) -> None:
    both = {"here": {"region": "eu"}, "there": {"region": "us"}}
    context, batch = prepared(tmp_path, ["home", "away", "home", "away", None], both)
    assert batch.leader.tolist() == [0, 1, 0, 1, 4]
    columns = request_columns(batch, context.endpoints, context.allowed, texts=False)
    assert columns.allowed.any(axis=1).all()
    assert columns.allowed[0].tolist() == [True, False]
    assert columns.allowed[1].tolist() == [False, True]
    assert np.array_equal(again(tmp_path, context).leader, batch.leader), "a resumed run reads the same"


def test_duplicates_that_one_endpoint_may_answer_are_paid_for_once(tmp_path: Path) -> None:
    wide = {"here": {"region": "eu"}, "there": {"region": "us"}}
    context, batch = prepared(tmp_path, ["home", None, "home"], wide)
    assert batch.leader.tolist() == [0, 0, 0]
    columns = request_columns(batch, context.endpoints, context.allowed, texts=False)
    assert columns.allowed.tolist() == [[True, False]]


def test_a_share_of_vendors_that_no_plan_can_keep_is_said_before_anything_is_spent(tmp_path: Path) -> None:
    wide = {"here": {"region": "eu", "provider": "openai"}, "there": {"region": "us", "provider": "mistral"}}
    context, batch = prepared(tmp_path, [None], wide)
    with pytest.raises(
        UserError, match=r"0\.7 of 1 requests is 0 for each vendor.*of 2 \(mistral, openai\).* keep is 1;"
    ):
        check_shares(batch, context.endpoints, context.allowed, 0.7)
    check_shares(batch, context.endpoints, context.allowed, None)
    check_shares(batch, context.endpoints, context.allowed, 1.0)


def test_what_a_request_asks_to_be_kept_in_a_cache_is_planned_with(tmp_path: Path) -> None:
    """By prompts of an Anthropic kind: every second one marks its long beginning."""
    long = "Add the numbers as carefully as you can. " * 400
    rows = []
    for number in range(8):
        part: dict[str, Any] = {"type": "text", "text": long}
        if number % 2:
            part["cache_control"] = {"type": "ephemeral"}
        messages = [{"role": "system", "content": [part]}, {"role": "user", "content": f"{number} + 1"}]
        rows.append({"request_id": f"r{number}", "messages": json.dumps(messages)})
    endpoint = {"name": "claude", "model": "anthropic/claude-sonnet-5", "api_base": "http://127.0.0.1:9/v1"}
    context, batch = from_rows(tmp_path, rows, {"endpoints": [endpoint | PRICE]})
    (cache,) = request_columns(batch, context.endpoints, context.allowed, texts=False).caches
    assert cache.kept is not None
    assert (cache.found > 0).tolist() == (cache.kept > 0).tolist() == [False, True] * 4


@pytest.mark.parametrize(
    ("last", "text_only"),
    [
        ('a "content":[ of text', True),
        (
            [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
            ],
            False,
        ),
        ([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}], False),
    ],
)
def test_a_run_knows_whether_any_of_its_requests_holds_more_than_text(
    tmp_path: Path, last: Any, text_only: bool
) -> None:
    contents: list[Any] = [*(f"row {k}" for k in range(40)), last]
    rows = [
        {"request_id": f"r{k}", "messages": json.dumps([{"role": "user", "content": content}])}
        for k, content in enumerate(contents)
    ]
    endpoint = {"name": "one", "model": "openai/one", "api_base": "http://127.0.0.1:9/v1", **PRICE}
    context, batch = from_rows(tmp_path, rows, {"endpoints": [endpoint]})
    assert batch.text_only is text_only
    assert again(tmp_path, context).text_only is text_only, "a resumed run"
