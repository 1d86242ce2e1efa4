"""What a plan and a run say of the requests themselves; above all, whether composing their text would save tokens.

Decomposed text (NFD) costs many tokenizers several times what composed text (NFC) does."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from thirdshift.engines.tokenizers import tokenizer_for
from thirdshift.flows.planning.input import PreparedInput, idle_policies, refused_rows
from thirdshift.router.policy import Policy
from thirdshift.router.tokens.estimate import texts_of
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.intake.frozen import batches

LOOKED_AT = 2_000
"""So many of the first requests are looked at."""

WORTH_SAYING = 0.1
"""The share of the input tokens that composing must save."""


def hints(
    batch: PreparedInput, endpoints: Sequence[Endpoint], policies: Mapping[str, Policy]
) -> tuple[str, ...]:
    """What of the requests themselves costs more than it need, or is not as the job may mean it."""
    told = refused_rows(batch), composing_saves(batch, endpoints), idle_policies(batch, policies)
    return tuple(filter(None, told))


def composing_saves(prepared: PreparedInput, endpoints: Sequence[Endpoint]) -> str | None:
    """The sentence that says what composing the text would save, by endpoint; None where it is not worth one."""
    decomposed, rows = _decomposed(prepared)
    if not decomposed:
        return None
    composed = [unicodedata.normalize("NFC", text) for text in decomposed]
    saved: dict[str, float] = {}
    for position, endpoint in enumerate(endpoints):
        tokenizer = tokenizer_for(endpoint.model)
        less = int(np.sum(tokenizer.count(decomposed))) - int(np.sum(tokenizer.count(composed)))
        whole = int(prepared.input_tokens[position][:rows].astype(np.int64).sum())
        if less > WORTH_SAYING * whole:
            saved[endpoint.name] = less / whole
    if not saved:
        return None
    shares = ", ".join(f"{share:.0%} of {name}'s" for name, share in saved.items())
    return (
        f"the prompts hold decomposed text (NFD): composed, it would take {shares} input tokens less; "
        "`request: {normalise: nfc}` composes it"
    )


def _decomposed(prepared: PreparedInput) -> tuple[list[str], int]:
    """(texts that are not composed among the first requests, how many requests those are)."""
    found: list[str] = []
    rows = 0
    for batch in batches(prepared.folder, ["messages"]):
        for messages in batch.column(0).slice(0, LOOKED_AT - rows).to_pylist():
            rows += 1
            if messages and not messages.isascii() and not unicodedata.is_normalized("NFC", messages):
                found += [text for text in texts_of(messages) if not unicodedata.is_normalized("NFC", text)]
        if rows >= LOOKED_AT:
            break
    return found, rows
