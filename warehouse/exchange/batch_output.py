"""Write a run's results as an OpenAI batch's output file: a line per request, answered or not, in the order of the
input. Who has batch files needs no other tool."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from thirdshift.router.values import FailureKind
from thirdshift.warehouse.errors import PublishError
from thirdshift.warehouse.intake.messages import dumps
from thirdshift.warehouse.store.store import Warehouse

ROWS = """
with served as (
    select request_id, endpoint, arg_max(provider_ref, attempt) as ref,
           arg_max(input_tokens, attempt) as input_tokens, arg_max(output_tokens, attempt) as output_tokens,
           arg_max(cached_tokens, attempt) as cached_tokens, arg_max(reasoning_tokens, attempt) as reasoning_tokens
    from ledger where run_id = $run_id and request_id is not null and status = 'settled' and purpose <> 'judge'
    group by request_id, endpoint
)
select r.request_id, r.model, r.output, r.finish_reason, r.reasoning, r.error, r.completed_at, s.ref,
       s.input_tokens, s.output_tokens, s.cached_tokens, s.reasoning_tokens
from results r left join served s on s.request_id = r.request_id and s.endpoint = r.endpoint
left join requests q on q.run_id = r.run_id and q.request_id = r.request_id
where r.run_id = $run_id order by q.row
"""
REJECTS = "select request_id, reason from rejects where run_id = $run_id and request_id is not null order by source_row"
BATCH_ROWS = 4096


def write_batch_output(warehouse: Path, run_id: str, target: Path) -> int:
    """Write the file, whole or not at all; return how many lines it has. Raises PublishError where it cannot be."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with Warehouse.open(warehouse) as store, temporary.open("wb") as file:
            lines = 0
            for line in _lines(store, run_id):
                file.write(dumps(line).encode() + b"\n")
                lines += 1
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PublishError(
            f"--batch-output {target}: cannot be written ({error.strerror}); the results are in {warehouse}, and the same "
            "command writes them once it can be"
        ) from error
    return lines


def _lines(store: Warehouse, run_id: str) -> Iterator[dict[str, Any]]:
    for batch in store.stream(ROWS, BATCH_ROWS, run_id=run_id):
        yield from map(_line, batch.to_pylist())
    for row in store.query(REJECTS, run_id=run_id).to_pylist():
        yield _error_line(row["request_id"], "invalid_request", row["reason"])


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["error"] is not None:
        kind, found, words = row["error"].partition(": ")
        known = found and (kind in set(FailureKind) or kind == "unanswered")
        return _error_line(
            row["request_id"], kind if known else "unanswered", words if known else row["error"]
        )
    response = {"status_code": 200, "request_id": row["ref"] or "", "body": _completion(row)}
    return {"id": _id(row["request_id"]), "custom_id": row["request_id"], "response": response, "error": None}


def _error_line(request_id: str, code: str, message: str) -> dict[str, Any]:
    error = {"code": code, "message": message}
    return {"id": _id(request_id), "custom_id": request_id, "response": None, "error": error}


def _id(request_id: str) -> str:
    return f"batch_req_{request_id}"


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": row["output"], "refusal": None}
    if row["finish_reason"] == "tool_calls" and (calls := _calls(row["output"])) is not None:
        message |= {"content": None, "tool_calls": calls}
    if row["reasoning"]:
        message["reasoning_content"] = row["reasoning"]
    at = row["completed_at"]
    return {
        "id": row["ref"] or _id(row["request_id"]),
        "object": "chat.completion",
        "created": int(at.timestamp()) if isinstance(at, datetime) else 0,
        "model": row["model"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": row["finish_reason"] or "stop",
            }
        ],
        "usage": _usage(row),
    }


def _calls(output: str | None) -> list[Any] | None:
    """Tool calls where the output is them."""
    try:
        calls = json.loads(output or "")
    except ValueError:
        return None
    return calls if isinstance(calls, list) else None


def _usage(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens as billed; zero for an answer that was taken over or is another request's."""
    read, wrote = int(row["input_tokens"] or 0), int(row["output_tokens"] or 0)
    return {
        "prompt_tokens": read,
        "completion_tokens": wrote,
        "total_tokens": read + wrote,
        "prompt_tokens_details": {"cached_tokens": int(row["cached_tokens"] or 0)},
        "completion_tokens_details": {"reasoning_tokens": int(row["reasoning_tokens"] or 0)},
    }
