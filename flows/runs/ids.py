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
GIVEN_LONGEST = 128
"""Characters of an id as it is given, or derived from the longest name that a job may have."""
_GIVEN = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._:+=-]{{0,{GIVEN_LONGEST - 1}}}(~[0-9]{{1,6}})*")
"""Schedulers give ids like `manual__2026-11-22T00:00:00+00:00`; `~1` ends the id of a run that was set aside."""
FORM_PATTERN = f"^({_GIVEN.pattern})?$"
"""For a form, whose empty field is no id."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def checked_run_id(run_id: str) -> str:
    """Return the run id as it was given. Raises RunIdError where it cannot name a folder beside the warehouse."""
    if _GIVEN.fullmatch(run_id) is None:
        raise RunIdError(
            f"run id {run_id[:100]!r}: it names a folder, so begin it with a letter, a digit or _, and use letters, "
            f"digits and . _ : + - = only, up to {GIVEN_LONGEST} of them"
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
    text = repr((name, pairs)).encode()
    return f"{readable[:LONGEST]}.{blake2b(text, digest_size=6).hexdigest()}"


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("-_") or "x"
