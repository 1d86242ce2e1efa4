"""What batches, their requests and ledger entries are called: by these names a later process finds what this one sent."""

from __future__ import annotations

import hashlib
from collections.abc import Collection


def entry_id(key: str, row: int, attempt: int) -> str:
    """The same for the same attempt in whatever process: what lets a later one settle what this one sent."""
    return hashlib.blake2b(f"{key}\n{row}\n{attempt}".encode(), digest_size=16).hexdigest()


def tag(key: str, attempt: int) -> str:
    """How the custom ids of a shard's attempt begin; the request's row follows. Anthropic wants 64 characters or less,
    and where a batch has no label they are the only mark that it is ours."""
    return hashlib.blake2b(f"{key}\n{attempt}".encode(), digest_size=8).hexdigest()


def row_of(custom_id: str | None) -> int | None:
    """The row of a custom id of ours."""
    number = (custom_id or "").rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 19 else None


def label(key: str, rows: Collection[int], attempt: int) -> str:
    """A part's name at the provider: the shard's key, the rows' span and number, the attempt."""
    return f"{prefix(key)}{min(rows)}-{max(rows)}/{len(rows)}/{attempt}" if rows else ""


def prefix(key: str) -> str:
    """How the labels of a shard's batches begin. A long key is shortened: providers bound metadata."""
    short = key if len(key) <= 200 else hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{short}/"


def attempt_of(text: str) -> int:
    number = text.rpartition("/")[2]
    return int(number) if number.isdigit() else 1
