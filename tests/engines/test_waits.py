"""When to come back, by an error's body."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from thirdshift.engines.wires.replies import read_reply
from thirdshift.engines.wires.waits import wait_told
from thirdshift.router.values import FailureKind


@pytest.mark.parametrize(
    ("error", "words", "seconds"),
    [
        ({}, "rate limit reached. please try again in 9.816s.", 9.816),
        ({}, "please try again in 1m30s.", 90.0),
        ({}, "please retry after 86400 seconds.", 86400.0),
        ({}, "please try again after 1 seconds", 1.0),
        ({}, "try again in 250ms", 0.25),
        ({}, "please retry in 22.3s.", 22.3),
        ({}, "try again in 2 hours", 7200.0),
        ({}, '{"@type":"type.googleapis.com/google.rpc.retryinfo", "retrydelay": "26s"}', 26.0),
        ({"resets_in_seconds": 13872}, "the usage limit has been reached", 13872.0),
        ({"error": "loading", "estimated_time": 20.5}, "model is currently loading", 20.5),
        ({"details": [{"links": []}, {"retryDelay": "26s"}]}, "quota", 26.0),
        ({"details": ["x"], "retry_after": True}, "try again later", None),
        ({"retry_after": "soon"}, "retry", None),
    ],
)
def test_a_wait_is_read_wherever_it_is_told(error: dict[str, Any], words: str, seconds: float | None) -> None:
    assert wait_told(error, words) == seconds


def test_a_wait_until_an_instant_is_counted_from_now() -> None:
    at = datetime.now(UTC) + timedelta(hours=3)
    told = wait_told({}, f"5-hour usage limit reached, resets at {at:%Y-%m-%dt%H:%M:%Sz} (2056)")
    assert told == pytest.approx(3 * 3600, abs=60)


def test_a_quota_with_a_wait_is_no_empty_account_and_one_without_is() -> None:
    words = "You exceeded your current quota, please check your plan and billing details."
    body = f'[{{"error":{{"code":429,"message":"{words}%s","status":"RESOURCE_EXHAUSTED"}}}}]'
    with_wait = read_reply(429, {}, (body % " Please retry in 22.3s.").encode())
    without = read_reply(429, {}, (body % "").encode())
    assert (with_wait.kind, with_wait.retry_after) == (FailureKind.RATE_LIMITED, 22.3)
    assert (without.kind, without.decided) == (FailureKind.AUTH, True)
