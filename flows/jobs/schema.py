"""The parts of a job file, key by key. A key's docstring is its line in docs/job-file.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from thirdshift.flows.jobs.value_types import (
    Amount,
    Columns,
    Count,
    Hours,
    Minutes,
    Name,
    Seconds,
    Share,
    Text,
    UnitUsd,
    Usd,
    Window,
    Workers,
    Zone,
)
from thirdshift.warehouse.intake.rendering import MOST_TOKENS


class JobSection(BaseModel):
    """A section of a job file: frozen, and no key goes unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model among an annotation's types; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_of, get_args(annotation))), None)


class SqlInput(JobSection):
    """An input that is a query."""

    sql: Text = Field(repr=False)
    """A DuckDB query whose rows are the requests: `select … from 'x.parquet'`. A param in it is a value: it fills in a
    file's name below a folder that the query names (`'data/' || ${ds} || '.csv'`), and leads to no other file."""
    attach: dict[str, Text] = Field(default={}, repr=False)
    """Alias to what DuckDB attaches under it; a password in it is never shown or kept."""


class RequestPart(JobSection):
    """How a row becomes a request. Where the file names a file, here is its text."""

    id: Columns | None = None
    """The column that is the request_id, or a list of columns, joined with "/" (`\\/` in one). Default: `request_id`."""
    system: str | None = Field(default=None, repr=False)
    """The system message: a text, or a file beside the job."""
    prompt: Text | None = Field(default=None, repr=False)
    """The user's message: a text with plain column names in braces, `"Ticket: {body}"`. Default: the column `prompt`
    or `messages`."""
    task: Text | None = None
    """A column, or one task for all rows. Requests of a task are alike: quality is learnt per task."""
    reference: Text | None = None
    """The column with the right answer."""
    metadata: tuple[Text, ...] = ()
    """Columns carried through to the results, for `charge_by`; besides those in a column `metadata`."""
    policy: Text | None = None
    """The column that names a row's policy. Default: the column `policy`."""
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 1024
    """The ceiling of an answer, where the row does not say. Always sent: a hard cap needs it."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """Where the row does not say; `null`: not sent, for models that refuse it."""
    response_schema: str | None = Field(default=None, repr=False)
    """A JSON schema that answers are held to: a file beside the job."""
    normalise: Literal["nfc"] | None = None
    """`nfc`: prompts, messages and system texts are composed, which `plan` recommends where decomposed text costs more
    than a tenth of the input tokens. Default: texts are sent as they are."""


class OutputPart(JobSection):
    """Where and when results are published."""

    path: Text
    """A folder or object-store URI; written as `job=…/run_id=…/part-*.parquet`, `manifest.json` last."""
    when: Literal["always", "complete", "certified"] = "complete"
    """`always`; `complete`: not after a budget or deadline stop; `certified`: with the floor certified."""


class NotifyPart(JobSection):
    """A webhook that is told of a run. It gets names and figures, never the text of a prompt or an answer."""

    url_env: Text
    """The name of the variable that holds the webhook's URL; never the URL, which is a secret."""
    format: Literal["json", "slack"] = "json"
    """`slack`: `{"text": …}`, as Slack, Mattermost and their like take it; `json`: the run's figures beside the text."""
    on: tuple[Literal["done", "stop", "floor_missed", "approval"], ...] = (
        "done", "stop", "floor_missed", "approval",
    )  # fmt: skip
    """What it is told of: a run that is `done`, one that a limit, a signal or a fault ended (`stop`), a floor that was
    missed or not certified, a plan that waits for approval. Default: all."""


class JudgePart(JobSection):
    """Which endpoint judges answers, by which rubric."""

    endpoint: Text
    """The name of an endpoint of this job; one with `only: judge` answers no requests itself."""
    rubric: Text
    """What makes an answer good: a text, or a file beside the job."""
    max_usd: Usd | None = None
    """What judging may cost at most, within the budget. Default: a fifth of `cap_usd`."""


class QualityPart(JobSection):
    """What quality must be reached, and how it is measured."""

    floor: Share = 0.0
    """Mean score that all accepted requests must reach; one without an answer scores 0."""
    relative_to: Text | None = None
    """An endpoint: the floor is then a share of what it alone would score."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """With which the floor is certified, and the plan keeps its margin; 0.5: no margin."""
    scorer: Text | None = None
    """`exact`, `choice`, `numeric`, `contains`, `regex`, `json_schema`, `fields`, `judge`, `agreement`, or
    `package.module:function`: code of yours beside the job, run in this process, called (output, reference, request)
    and returning 0..1. None: quality is predicted only."""
    pattern: str | None = None
    """For `regex`: what an answer must match. Default: the row's reference is the pattern."""
    fields: dict[str, Text] = {}
    """For `fields`: JSON field to the scorer that compares it."""
    judge: JudgePart | None = None
    """For `judge`: who judges by what."""
    pilot: Annotated[int, Field(ge=0)] = 200
    """Requests that may be tried on the candidates to learn who is good at what; 0: priors only."""
    audit: Amount = None
    """Answers scored after the run; `auto`: what the certificate needs."""
    labels: Annotated[int, Field(ge=0)] | None = None
    """Scores that cost money allowed tonight (a judge's, an agreement's, a function's if this is given), pilot and
    audit together, counted request x model. Default: as many as the certificate needs."""
    per_task: bool = False
    """The floor holds for every task on its own."""
    population: Literal["all", "scorable"] = "all"
    """What the floor is asked of where only some rows can be scored: all requests (then nothing is certified, exit 3), or
    no more than those rows."""
    references: Literal["given", "sample"] = "given"
    """`sample`: the rows with a reference were drawn at random and stand for all; they are served as all others are, and
    are the audit of the whole."""


class BudgetPart(JobSection):
    """What may be spent."""

    cap_usd: Usd | None = None
    """Hard: what can be spent at most, reserved before anything is sent. None: no cap."""
    window: Literal["run", "day", "month"] = "run"
    """What the cap is for: this run, or all of the job's runs of a day or month."""
    approve_above_usd: Usd | None = None
    """A plan above this waits for `--yes`, or for approval in Prefect's UI under `serve`."""


class TolerateParts(JobSection):
    """How many refused rows and errors a run may have."""

    rejects: Share = 1.0
    """Share of the input's rows that may be refused before the run is (exit 2)."""
    errors: Share = 0.0
    """Share of requests that may end without an answer before the run ends with exit 6."""


class RulePart(JobSection):
    """An allow list or a deny list."""

    allow: tuple[Text, ...] | None = None
    """These alone."""
    deny: tuple[Text, ...] | None = None
    """All but these."""

    @model_validator(mode="after")
    def _one_of_them(self) -> RulePart:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("is an allow or a deny: {allow: […]} or {deny: […]}, one of them")
        return self


class PolicyPart(JobSection):
    """What an endpoint must be for a request to go there."""

    licences: RulePart | None = None
    """Licences of the model's weights, as the catalogue names them: `{allow: [mit, apache-2.0]}`."""
    labs: RulePart | None = None
    """Who made the model."""
    origins: RulePart | None = None
    """The lab's country, two letters."""
    regions: RulePart | None = None
    """Where the endpoint runs, as the endpoint states it."""
    self_hosted_only: bool = False
    """Only workers that thirdshift starts, and endpoints with `self_hosted: true`."""
    zero_retention: bool = False
    """Only endpoints with `retention: zero`."""
    max_vendor_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of requests that one provider may answer at most."""


class PricePart(JobSection):
    """USD per million tokens, for the endpoint's own mode."""

    input: UnitUsd
    """USD per million input tokens, in the endpoint's own mode (never halved again)."""
    output: UnitUsd
    """USD per million output tokens, reasoning included."""
    cached_input: UnitUsd | None = None
    """USD per million input tokens that the provider had cached. Default: the price of input."""


class LimitsPart(JobSection):
    """What a provider allows at a time."""

    rpm: Count | None = None
    """Requests per minute."""
    tpm: Count | None = None
    """Tokens per minute, input and output."""
    concurrency: Count | None = None
    """Requests in flight at once."""
    enqueued_tokens: Count | None = None
    """Input tokens that may wait at a batch tier at a time, over all its batches."""
    batch_requests: Count | None = None
    """Requests that one batch may hold. Default, as of the next three: what the tier's row says (`models tiers`)."""
    batch_bytes: Count | None = None
    """Bytes that the file of a batch may have."""
    line_bytes: Count | None = None
    """Bytes that one request in it may have."""
    batches: Count | None = None
    """Batches that may be under way at once."""


class OffPeakPart(JobSection):
    """Hours in which a price is multiplied by a factor."""

    factor: UnitUsd
    """What the price is multiplied by."""
    tz: Zone = "UTC"
    """The time zone of hours and days."""
    hours: tuple[Hours, ...] = ()
    """`0` or `10-23`, both ends inside; none: all day."""
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    """None: every day."""


class ClusterPart(JobSection):
    """A Ray cluster."""

    address: Text | None = None
    """Its head, `host:6379`, or `auto` for the one on this machine. Default: the variable RAY_ADDRESS."""
    runtime_env: dict[str, Any] = {}
    """Ray's description of a worker's environment, passed through: `{env_vars: {HF_HOME: /models}}`."""


class EndpointPart(JobSection):
    """A model with its parameters, somewhere, at a price."""

    name: Name
    """Yours: letters, digits, dots, dashes, underscores."""
    model: Text
    """litellm's name, `provider/model`; with `api_base`, what follows `openai/` is the name on the wire; for
    `engine: vllm` a Hugging Face name or a path."""
    engine: Literal["vllm"] | None = None
    """`vllm`: workers that thirdshift starts and stops. Default: an API."""
    mode: Literal["realtime", "batch", "flex"] = "realtime"
    """The provider's tier: answered at once, within a day at half the price, or when there is room."""
    only: Literal["judge"] | None = None
    """`judge`: it answers no requests, and is there for `quality.judge` alone."""
    params: dict[str, Any] = Field(default={}, repr=False)
    """Sent with every request as they are: `{reasoning_effort: low}`."""
    region: Text | None = None
    """Where it runs, for `policy.regions`."""
    retention: Literal["zero"] | None = None
    """`zero`: the provider keeps nothing, for `policy.zero_retention`."""
    provider: Text | None = None
    """Whom it is booked under, and whose share `policy.max_vendor_share` counts. Default: what the model's name begins
    with, at an `api_base` the host's name."""
    self_hosted: bool | None = None
    """`true`: the server at `api_base` is one's own, for `policy.self_hosted_only`."""
    licence: Text | None = None
    """Instead of the catalogue's."""
    lab: Text | None = None
    """Instead of the catalogue's."""
    origin: Text | None = None
    """Instead of the catalogue's."""
    api_base: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """Any OpenAI-compatible server: `http://127.0.0.1:8801/v1`."""
    api_key_env: Text | None = None
    """The name of the variable that holds the key; never a key. Default: the provider's usual variable."""
    price: PricePart | None = None
    """Default: the price book's; an endpoint without a price is refused."""
    off_peak: OffPeakPart | None = None
    """Hours in which it costs less (or more); of workers, by `usd_per_hour`."""
    limits: LimitsPart = LimitsPart()
    """What the provider allows; what it says in its headers is learnt besides."""
    context_window: Count | None = None
    """Tokens, input and output. Default: the catalogue's or litellm's."""
    quality_prior: Share | None = None
    """What to believe of its mean score before anything was observed. Default: from the catalogue's benchmarks."""
    window: Window | None = None
    """Within what time a batch is asked for, `1h` or `72h`. Default: the first that the tier's row has."""
    turnaround: Seconds | None = None
    """How long a batch takes, `2h`. Default: what earlier batches took, or a stated prior."""
    reasoning_tokens_max: Annotated[int, Field(ge=0)] | None = None
    """What it may reason at most, where the provider's ceiling on output leaves reasoning out."""
    delete_remote: bool = False
    """Delete a batch's files at the provider once its results are here."""
    up: Text | None = None
    """A command that starts a server of yours, when the plan wants it."""
    health: Text | None = None
    """A URL that answers 200 when the server is ready."""
    down: Text | None = None
    """The command that stops it."""
    device: Literal["cuda", "npu", "cpu"] | None = None
    """For `engine: vllm`: what its workers run on."""
    workers: Workers = 1
    """For `engine: vllm`: how many may be up at once, `2` or `0-16`: the plan starts as many of them as are worth it.
    `max`: as many as the cluster has room for."""
    on: Literal["ray"] | None = None
    """`ray`: workers are actors of a Ray cluster. Default: processes on this machine."""
    cluster: ClusterPart | None = None
    """For `on: ray`: which."""
    usd_per_hour: UnitUsd | None = None
    """What a worker, or a server of yours at `api_base`, costs while it is up."""
    accounting_usd_per_hour: UnitUsd | None = None
    """For hardware already paid: charged back, not planned with."""
    minimum_minutes: Minutes = 0.0
    """What a started worker costs at least: of its rental, which outlasts a restart and another model on the same card."""
    billing_increment_minutes: Minutes = 0.0
    """Rented time is paid for in such steps, each that has begun in full: `60` by the hour, `1` by the minute. 0: by the
    second."""
    price_per: Literal["worker", "node"] = "worker"
    """`node`: `usd_per_hour` is for the machine with all `workers` (`on: ray`: a node and what it holds), up or not."""
    spot_price: Text | None = None
    """A command, run in the job's folder, that prints what an hour costs now in USD: when a run or a plan begins, and every
    five minutes while workers are up. Taken in place of `usd_per_hour`, which a rehearsal goes on with."""
    usd_per_kwh: UnitUsd | None = None
    """For `device: cuda`: what electricity costs, by the counter of the card; charged back, not planned with."""
    vllm: dict[str, Any] = {}
    """vLLM's own options, passed through: `{max_model_len: 8192}`."""
    python: Text | None = None
    """The interpreter that has vLLM. Default: `.venv-vllm/bin/python` here; with `on: ray` the one that
    Ray runs on a node."""

    @model_validator(mode="after")
    def _own_server_at_an_address(self) -> EndpointPart:
        if self.self_hosted and self.api_base is None and self.engine is None:
            raise ValueError("self_hosted says that the server at api_base is yours: name its api_base")
        return self
