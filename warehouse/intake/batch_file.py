"""Read OpenAI batch files (JSONL, `custom_id` and `body`) as rows. `body.model` is ignored: the plan chooses the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from thirdshift.router.embeddings import NO_EMBEDDINGS, asks_for_embeddings
from thirdshift.warehouse.errors import InputError, first_line
from thirdshift.warehouse.intake.messages import FlawError, dumps
from thirdshift.warehouse.intake.rendering import MOST_TOKENS, RAW, RequestSpec
from thirdshift.warehouse.intake.sources import Files

ROWS = 8192
URL = "/v1/chat/completions"

SAMPLING = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "min_p",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "seed",
        "stop",
        "tool_choice",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""Keys of a body that are sent as they are."""

IGNORED = frozenset({"model", "stream", "stream_options", "store", "metadata"})
"""They change neither the answer nor its price (`metadata` is carried to the results)."""

READ = frozenset(
    {"messages", "max_tokens", "max_completion_tokens", "temperature", "response_format", "tools", "n"}
)


def read(files: Files, spec: RequestSpec) -> Iterator[pa.RecordBatch]:
    """Yield RAW batches, one row per line that is not blank; a row's mistake is in its column `flaw`.

    Raises InputError: a file cannot be read, or the job names columns, which a batch file has not.
    """
    if spec.prompt is not None or spec.id or spec.reference is not None or spec.metadata or spec.policy:
        raise InputError(
            "request.id, prompt, reference, metadata and policy name columns; a batch file (JSONL) has none: leave them out"
        )
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(files)):
        if not number and is_of_embeddings(line):
            raise InputError(f"input {files.paths[0]}: {NO_EMBEDDINGS}")
        rows.append(_row(line, spec))
        if len(rows) == ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema=RAW)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=RAW)


def is_of_embeddings(line: bytes) -> bool:
    """Whether a line, and with it the file, asks for embeddings: a batch has one address."""
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and asks_for_embeddings(parsed.get("url"))


def _lines(files: Files) -> Iterator[bytes]:
    for path in files.paths:
        try:
            with files.open(path) as handle:
                yield from (line for line in handle if line.strip())
        except (OSError, EOFError) as error:
            raise InputError(f"input {path}: cannot be read: {first_line(error)}") from error


def _row(line: bytes, spec: RequestSpec) -> dict[str, Any]:
    row: dict[str, Any] = {"task": spec.task or "default", "max_tokens": spec.max_tokens}
    try:
        parsed = json.loads(line)
        if not isinstance(parsed, dict):
            raise FlawError("the line is no JSON object")
        row["request_id"] = _custom_id(parsed)
        _check_line(parsed)
        row |= _body(parsed["body"], spec)
        _check_text(row)
    except FlawError as error:
        row["flaw"] = str(error)
    except (ValueError, RecursionError):
        row["flaw"] = "the line is no valid JSON"
    return {name: _whole(value) for name, value in row.items()} if "flaw" in row else row


def _check_text(row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(value, str) and value != _whole(value):
            raise FlawError(f"{name} holds half a surrogate pair, which is no text")


def _whole(value: Any) -> Any:
    """Text with a mark where half a surrogate pair stands, which nothing can keep."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _custom_id(line: Mapping[str, Any]) -> str:
    custom_id = line.get("custom_id")
    if custom_id is None or isinstance(custom_id, (dict, list)):
        raise FlawError("custom_id is missing or null")
    if not str(custom_id).strip():
        raise FlawError("custom_id is empty")
    return str(custom_id)


def _check_line(line: Mapping[str, Any]) -> None:
    if line.get("url") not in (None, URL):
        raise FlawError(f"url is {str(line['url'])[:60]}; only {URL} is answered")
    body = line.get("body")
    if not isinstance(body, dict):
        raise FlawError("body is missing or no object")
    unknown = sorted(set(body) - SAMPLING - IGNORED - READ)
    if unknown:
        raise FlawError(f"body.{unknown[0][:60]} is not supported")
    if body.get("n") not in (None, 1):
        raise FlawError("body.n must be 1: a request has one answer")


def _body(body: Mapping[str, Any], spec: RequestSpec) -> dict[str, Any]:
    schema, response_format = _response_format(body.get("response_format"))
    sampling = {key: body[key] for key in sorted(SAMPLING & set(body)) if body[key] is not None}
    if response_format is not None:
        sampling["response_format"] = response_format
    return {
        "messages": dumps(_messages(body)),
        "system": spec.system,
        "tools": None if body.get("tools") is None else dumps(body["tools"]),
        "max_tokens": _max_tokens(body, spec),
        "temperature": _temperature(body, spec),
        "sampling": dumps(sampling) if sampling else None,
        "response_schema": spec.response_schema if schema is None else dumps(schema),
        "metadata": None if body.get("metadata") is None else dumps(body["metadata"]),
    }


def _messages(body: Mapping[str, Any]) -> Any:
    if body.get("messages") is None:
        raise FlawError("body.messages is missing")
    return body["messages"]


def _max_tokens(body: Mapping[str, Any], spec: RequestSpec) -> int:
    stated = [body[key] for key in ("max_completion_tokens", "max_tokens") if body.get(key) is not None]
    value = stated[0] if stated else spec.max_tokens
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
        raise FlawError(
            f"max_tokens is {json.dumps(value)[:40]}; it must be a whole number from 1 to {MOST_TOKENS}"
        )
    return value


def _temperature(body: Mapping[str, Any], spec: RequestSpec) -> float | None:
    if "temperature" not in body:
        return spec.temperature
    value = body["temperature"]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise FlawError(f"temperature is {str(value)[:40]}; it must be a number from 0")
    return float(value)


def _response_format(form: Any) -> tuple[Any, Any]:
    """Return the schema that a response_format carries, and what of it must be sent as it is."""
    if form is None or form == {"type": "text"}:
        return None, None
    if not isinstance(form, dict):
        raise FlawError("response_format is no object")
    if form.get("type") != "json_schema":
        return None, form
    described = form.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise FlawError("response_format has no json_schema.schema")
    return described["schema"], None
