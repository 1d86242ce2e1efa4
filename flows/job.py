"""The job file: what a user asks of a night. `load_job` is the one way in; it lists all mistakes at once.

The models are the contract's keys with their types. What one key has to do with another, with files and with
the environment is in `flows.job_checks`; what they become, in `flows.job_values`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from flows.deadlines import duration, resolve_deadline
from flows.errors import DeadlineError, JobError
from flows.job_text import read
from router.pricebook import off_peak_rule
from router.values import JSON

HIDDEN = "***"
SECRET = re.compile(
    r"api[-_]?key$|authorization|secret|passw|(access|auth|bearer)[-_]?token|^token$|cookie|credential",
    re.IGNORECASE,
)
"""Names under which people keep what nobody else may read."""
_PASSWORD = re.compile(r"(://)[^/@\s]+@")
_SOME_INSTANT = datetime(2026, 1, 1, tzinfo=UTC)

FIXED_QUALITY = ("floor", "relative_to", "confidence", "scorer", "pattern", "fields", "judge", "per_task")
"""What makes the claim of a certificate."""


def _duration_seconds(value: JSON) -> JSON:
    if not isinstance(value, str):
        raise ValueError("write a time like 90d, 8h or 30m")  # noqa: TRY004 (what pydantic makes a mistake of)
    found = duration(value)
    if found is None:
        raise ValueError(f"{value!r} is no time; write it like 90d, 8h or 30m")
    return found.total_seconds()


def _one_or_more(value: JSON) -> JSON:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _scalar(value: JSON) -> JSON:
    if isinstance(value, dict | list):
        raise ValueError("is one value, or null where it must be given")  # noqa: TRY004 (likewise)
    return value


def _zone(name: str) -> str:
    off_peak_rule(Decimal(1), name, (), ())
    return name


def _hours(hours: str) -> str:
    off_peak_rule(Decimal(1), "UTC", (hours,), ())
    return hours


def hidden(value: JSON) -> JSON:
    """`value` without what stands under a name of SECRET."""
    if isinstance(value, dict):
        return {key: HIDDEN if SECRET.search(key) else hidden(one) for key, one in value.items()}
    return [hidden(one) for one in value] if isinstance(value, list) else value


def without_passwords(value: JSON) -> JSON:
    """`value` with user and password gone from every URL in it."""
    if isinstance(value, dict):
        return {key: without_passwords(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_passwords(one) for one in value]
    return _PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value


Share = Annotated[float, Field(ge=0, le=1)]
Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Of an endpoint: it names files, columns and hive partitions."""
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(_duration_seconds)]
Columns = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Hour = Annotated[str, BeforeValidator(lambda hour: str(hour) if type(hour) is int else hour)]
Amount = Annotated[
    Annotated[int, Field(ge=0)] | None, BeforeValidator(lambda audit: None if audit == "auto" else audit)
]


class Part(BaseModel):
    """Of a job file: frozen, and no key goes unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class SqlInput(Part):
    sql: Text = Field(repr=False)
    attach: dict[str, Text] = Field(default={}, repr=False)
    """Alias to what DuckDB attaches; can hold a password."""


class RequestPart(Part):
    """How a row becomes a request. Where the file names a file, here is its text."""

    id: Columns | None = None
    system: str | None = Field(default=None, repr=False)
    prompt: Text | None = Field(default=None, repr=False)
    task: Text | None = None
    reference: Text | None = None
    max_tokens: Count = 1024
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    response_schema: str | None = Field(default=None, repr=False)
    """JSON text."""


class OutputPart(Part):
    path: Text
    when: Literal["always", "complete", "certified"] = "complete"


class JudgePart(Part):
    endpoint: Text
    rubric: Text
    max_usd: Usd | None = None


class QualityPart(Part):
    floor: Share = 0.0
    relative_to: Text | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    scorer: Text | None = None
    pattern: str | None = None
    fields: dict[str, Text] = {}
    judge: JudgePart | None = None
    pilot: Annotated[int, Field(ge=0)] = 200
    audit: Amount = None
    """Answers scored after the run; None: what the certificate needs (`auto`)."""
    labels: Annotated[int, Field(ge=0)] | None = None
    per_task: bool = False


class BudgetPart(Part):
    cap_usd: Usd | None = None
    """None: no cap."""
    window: Literal["run", "day", "month"] = "run"
    approve_above_usd: Usd | None = None


class TolerateParts(Part):
    rejects: Share = 1.0
    errors: Share = 0.0


class RulePart(Part):
    allow: tuple[Text, ...] | None = None
    deny: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> RulePart:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("is an allow or a deny: {allow: […]} or {deny: […]}, one of them")
        return self


class PolicyPart(Part):
    licences: RulePart | None = None
    labs: RulePart | None = None
    origins: RulePart | None = None
    regions: RulePart | None = None
    self_hosted_only: bool = False
    zero_retention: bool = False
    max_vendor_share: Annotated[float, Field(gt=0, le=1)] | None = None


class PricePart(Part):
    """USD per million tokens, for the endpoint's own mode."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None


class LimitsPart(Part):
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None


class OffPeakPart(Part):
    factor: Usd
    tz: Annotated[Text, AfterValidator(_zone)] = "UTC"
    hours: tuple[Annotated[Hour, AfterValidator(_hours)], ...] = ()
    """`0` or `10-23`, both ends inside; none: all day."""
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    """None: every day."""


class EndpointPart(Part):
    name: Name
    model: Text
    engine: Literal["vllm"] | None = None
    mode: Literal["realtime", "batch", "flex"] = "realtime"
    params: dict[str, Any] = Field(default={}, repr=False)
    region: Text | None = None
    retention: Literal["zero"] | None = None
    licence: Text | None = None
    lab: Text | None = None
    origin: Text | None = None
    api_base: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    api_key_env: Text | None = None
    price: PricePart | None = None
    off_peak: OffPeakPart | None = None
    limits: LimitsPart = LimitsPart()
    context_window: Count | None = None
    quality_prior: Share | None = None
    turnaround: Seconds | None = None
    reasoning_tokens_max: Annotated[int, Field(ge=0)] | None = None
    delete_remote: bool = False
    up: Text | None = None
    health: Text | None = None
    down: Text | None = None
    device: Literal["cuda", "npu", "cpu"] | None = None
    workers: Count = 1
    usd_per_hour: Usd | None = None
    accounting_usd_per_hour: Usd | None = None
    minimum_minutes: Annotated[float, Field(ge=0)] = 0.0
    vllm: dict[str, Any] = {}
    python: Text | None = None


Input = Annotated[
    Annotated[Text, Tag("source")] | Annotated[SqlInput, Tag("query")],
    Discriminator(lambda value: "query" if isinstance(value, dict | SqlInput) else "source"),
]


class Job(Part):
    name: Annotated[str, Field(pattern=r"^[^\s/\\.][^/\\\x00-\x1f]{0,99}$")]
    """It names a folder of what is published."""
    params: dict[str, Annotated[Any, AfterValidator(_scalar)]] = {}
    input: Input
    request: RequestPart = RequestPart()
    reuse: Literal["none", "answered"] = "none"
    reuse_max_age: Seconds | None = None
    dedupe: bool = True
    cache: bool | None = None
    retention_days: Count | None = None
    warehouse: Text = "warehouse.duckdb"
    output: OutputPart | None = None
    deadline: Text | None = None
    on_deadline: Literal["stop", "realtime"] = "stop"
    quality: QualityPart = QualityPart()
    budget: BudgetPart = BudgetPart()
    tolerate: TolerateParts = TolerateParts()
    policy: PolicyPart = PolicyPart()
    policies: dict[Text, PolicyPart] = {}
    tags: dict[str, str] = {}
    charge_by: tuple[Text, ...] = ()
    endpoints: Annotated[tuple[EndpointPart, ...], Field(min_length=1)]

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
    def warehouse_path(self) -> Path:
        return self.base / self.warehouse

    @property
    def output_path(self) -> str | None:
        """Absolute, or a URI; None where nothing is published."""
        if self.output is None:
            return None
        return self.output.path if "://" in self.output.path else str(self.base / self.output.path)

    def canonical(self) -> dict[str, Any]:
        """All of the job as JSON, defaults and params filled in, without what could be a secret."""
        told = self.model_dump(mode="json") | {"params": dict(self._given)}
        if isinstance(self.input, SqlInput):
            told["input"]["attach"] = dict.fromkeys(self.input.attach, HIDDEN)
        told["endpoints"] = [hidden(endpoint) for endpoint in told["endpoints"]]
        cleaned: dict[str, Any] = without_passwords(told)
        return cleaned

    def fixed(self) -> dict[str, Any]:
        """What of it must be as it was when a run is resumed: input, request, scorer and floor."""
        told = self.canonical()
        quality = {key: told["quality"][key] for key in FIXED_QUALITY}
        return {
            "input": told["input"],
            "request": told["request"],
            "dedupe": told["dedupe"],
            "quality": quality,
        }

    @property
    def job_hash(self) -> str:
        """Of `fixed`: jobs with one hash may go on with each other's runs."""
        text = json.dumps(self.fixed(), sort_keys=True, ensure_ascii=False)
        return blake2b(text.encode(), digest_size=16).hexdigest()


def load_job(
    path: Path, params: Mapping[str, str] | None = None, *, environ: Mapping[str, str] | None = os.environ
) -> Job:
    """Read a job file. Raises JobError with every mistake in it.

    `environ`: where variables with keys are looked for; None: nobody asks (`rehearse` sends nothing).
    """
    from flows.job_checks import checked  # which knows the models above
    from flows.job_mistakes import told

    document = read(path, params or {})
    data, mistakes = checked(document, environ)
    try:
        job = Job.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        mistakes = [*mistakes, *told(error, document, Job)]
    if mistakes:
        raise JobError(path, mistakes)
    job._path, job._given = path.resolve(), dict(document.params)  # noqa: SLF001 (pydantic's way to keep what is no key)
    return job
