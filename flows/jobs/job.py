"""The job file: what a user asks of a run. `load_job` is the one way in; it lists all mistakes at once.

The models are the contract's keys with their types. What one key has to do with another, with files and with
the environment is in `thirdshift.flows.jobs.checks`; what they become, in `thirdshift.flows.jobs.building`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationError, field_validator

from thirdshift.flows.errors import DeadlineError, JobError
from thirdshift.flows.jobs.deadlines import resolve_deadline
from thirdshift.flows.jobs.parsing import read
from thirdshift.flows.jobs.redaction import HIDDEN, hidden, without_passwords
from thirdshift.flows.jobs.schema import (
    BudgetPart,
    EndpointPart,
    JobSection,
    NotifyPart,
    OutputPart,
    PolicyPart,
    QualityPart,
    RequestPart,
    SqlInput,
    TolerateParts,
)
from thirdshift.flows.jobs.sql import typed
from thirdshift.flows.jobs.value_types import Count, FileOnDisk, Scalar, Seconds, Text

_SOME_INSTANT = datetime(2026, 1, 1, tzinfo=UTC)

UNSEEN = r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Characters that are not seen, or turn about what is: control characters, marks of direction, line separators."""

FIXED_QUALITY = (
    "floor", "relative_to", "confidence", "scorer", "pattern", "fields", "judge", "per_task", "population", "references",
)  # fmt: skip
"""What makes the claim of a certificate."""
ADDED_QUALITY = {"population": "all", "references": "given"}
ADDED_REQUEST: Mapping[str, Any] = {"metadata": [], "policy": None, "normalise": None}
"""Keys that 0.1.0 did not have, with what it did: hashed only where they say otherwise, so that its runs can be resumed."""


Input = Annotated[
    Annotated[Text, Tag("source")] | Annotated[SqlInput, Tag("query")],
    Discriminator(lambda value: "query" if isinstance(value, dict | SqlInput) else "source"),
]


def _without(section: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section without the keys that were added and say nothing else than their absence does."""
    return {key: value for key, value in section.items() if key not in added or value != added[key]}


class Job(JobSection):
    """A job file that was read and checked: what a user asks of a run."""

    name: Annotated[str, Field(pattern=rf"^[^\s/\\.{UNSEEN}][^/\\{UNSEEN}]{{0,99}}$")]
    """The job's name; it also names a folder of what is published."""
    params: dict[str, Scalar] = Field(default={})
    """Names to defaults (`null`: must be given), filled by `--param ds=2026-11-22`; `${ds}` anywhere below."""
    input: Input
    """A Parquet file, a glob, a directory, an object-store URI, an OpenAI batch file (JSONL), or `{sql: …}`."""
    request: RequestPart = RequestPart()
    """How a row becomes a request, where its columns are not `request_id`, `prompt`, `task`, `reference` already."""
    reuse: Literal["none", "answered"] = "none"
    """`answered`: what an earlier run of this job answered for the same request is not paid for again."""
    reuse_max_age: Seconds | None = None
    """How old such an answer may be, `90d`."""
    dedupe: bool = True
    """Equal requests are paid for once; `false`: each on its own, to sample."""
    cache: bool | None = None
    """Answers kept across jobs."""
    retention_days: Count | None = None
    """After so many days the text of a run is purged when the job next runs; figures stay."""
    warehouse: FileOnDisk = "warehouse.duckdb"
    """The DuckDB file, from the job's folder; `--warehouse` overrides."""
    warehouse_copy: FileOnDisk | None = None
    """A copy of the warehouse for dashboards, swapped in whole when a run ends: whoever reads it keeps no run waiting."""
    output: OutputPart | None = None
    """Parquet for others to read, once the run is over."""
    notify: NotifyPart | None = None
    """Who is told how a run ended, and that it waits for approval."""
    deadline: Text | None = None
    """`"06:00 Europe/Berlin"` (the next such time), `8h`, or an ISO 8601 instant."""
    on_deadline: Literal["stop", "realtime"] = "stop"
    """`realtime`: what a late batch has not answered when the deadline nears is sent in real time."""
    quality: QualityPart = QualityPart()
    """What must be reached, and how it is known."""
    budget: BudgetPart = BudgetPart()
    """What may be spent."""
    tolerate: TolerateParts = TolerateParts()
    """How much may go wrong."""
    policy: PolicyPart = PolicyPart()
    """What no request may break. A fact that is unknown fails the rule."""
    policies: dict[Text, PolicyPart] = Field(default={})
    """Names to further rules, for the rows whose column `policy` names them."""
    tags: dict[str, str] = Field(default={})
    """For charge-back: `{team: support}`."""
    charge_by: tuple[Text, ...] = ()
    """Keys of the rows' metadata to charge by."""
    endpoints: Annotated[tuple[EndpointPart, ...], Field(min_length=1)]
    """Models with their parameters, somewhere, at a price."""

    _path: Path = PrivateAttr()
    _given: dict[str, str] = PrivateAttr()

    @field_validator("deadline")
    @classmethod
    def _a_deadline(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                resolve_deadline(text, _SOME_INSTANT)
            except DeadlineError as error:
                raise ValueError(str(error)) from None
        return text

    @property
    def path(self) -> Path:
        """The job file's absolute path."""
        return self._path

    @property
    def base(self) -> Path:
        """The folder that relative paths are from."""
        return self._path.parent

    @property
    def given(self) -> Mapping[str, str]:
        """The params' values, as text: those given, and the file's defaults."""
        return self._given

    @property
    def bound(self) -> dict[str, Any]:
        """The params' values as a query in `input:` has them under `$name`."""
        return {name: typed(value, self.params.get(name)) for name, value in self._given.items()}

    @property
    def warehouse_path(self) -> Path:
        """The warehouse's path, from the job's folder."""
        return self.base / self.warehouse

    @property
    def warehouse_copy_path(self) -> Path | None:
        return None if self.warehouse_copy is None else self.base / self.warehouse_copy

    @property
    def output_path(self) -> str | None:
        """The output's absolute path or URI; None where nothing is published."""
        if self.output is None:
            return None
        return self.output.path if "://" in self.output.path else str(self.base / self.output.path)

    def canonical(self) -> dict[str, Any]:
        """Return all of the job as JSON, defaults and params filled in, without what could be a secret."""
        data = self.model_dump(mode="json") | {"params": dict(self._given)}
        if isinstance(self.input, SqlInput):
            data["input"]["attach"] = dict.fromkeys(self.input.attach, HIDDEN)
        data["endpoints"] = [hidden(endpoint) for endpoint in data["endpoints"]]
        cleaned: dict[str, Any] = without_passwords(data)
        return cleaned

    def fixed(self) -> dict[str, Any]:
        """Return what must be as it was when a run is resumed: input, request, scorer and floor."""
        data = self.canonical()
        quality = _without({key: data["quality"][key] for key in FIXED_QUALITY}, ADDED_QUALITY)
        if quality["judge"] is not None:
            del quality["judge"]["max_usd"]  # money, which may change
        input_terms = data["input"]
        if isinstance(self.input, SqlInput) and (
            named := {n: v for n, v in self.bound.items() if f"${n}" in self.input.sql}
        ):
            input_terms = input_terms | {"params": named}
        return {
            "input": input_terms,
            "request": _without(data["request"], ADDED_REQUEST),
            "dedupe": data["dedupe"],
            "quality": quality,
        }

    @property
    def job_hash(self) -> str:
        """Hash of `fixed`: jobs with one hash may go on with each other's runs."""
        text = json.dumps(self.fixed(), sort_keys=True, ensure_ascii=False)
        return blake2b(text.encode(), digest_size=16).hexdigest()


def load_job(
    path: Path, params: Mapping[str, str] | None = None, *, environ: Mapping[str, str] | None = os.environ
) -> Job:
    """Read a job file. Raises JobError with every mistake in it.

    `environ`: where variables with keys are looked up; None: they are not checked (`rehearse` sends nothing).
    """
    from thirdshift.flows.jobs.checks import checked, missing_input
    from thirdshift.flows.jobs.messages import validation_mistakes

    document = read(path, params or {})
    data, mistakes = checked(document, environ)
    try:
        job = Job.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        mistakes = [*mistakes, *validation_mistakes(error, document, Job)]
    if mistakes:
        of_input = any(mistake.place == "input" for mistake in mistakes)
        raise JobError(path, mistakes if of_input else [*mistakes, *missing_input(document)])
    job._path, job._given = path.resolve(), dict(document.params)  # noqa: SLF001 (pydantic's way to keep what is no key)
    return job
