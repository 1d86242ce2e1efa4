"""What the planner is given and what it gives back.

Everything is by row: requests that share a hash are one row (their leader) with a weight, and requests alike may be one
row that has so many. n rows, E options, P policies. Columns may be NumPy memory maps; they are read in chunks of rows
and never copied whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.lots import Sent, requests, sent_of

Floats = NDArray[np.float64] | NDArray[np.float32]
Codes = NDArray[np.integer]
Choice = NDArray[np.int16]

NOBODY = -1
"""In `choice`: no option may answer the row. In `runner_up`: there is no second."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What a worker takes of the devices of one kind that this machine has."""

    kind: str
    each: int
    """Devices of one worker."""
    here: int


@dataclass(frozen=True, slots=True)
class Workers:
    """A pool of workers that can be started; then hours are paid for, not tokens."""

    max_workers: int
    usd_per_hour: float
    """Per worker while it is up, start-up included."""
    prefill_tokens_per_second: float
    """Per worker, with the concurrency it will run at."""
    decode_tokens_per_second: float
    startup_seconds: float = 0.0
    minimum_seconds: float = 0.0
    """A worker once started is paid for at least so long."""
    increment_seconds: float = 0.0
    """Each that has begun is paid for as a whole; 0: by the second."""
    most_seconds: float = math.inf
    """A worker is up for so long at most."""
    devices: Devices | None = None
    """What a worker runs on where other pools run too; None: nothing that another wants."""
    speed_sd: float = 0.0
    """By what share of themselves the speeds may be off, as a standard deviation."""

    @property
    def start_usd(self) -> float:
        """What one that answers nothing costs: its start-up, or what is paid for at least where that is longer."""
        return self.paid_seconds(0.0) * self.usd_per_hour / 3600

    def paid_seconds(self, busy: float) -> float:
        """How long one worker is paid for that is busy for so many seconds."""
        used = self.startup_seconds + busy
        if self.increment_seconds:
            used = math.ceil(used / self.increment_seconds - 1e-9) * self.increment_seconds
        return max(self.minimum_seconds, used)

    def seconds(self, input_tokens: Floats, output_tokens: Floats) -> Floats:
        """How long one worker is busy with requests of so many tokens."""
        return input_tokens / self.prefill_tokens_per_second + output_tokens / self.decode_tokens_per_second


@dataclass(frozen=True, slots=True)
class Option:
    """A column of the problem: an endpoint, and when it is used.

    An endpoint whose price changes during the night is several options with windows that do not overlap, one
    per price. None means unlimited throughout.
    """

    name: str
    """Unique; decides ties. The endpoint's name where it has one option only."""
    endpoint: str
    vendor: str
    windows: tuple[tuple[float, float], ...] = ()
    """Seconds from now, (start, end), in which it may be used; none given: at any time."""
    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    """Input and output together, as providers count TPM."""
    turnaround_seconds: float = 0.0
    """How long an answer takes that is sent off at once (a batch); nothing is sent that would come after the
    deadline."""
    refill_seconds: float | None = None
    """After how long in the mean a full queue can be filled again; None: after the turnaround."""
    queue_requests: int | None = None
    queue_tokens: float | None = None
    """What may be enqueued at a time (batch tier), in input tokens; the queue is filled again when a batch is back."""
    reserved_usd: float = 0.0
    """What a request that waits in a batch reserves of the cap, in the mean; 0 where nothing caps it."""
    token_factor: float = 1.0
    """This endpoint's input tokens per token of `Problem.input_tokens`."""
    workers: Workers | None = None
    calls: tuple[tuple[int, float], ...] = ()
    """Further options, by position, of whose limits a request here takes so many calls: who else is asked for a vote."""

    def open_seconds(self, seconds: float | None) -> float:
        """For how long requests can be sent before the deadline `seconds` from now (None: no deadline)."""
        last = math.inf if seconds is None else max(0.0, seconds - self.turnaround_seconds)
        if not self.windows:
            return last
        return sum(max(0.0, min(end, last) - min(max(start, 0.0), last)) for start, end in self.windows)

    def rounds(self, seconds: float | None) -> float:
        """How many times a batch queue can be filled and come back before the deadline."""
        if seconds is None:
            return math.inf
        if self.turnaround_seconds <= 0:
            return math.inf if seconds > 0 else 0.0
        if seconds < self.turnaround_seconds * (1 - 1e-9):
            return 0.0
        refill = min(self.refill_seconds or self.turnaround_seconds, self.turnaround_seconds)
        return 1.0 + math.floor((seconds - self.turnaround_seconds) / refill + 1e-9)

    def max_requests(self, seconds: float | None) -> float:
        """Requests it can answer before the deadline; inf where nothing limits it."""
        return self._most(self.requests_per_second, self.queue_requests, seconds)

    def max_tokens(self, seconds: float | None) -> float:
        """Tokens, input and output, that it can handle before the deadline; inf where nothing limits it."""
        return self._most(self.tokens_per_second, self.queue_tokens, seconds)

    def worker_seconds(self, seconds: float | None) -> float:
        """How long one worker can be busy before the deadline, its start-up taken off; inf without a
        deadline."""
        if self.workers is None:
            return self.open_seconds(seconds)
        up = min(self.open_seconds(seconds), self.workers.most_seconds)
        return max(0.0, up - self.workers.startup_seconds)

    @property
    def starts_seconds(self) -> float:
        """How long the plan must wait for it: the start of its first window."""
        return max(0.0, min((start for start, _ in self.windows), default=0.0))

    def _most(self, rate: float | None, queue: float | None, seconds: float | None) -> float:
        time = self.open_seconds(seconds)
        if time <= 0:
            return 0.0
        most = math.inf if rate is None else rate * time
        if queue is not None:
            rounds = self.rounds(seconds)
            most = min(most, queue * rounds) if rounds > 0 else 0.0
        return most


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan must keep. None: not asked for."""

    floor: float | None = None
    """Mean quality over all rows, by weight."""
    per_task: bool = False
    """The floor holds for every task on its own."""
    margin: float = 0.0
    """Added to the floor for what the prediction may be wrong by, see `margin`."""
    task_margins: Mapping[str, float] = field(default_factory=dict)
    """Where a task's own margin is known; counts only with `per_task`."""
    cap_usd: float | None = None
    max_vendor_share: float | None = None
    """The share of requests one vendor may answer, duplicates counted."""
    seconds: float | None = None
    """Until the deadline, from where the plan begins."""
    before_seconds: float = 0.0
    """Seconds from now until the plan begins: the pilot's."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The requests as columns, the options, the terms."""

    options: tuple[Option, ...]
    tasks: tuple[str, ...]
    task: Codes
    """[n], positions in `tasks`."""
    weight: Codes
    """[n], how many requests of the input the row stands for."""
    cost: Floats = field(repr=False)
    """[n, E] USD, paid once per row. Not finite: the pair is forbidden. An answer already held costs 0. For
    workers what is paid besides hours, as a rule 0."""
    quality: Floats = field(repr=False)
    """[n, E] predicted mean score, 0 to 1."""
    input_tokens: Floats | Codes = field(repr=False)
    """[n]"""
    output_tokens: Floats | Codes = field(repr=False)
    """[n], or [n, E] where options differ."""
    eligible: NDArray[np.bool_] | None = field(default=None, repr=False)
    """[P, E]: which options a policy code allows; None: all."""
    policy: Codes | None = field(default=None, repr=False)
    """[n], positions in `eligible`; None: all rows are under `eligible[0]`."""
    terms: Terms = Terms()
    sent: Sent = field(default=None, repr=False)
    """[n], how many requests alike a row has, which go together; cost and tokens are those of one. None: one each."""

    def __post_init__(self) -> None:
        n, width = self.cost.shape
        if width != len(self.options) or len({option.name for option in self.options}) != width:
            raise ValueError(f"{len(self.options)} options, names unique, for {width} columns of cost")
        if self.quality.shape != (n, width):
            raise ValueError(f"quality is {self.quality.shape}, cost {self.cost.shape}")
        columns = (self.task, self.weight, self.input_tokens, self.output_tokens, self.policy, self.sent)
        if any(column is not None and len(column) != n for column in columns):
            raise ValueError(f"a column has not the {n} rows of cost")

    @property
    def n(self) -> int:
        return len(self.task)

    @property
    def width(self) -> int:
        return len(self.options)

    def part(self, rows: NDArray[np.int64]) -> Problem:
        """Return the problem of these rows alone, on its terms."""
        return replace(
            self,
            task=self.task[rows],
            weight=self.weight[rows],
            cost=self.cost[rows],
            quality=self.quality[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            policy=None if self.policy is None else self.policy[rows],
            sent=sent_of(self.sent, rows),
        )

    @property
    def requests(self) -> float:
        """How many requests all rows have."""
        return requests(self.n, self.sent)

    def narrowed(self, options: int) -> Problem:
        """Return the problem with its first options alone."""
        outputs = self.output_tokens if self.output_tokens.ndim == 1 else self.output_tokens[:, :options]
        return replace(
            self,
            options=self.options[:options],
            cost=self.cost[:, :options],
            quality=self.quality[:, :options],
            output_tokens=outputs,
            eligible=None if self.eligible is None else self.eligible[:, :options],
        )

    def under(self, terms: Terms) -> Problem:
        """Return the problem on other terms."""
        return replace(self, terms=terms)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which option answers which row."""

    choice: Choice = field(repr=False)
    """[n], positions in `Problem.options`, NOBODY where none may answer the row."""
    runner_up: Choice = field(repr=False)
    """[n], the next best at this plan's multipliers (see `explain`), NOBODY where there is none."""
    cost_usd: float
    """Worker hours included."""
    quality: float
    """Predicted mean over the rows that an option answers, by weight; margins not taken off."""
    bound_usd: float
    """No plan that keeps the terms costs less."""
    gap: float
    """The share of `bound_usd` by which `cost_usd` may exceed the cheapest plan; inf where nothing is
    known."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """Per option with workers: how many to start; those with none are left out."""
    worker_hours: Mapping[str, float] = field(default_factory=dict)
    """Hours of all its workers together."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Options used that open later: seconds until they do."""
    finish_seconds: float = 0.0
    """When the last option should be done, at the rates given."""
    multipliers: Mapping[str, float] = field(default_factory=dict)
    """What one more unit of each limit is worth in USD, named as in `rows.Limit.name`."""


@dataclass(frozen=True, slots=True)
class Reason:
    constraint: str
    """floor, cap_usd, deadline, max_vendor_share."""
    message: str


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest value at which a plan exists, each with the others as they are; None: there is none."""

    floor: float | None = None
    cap_usd: float | None = None
    seconds: float | None = None
    """Until the deadline."""


@dataclass(frozen=True, slots=True)
class Infeasible:
    reasons: tuple[Reason, ...]
    nearest: Nearest
