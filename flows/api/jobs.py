"""Jobs as the API takes them: a job that was loaded, or the path of its file; params and money as Python has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from thirdshift.flows.errors import UserError
from thirdshift.flows.jobs.job import Job
from thirdshift.flows.jobs.job import load_job as load
from thirdshift.flows.runs.options import RunOptions, as_text
from thirdshift.router.values import MOST_USD

AnyPath = str | os.PathLike[str]
AnyJob = Job | AnyPath
"""A job, or the path of a job file."""
Params = Mapping[str, Any]
Usd = Decimal | float | str
Deadline = str | datetime
"""As in a job file (`"06:00 Europe/Berlin"`, `"8h"`, an ISO 8601 instant), or an aware datetime."""


def load_job(path: AnyPath, params: Params | None = None) -> Job:
    """Read a job file and check it.

    `params` fill its `${…}`. Raises JobError, which lists every mistake in the file.
    """
    return load(Path(path), texts(params))


def options_for(
    job: AnyJob,
    params: Params | None = None,
    *,
    run_id: str | None = None,
    warehouse: AnyPath | None = None,
    cap_usd: Usd | None = None,
    deadline: Deadline | None = None,
    yes: bool = False,
    fresh: bool = False,
) -> RunOptions:
    """How a run is called. A loaded job stands for its file, which is read again, and its params."""
    given = dict(job.given) if isinstance(job, Job) else {}
    return RunOptions(
        job=job.path if isinstance(job, Job) else Path(job).resolve(),
        params=given | texts(params),
        run_id=run_id,
        warehouse=None if warehouse is None else Path(warehouse).resolve(),
        fresh=fresh,
        yes=yes,
        cap=money_of(cap_usd),
        deadline=instant_of(deadline),
    )


def texts(params: Params | None) -> dict[str, str]:
    """Params as a command line would give them; those that are None are not given."""
    return {name: as_text(value) for name, value in (params or {}).items() if value is not None}


def money_of(usd: Usd | None) -> Decimal | None:
    """USD as exact as it was written."""
    if usd is None:
        return None
    amount = Decimal(str(usd))
    if not (amount.is_finite() and 0 <= amount < MOST_USD):
        raise UserError(f"a cap of {usd}: it must be a number of USD from 0, below {MOST_USD:,}")
    return amount


def instant_of(deadline: Deadline | None) -> str | None:
    """A deadline as a job file would have it."""
    return deadline.isoformat() if isinstance(deadline, datetime) else deadline
