"""Run ids: given, or derived from a job's name and params, or new. A run id names a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b

from thirdshift.flows.errors import RunIdError
from thirdshift.flows.jobs.job import Job

LONGEST = 80
"""Characters; names of files in the run's folder are longer, and a file system takes 255 bytes."""
_GIVEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def checked_run_id(run_id: str) -> str:
    """A run id as a user gives it. Raises RunIdError where it cannot name a folder."""
    if _GIVEN.fullmatch(run_id) is None:
        raise RunIdError(
            f"run id {run_id[:100]!r}: use letters, digits, dots, dashes, underscores and =, up to 100"
        )
    return run_id


def derive_run_id(job: Job, *, now: datetime, token: str) -> str:
    """The id of a run that was given none: the same for the same params, or new where the job has no params.

    `now` (aware) and `token` (a few random letters) make a new one.
    """
    if job.given:
        return named_after(job.name, job.given)
    return f"{_safe(job.name)}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.{token}"


def named_after(name: str, params: Mapping[str, str]) -> str:
    """`triage.ds=2026-11-22`; what no file can be called, or is long, is told apart by a hash behind it."""
    pairs = sorted(params.items())
    readable = ".".join([_safe(name), *(f"{_safe(key)}={_safe(value)}" for key, value in pairs)])
    exact = ".".join([name, *(f"{key}={value}" for key, value in pairs)])
    if readable == exact and len(readable) <= LONGEST:
        return readable
    told = repr((name, pairs)).encode()
    return f"{readable[:LONGEST]}.{blake2b(told, digest_size=6).hexdigest()}"


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("-_") or "x"
