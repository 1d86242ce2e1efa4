"""Write and read intents and outcomes as lines of a journal: JSON, amounts as decimal strings, instants as ISO 8601."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    Intent,
    LedgerStatus,
    Mode,
    Outcome,
    Purpose,
    Usage,
)

_MODES = {member.value: member for member in Mode}
_PURPOSES = {member.value: member for member in Purpose}
_STATUSES = {member.value: member for member in LedgerStatus}
_KINDS = {member.value: member for member in FailureKind}


def encode(record: Intent | Outcome) -> bytes:
    """Return a record as a line, with its end."""
    fields = _intent_fields(record) if isinstance(record, Intent) else _outcome_fields(record)
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair: only the standard library writes it
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Intent | Outcome:
    """Read a record from a line. Raises ValueError where the line is damaged in any way."""
    try:
        fields = _loads(line)
        return _intent(fields) if fields["kind"] == "sent" else _outcome(fields)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"no record: {type(error).__name__}") from error


def _loads(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line)


def _intent_fields(intent: Intent) -> dict[str, Any]:
    return {
        "kind": "sent",
        "entry_id": intent.entry_id,
        "run_id": intent.run_id,
        "shard_id": intent.shard_id,
        "row": intent.row,
        "request_id": intent.request_id,
        "endpoint": intent.endpoint,
        "model": intent.model,
        "provider": intent.provider,
        "mode": intent.mode.value,
        "purpose": intent.purpose.value,
        "attempt": intent.attempt,
        "reserved_usd": str(intent.reserved_usd),
        "started_at": intent.started_at.isoformat(),
        "price_id": intent.price_id,
        "region": intent.region,
        "provider_ref": intent.provider_ref,
    }


def _intent(fields: Mapping[str, Any]) -> Intent:
    return Intent(
        entry_id=fields["entry_id"],
        run_id=fields["run_id"],
        shard_id=fields["shard_id"],
        row=fields["row"],
        request_id=fields["request_id"],
        endpoint=fields["endpoint"],
        model=fields["model"],
        provider=fields["provider"],
        mode=_MODES[fields["mode"]],
        purpose=_PURPOSES[fields["purpose"]],
        attempt=fields["attempt"],
        reserved_usd=Decimal(fields["reserved_usd"]),
        started_at=datetime.fromisoformat(fields["started_at"]),
        price_id=fields["price_id"],
        region=fields["region"],
        provider_ref=fields["provider_ref"],
    )


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    usage, reply = outcome.usage, outcome.reply
    fields: dict[str, Any] = {
        "kind": "settled",
        "entry_id": outcome.entry_id,
        "status": outcome.status.value,
        "cost_usd": str(outcome.cost_usd),
        "settled_at": outcome.settled_at.isoformat(),
        "model_reported": outcome.model_reported,
        "provider_ref": outcome.provider_ref,
        "final": outcome.final,
    }
    if outcome.service_tier is not None:
        fields["service_tier"] = outcome.service_tier
    if outcome.note is not None:
        fields["note"] = outcome.note
    if usage is not None:
        fields["usage"] = [
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
        ]
    if isinstance(reply, Answer):
        fields["answer"] = [
            reply.row,
            reply.request_id,
            reply.output,
            reply.finish_reason,
            reply.reasoning,
            reply.valid,
            reply.logprobs,
        ]
    elif isinstance(reply, Failure):
        fields["failure"] = [reply.row, reply.request_id, reply.kind.value, reply.message]
    return fields


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    usage = fields.get("usage")
    return Outcome(
        entry_id=fields["entry_id"],
        status=_STATUSES[fields["status"]],
        cost_usd=Decimal(fields["cost_usd"]),
        settled_at=datetime.fromisoformat(fields["settled_at"]),
        usage=None if usage is None else Usage(*usage),
        model_reported=fields["model_reported"],
        provider_ref=fields["provider_ref"],
        reply=_reply(fields),
        final=fields["final"],
        service_tier=fields.get("service_tier"),
        note=fields.get("note"),
    )


def _reply(fields: Mapping[str, Any]) -> Answer | Failure | None:
    if "answer" in fields:
        # journals of versions before log-probabilities end at `valid`
        row, request_id, output, finish_reason, reasoning, valid, *rest = fields["answer"]
        logprobs = rest[0] if rest else None
        return Answer(
            row, request_id, _text(output), finish_reason, reasoning and _text(reasoning), valid, logprobs
        )
    if "failure" in fields:
        row, request_id, kind, message = fields["failure"]
        return Failure(row, request_id, _KINDS[kind], _text(message))
    return None


def _text(text: str) -> str:
    """Replace half a surrogate pair (an answer cut within an emoji), which Parquet cannot hold, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
