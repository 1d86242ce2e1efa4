"""Check what one request says, write it in one canonical way, and hash it.

Two inputs that mean the same request get the same text and so the same hash: a prompt, the same prompt as
messages, and the same messages with other white space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

JSON = Any
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
LEADING = frozenset({"system", "developer"})

IMAGE_BYTES = 8192
"""Counted for each part that is no text, besides its own bytes: a short URL stands for an image that is
billed by its size. Providers' pages put one image at some 1,500 tokens at most; video and audio can be
more, which is a doubt."""

PADDED = "\t\n\t"
"""White space before a JSON text that was nested in its file, and so may be padded with nulls."""

RENDERED = pa.schema(
    [
        ("source_row", pa.int64()),
        ("request_id", pa.string()),
        ("request_hash", pa.string()),
        ("task", pa.string()),
        ("policy", pa.string()),
        ("metadata", pa.string()),
        ("messages", pa.string()),
        ("tools", pa.string()),
        ("max_tokens", pa.int32()),
        ("temperature", pa.float64()),
        ("sampling", pa.string()),
        ("response_schema", pa.string()),
        ("reference", pa.string()),
        ("prompt_bytes", pa.int32()),
        ("flaw", pa.string()),
    ]
)
"""The frozen input's columns but `row` and `leader`, which need all rows to be known; `flaw` says why a row
is refused."""


class FlawError(ValueError):
    """A row's mistake, as its reason."""


def render(batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
    """Turn a RAW batch into a RENDERED one. A row with a flaw keeps its id and its flaw, and no text."""
    computed = _prompts_alone(batch) or _row_by_row(batch)
    rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
    # not `pa.array`, which imports numpy.ma
    computed["source_row"] = pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])
    arrays = [
        computed[f.name] if f.name in computed else batch.column(f.name).cast(f.type, safe=False)
        for f in RENDERED
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=RENDERED)


def _row_by_row(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    texts: list[str | None] = []
    hashes: list[str | None] = []
    sizes: list[int | None] = []
    tools: list[str | None] = []
    flaws: list[str | None] = []
    schemas = [_plain_schema(schema) for schema in batch.column("response_schema").to_pylist()]
    for row in _rows(batch, schemas):
        try:
            text, size, tool_text, digest = _one(*row)
        except FlawError as error:
            text = size = tool_text = digest = None  # type: ignore[assignment]
            flaws.append(str(error))
        else:
            flaws.append(None)
        texts.append(text)
        sizes.append(size)
        tools.append(tool_text)
        hashes.append(digest)
    return {
        "messages": pa.array(texts, pa.string()),
        "request_hash": pa.array(hashes, pa.string()),
        "prompt_bytes": pa.array(sizes, pa.int32()),
        "tools": pa.array(tools, pa.string()),
        "response_schema": pa.array(schemas, pa.string()),
        "flaw": pa.array(flaws, pa.string()),
    }


ALIKE = ("system", "response_schema", "max_tokens", "temperature")
"""What the rows of most inputs have in common."""
BESIDE = ("messages", "tools", "sampling", "flaw")
"""What most inputs do not have."""


def _prompts_alone(batch: pa.RecordBatch) -> dict[str, pa.Array] | None:
    """Render rows that differ in nothing but their prompts, in a third of the time; None where they differ in more, or one
    has a flaw."""
    rows = batch.num_rows
    if any(batch.column(name).null_count < rows for name in BESIDE) or batch.column("prompt").null_count:
        return None
    common = [batch.column(name).unique() for name in ALIKE]
    if any(len(values) != 1 for values in common):
        return None
    system, schema, max_tokens, temperature = (values[0].as_py() for values in common)
    schema = _plain_schema(schema)
    if schema is not None and schema_problem(schema) is not None:
        return None
    before, after = f'[{_system(system)}{{"role":"user","content":'.encode(), b"}]"
    texts = [before + orjson.dumps(prompt) + after for prompt in batch.column("prompt").to_pylist()]
    rest, beside = _rest(schema, None, None, max_tokens, temperature)
    messages = pa.array(texts, pa.string())
    nothing = pa.nulls(rows, pa.string())
    return {
        "messages": messages,
        "request_hash": pa.array(_hashes(texts, rest), pa.string()),
        "prompt_bytes": pc.add(pc.binary_length(messages), pa.scalar(beside, pa.int32())),
        "tools": nothing,
        "response_schema": nothing if schema is None else pa.array([schema] * rows, pa.string()),
        "flaw": nothing,
    }


def _hash(messages: bytes, rest: bytes) -> str:
    (digest,) = _hashes([messages], rest)
    return digest


def _hashes(messages: Iterable[bytes], rest: bytes) -> list[str]:
    return [blake2b(text + rest, digest_size=16).hexdigest() for text in messages]


def _rows(batch: pa.RecordBatch, schemas: list[str | None]) -> Iterator[tuple[Any, ...]]:
    before = [batch.column(name).to_pylist() for name in ("prompt", "messages", "system", "tools")]
    after = [batch.column(name).to_pylist() for name in ("sampling", "max_tokens", "temperature", "flaw")]
    return zip(*before, schemas, *after, strict=True)


@lru_cache(maxsize=1024)
def _plain_schema(text: str | None) -> str | None:
    """A schema as it is sent: one that was nested in its file without the nulls that Arrow padded it with."""
    if text is None or not text.startswith(PADDED):
        return text
    try:
        return dumps(_parse(text, "response_schema"))
    except FlawError:
        return text


def _one(
    prompt: str | None,
    messages: str | None,
    system: str | None,
    tools: str | None,
    schema: str | None,
    sampling: str | None,
    max_tokens: int,
    temperature: float | None,
    flaw: str | None,
) -> tuple[str, int, str | None, str]:
    """Canonical messages, bytes that bound the input tokens, canonical tools, hash."""
    if flaw is not None:
        raise FlawError(flaw)
    extra = 0
    if messages is None:
        text = _from_prompt(prompt or "", system)
    else:
        text, tools, extra = _from_messages(messages, system, tools)
    if tools is not None:
        tools = _tools(tools)
    schema_flaw = schema_problem(schema) if schema is not None else None
    if schema_flaw is not None:
        raise FlawError(schema_flaw)
    try:
        encoded = text.encode()
        rest, beside = _rest(schema, tools, sampling, max_tokens, temperature)
    except UnicodeEncodeError:
        raise FlawError("messages or tools hold half a surrogate pair, which is no text") from None
    return text, len(encoded) + beside + extra, tools, _hash(encoded, rest)


@lru_cache(maxsize=1024)
def _rest(
    schema: str | None, tools: str | None, sampling: str | None, max_tokens: int, temperature: float | None
) -> tuple[bytes, int]:
    """What a request's hash covers besides its messages, and the bytes of schema and tools; few differ within a job."""
    rest = f"\x1f{schema or ''}\x1f{tools or ''}\x1f{sampling or ''}\x1f{max_tokens}\x1f{temperature}"
    return rest.encode(), len((schema or "").encode()) + len((tools or "").encode())


def _from_prompt(prompt: str, system: str | None) -> str:
    return f'[{_system(system)}{{"role":"user","content":{encode_basestring(prompt)}}}]'


@lru_cache(maxsize=64)
def _system(text: str | None) -> str:
    return f'{{"role":"system","content":{encode_basestring(text)}}},' if text else ""


def _from_messages(text: str, system: str | None, tools: str | None) -> tuple[str, str | None, int]:
    parsed = _parse(text, "messages")
    if isinstance(parsed, dict) and "messages" in parsed:
        if tools is None and parsed.get("tools") is not None:
            tools = dumps(parsed["tools"])
        parsed = parsed["messages"]
    if not isinstance(parsed, list):
        raise FlawError("messages is no list")
    if not parsed:
        raise FlawError("messages is an empty list")
    parsed = [_without_blanks(message) for message in parsed]
    extra = sum(_check(message, at) for at, message in enumerate(parsed, start=1))
    if not any(_says_something(message) for message in parsed if message["role"] not in LEADING):
        raise FlawError("messages are empty: no message but the system's says anything")
    if system and parsed[0]["role"] not in LEADING:
        parsed.insert(0, {"role": "system", "content": system})
    return dumps(parsed), tools, extra


def _without_blanks(message: JSON) -> JSON:
    """A message without nulls, which DuckDB gives for a struct's absent fields, and without an empty list of tool calls:
    some servers answer with one, pyiceberg writes one for null, and OpenAI refuses it. `content` may be null beside tool
    calls, and stays."""
    if not isinstance(message, dict):
        return message
    message = _without_nulls(message)
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if message.get("content") == [] and "tool_calls" in message:
        message["content"] = None
    return message


def _without_nulls(value: dict[str, JSON]) -> dict[str, JSON]:
    return {key: child for key, child in value.items() if child is not None or key == "content"}


def _check(message: JSON, at: int) -> int:
    """Return the bytes to count for a chat message's images and the like. Raises FlawError if it is no chat message."""
    if not isinstance(message, dict):
        raise FlawError(f"message {at} is no object with role and content")
    role = message.get("role")
    if not isinstance(role, str):
        raise FlawError(f"message {at} has no role")
    if role not in ROLES:
        raise FlawError(f"message {at} has the role {role[:20]!r}; roles are {', '.join(sorted(ROLES))}")
    content = message.get("content")
    if isinstance(content, str):
        return 0
    if content is None:
        if message.get("tool_calls") or message.get("function_call"):
            return 0
        raise FlawError(f"message {at} has no content")
    if not isinstance(content, list):
        raise FlawError(f"message {at}: content is neither text nor a list of parts")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise FlawError(f"message {at}: a part of its content is no object with a type")
    return sum(IMAGE_BYTES for part in content if part["type"] not in ("text", "input_text"))


def _says_something(message: dict[str, JSON]) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        return bool(content.strip())
    if isinstance(content, list):
        return any(part["type"] != "text" or str(part.get("text") or "").strip() for part in content)
    return True


@lru_cache(maxsize=1024)
def _tools(text: str) -> str | None:
    """Canonical tools; None for an empty list, which providers refuse."""
    parsed = _parse(text, "tools")
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise FlawError("tools is no list of objects")
    return dumps([_without_nulls(tool) for tool in parsed]) if parsed else None


@lru_cache(maxsize=1024)
def schema_problem(text: str) -> str | None:
    """Return what is wrong with a response_schema; None if answers can be judged by it."""
    from thirdshift.router import json_schemas

    try:
        parsed = _parse(text, "response_schema")
    except FlawError as error:
        return str(error)
    if not isinstance(parsed, dict):
        return "response_schema is no JSON object"
    try:
        place = json_schemas.schema_problem(parsed)
    except RecursionError:
        return "response_schema is nested without end"
    return None if place is None else f"response_schema is no valid JSON schema, at {place}"


def _parse(text: str, what: str) -> JSON:
    try:
        parsed = json.loads(text, parse_constant=_refuse)
        return _without_padding(parsed) if text.startswith(PADDED) else parsed
    except (ValueError, RecursionError) as error:
        at = f" (character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise FlawError(f"{what} is no valid JSON{at}") from None


def _without_padding(value: JSON) -> JSON:
    """A nested value without the nulls that Arrow gives a struct's absent fields, at every depth: the properties of one
    function are fields of every other's. `content` may be null beside tool calls, and stays."""
    if isinstance(value, list):
        return [_without_padding(child) for child in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_padding(child) for key, child in value.items() if child is not None or key == "content"
    }


def _refuse(constant: str) -> JSON:
    raise ValueError(constant)


def dumps(value: JSON) -> str:
    """Write JSON in the one way that is hashed: no spaces, no escapes beyond what JSON needs."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
