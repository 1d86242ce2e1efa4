"""A line of a batch's results on OpenAI's wire: a status and a body, each standing for itself."""

from __future__ import annotations

from typing import Any

from thirdshift.engines.core.transport import Reply
from thirdshift.engines.wires.errors import error_in, read_error
from thirdshift.engines.wires.parsing import MISSING, as_text, parsed
from thirdshift.engines.wires.replies import read_body
from thirdshift.engines.wires.rules import NOT_RUN_CODES
from thirdshift.router.values import FailureKind


def read_line(line: bytes) -> Reply:
    """What a result line says. EXPIRED: the batch ended before this request was run."""
    data = parsed(line)
    if not isinstance(data, dict):
        return _unreadable(line)
    response, error = data.get("response"), data.get("error")
    if isinstance(response, dict):
        body = response.get("body")
        if isinstance(body, str):  # some write the body as a text
            body = parsed(body)
        if body is not None and body is not MISSING:
            return _unhurried(read_body(_status(response, body), body, line))
    if isinstance(error, dict) and str(error.get("code")) in NOT_RUN_CODES:
        return Reply(kind=FailureKind.EXPIRED, message=str(error["code"]), unbilled=True)
    if (fault := error_in({"error": error})) is not None:
        return _unhurried(read_error(_status(response, {}, 500), {"error": fault}, line))
    return _unreadable(line)


def _unhurried(reply: Reply) -> Reply:
    """A line's failure without what is only so in real time: a wait, a gateway that did not wait (nothing is billed for a
    line that failed)."""
    if reply.kind is FailureKind.TIMEOUT:
        reply = reply._replace(kind=FailureKind.OVERLOADED, unbilled=reply.usage is None)
    return reply._replace(retry_after=None)


def _status(response: Any, body: Any, otherwise: int | None = None) -> int:
    """A line's status, whatever it is written as; where it cannot be read, the body says which it was."""
    status = response.get("status_code") if isinstance(response, dict) else None
    if isinstance(status, str) and status.strip().isdigit():
        status = int(status)
    if isinstance(status, int | float) and not isinstance(status, bool) and 100 <= status < 600:
        return int(status)
    if otherwise is not None:
        return otherwise
    return 200 if isinstance(body, dict) and "choices" in body else 500


def _unreadable(line: bytes) -> Reply:
    return Reply(
        kind=FailureKind.BROKEN_REPLY,
        message="a result that says nothing that can be read",
        said=as_text(line),
    )
