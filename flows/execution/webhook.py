"""One message to a webhook, sent again where it may pass."""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any
from urllib.error import HTTPError

import stamina

from thirdshift.engines.direct import opener

# what it retries is said once, by the notifier
logging.getLogger("stamina").addHandler(logging.NullHandler())

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
ANSWER_SECONDS = 10.0
"""How long a webhook may take to answer one attempt."""
PASSING = frozenset({408, 425, 429})
"""Statuses besides 5xx after which a webhook is asked again."""


def post(url: str, body: dict[str, Any]) -> None:
    """Send `body` as JSON. Raises what the last attempt met; `reason` says it without the URL, which is a secret."""
    for attempt in stamina.retry_context(
        on=_passes, attempts=ATTEMPTS, timeout=None, wait_initial=FIRST_WAIT_SECONDS
    ):
        with attempt:
            _post(url, body)


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(  # noqa: S310 (http or https: the job's check sees to it)
        url, json.dumps(body).encode(), {"content-type": "application/json", "user-agent": "thirdshift"}
    )
    with opener().open(request, timeout=ANSWER_SECONDS) as reply:
        reply.read(1)


def _passes(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        error.close()
        return error.code >= 500 or error.code in PASSING
    return isinstance(error, OSError)


def reason(error: Exception) -> str:
    """Say why, without the URL, which some errors repeat."""
    if isinstance(error, HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, OSError):
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or type(reason).__name__)
    return type(error).__name__
