"""Batches, on whatever wire: checked, worked through at their pace, and ended, one way or another.

A batch's requests are done in an order of its own, drawn from the seed, evenly over its turnaround. What is
done when the batch ends is answered and billed then, at the batch price; the rest expired or was cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.emulator.answers import WireRequest
from thirdshift.engines.emulator.models import BatchHabits, Trouble
from thirdshift.engines.emulator.openai_wire import BadBody
from thirdshift.engines.emulator.provider import BilledAnswer, ErrorResponse, Provider, refused
from thirdshift.engines.emulator.responses import addressed
from thirdshift.router.tiers import Expiry
from thirdshift.router.values import Mode

BREATH = 100
"""Lines worked through before other requests get their turn."""
FAULTS_SHOWN = 20

IN_ANSWERS = frozenset({Trouble.CUT_EMPTY, Trouble.INVALID_JSON, Trouble.REFUSE, Trouble.OVERFLOW})
"""Troubles that a batch's answers can have; the others are of connections, which batches have none of."""


class EmulatedBatchState(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset(
    {
        EmulatedBatchState.FAILED,
        EmulatedBatchState.COMPLETED,
        EmulatedBatchState.EXPIRED,
        EmulatedBatchState.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class EmulatedLine:
    """One request of a batch; `result` is None where the batch ended before it (see the batch's state)."""

    custom_id: str
    request: Mapping[str, Any]
    """The line as it came."""
    result: BilledAnswer | ErrorResponse | None


class Wire(Protocol):
    """How a provider writes its batches."""

    def read(self, line: Any) -> tuple[str, WireRequest]:
        """(custom id, request). Raises BadBody."""

    def write(self, line: EmulatedLine, ended: EmulatedBatchState) -> tuple[bool, Any] | None:
        """(whether it belongs among the errors, what is written); None: nothing is."""


@dataclass(slots=True)
class EmulatedBatch:
    id: str
    wire: Wire
    source: BinaryIO
    """The requests, a JSON line each; open for as long as the batch is."""
    details: dict[str, Any]
    """What the client said when it made the batch."""
    at: str | None
    """The model whose address it came to, whatever its lines say."""
    requests: int
    """How many; 0 until the provider has counted them."""
    created_at: float
    expires_at: float
    state: EmulatedBatchState = EmulatedBatchState.VALIDATING
    reached: dict[EmulatedBatchState, float] = field(default_factory=dict)
    """When each state was entered."""
    offsets: list[int] = field(default_factory=list)
    """Where each request begins, in the order they are done in."""
    started_at: float | None = None
    completed: int = 0
    failed: int = 0
    undone: int = 0
    """Count the requests of an ended batch that neither completed nor failed."""
    output: Path | None = None
    errors: Path | None = None
    faults: list[tuple[str, str, int | None]] = field(default_factory=list)
    """(code, message, line) of what validation found."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Input tokens per model."""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self, line: Any) -> tuple[str, WireRequest]:
        """(custom id, request). Raises BadBody."""
        custom_id, asked = self.wire.read(line)
        return custom_id, addressed(asked, self.at)

    def enter(self, state: EmulatedBatchState, at: float) -> None:
        self.state = state
        self.reached[state] = at


class Batches:
    def __init__(self, provider: Provider, habits: BatchHabits, folder: Path) -> None:
        self._provider, self._world = provider, provider.world
        self.habits = habits
        self._folder = folder
        self._numbers = itertools.count(1)
        self.tasks: set[asyncio.Task[None]] = set()
        """One for each batch under way."""
        self._lost = habits.lost_creates
        self.all: dict[str, EmulatedBatch] = {}

    def now(self) -> float:
        """Seconds since 1970 by the provider's clock."""
        return self._world.time()

    def create(
        self,
        source: Path,
        wire: Wire,
        prefix: str,
        details: Mapping[str, Any],
        requests: int = 0,
        at: str | None = None,
    ) -> EmulatedBatch:
        """Take a batch on. It is worked through from now on, in a task of its own."""
        now = self.now()
        never = self.habits.tier is not None and self.habits.tier.expiry is Expiry.NEVER
        expires = now + (10 * 365 * 86_400 if never else self.habits.expires_seconds)
        opened = source.open("rb")
        batch = EmulatedBatch(
            f"{prefix}{next(self._numbers):06d}", wire, opened, dict(details), at, requests, now, expires
        )
        batch.reached[EmulatedBatchState.VALIDATING] = now
        self.all[batch.id] = batch
        task = asyncio.create_task(self._live(batch))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return batch

    def create_inline(
        self,
        path: Path,
        lines: Sequence[Any],
        wire: Wire,
        prefix: str,
        details: Mapping[str, Any],
        at: str | None,
    ) -> EmulatedBatch:
        """Take a batch on whose requests came with the call. `path`: where they lie, for as long as it holds them open."""
        with path.open("wb") as sink:
            sink.writelines(dumps(line) + b"\n" for line in lines)
        batch = self.create(path, wire, prefix, details, len(lines), at)
        path.unlink()
        return batch

    def loses_reply(self) -> bool:
        """Whether the client is not to hear of the batch it has just made."""
        self._lost -= 1
        return self._lost >= 0

    def page(self, wire: Wire, after: str | None, limit: int) -> tuple[list[EmulatedBatch], bool]:
        """Return (a wire's batches after `after`, newest first; whether there are more)."""
        newest = [batch for batch in reversed(self.all.values()) if batch.wire is wire]
        start = next((at + 1 for at, batch in enumerate(newest) if batch.id == after), 0) if after else 0
        return newest[start : start + limit], len(newest) > start + limit

    def cancel(self, batch: EmulatedBatch) -> bool:
        """Cancel a batch. Returns False where it has ended, or is ending."""
        if batch.state not in (
            EmulatedBatchState.VALIDATING,
            EmulatedBatchState.IN_PROGRESS,
            EmulatedBatchState.CANCELLING,
        ):
            return False
        if not batch.cancel.is_set():
            batch.enter(EmulatedBatchState.CANCELLING, self.now())
            batch.cancel.set()
        return True

    def done_by(self, batch: EmulatedBatch, when: float) -> int:
        """Return how many of its requests are done at an instant."""
        if batch.started_at is None:
            return 0
        span = self.habits.turnaround_seconds
        share = min(1.0, max(0.0, when - batch.started_at) / span) if span > 0 else 1.0
        stuck = self._stuck_at(batch)
        return int(len(batch.offsets) * (share if stuck is None else min(share, stuck)))

    def counts(self, batch: EmulatedBatch) -> tuple[int, int, int]:
        """Return (requests, completed, failed) as the client sees them."""
        total = batch.requests
        if batch.state in ENDED or batch.state is EmulatedBatchState.FINALIZING:
            return total, batch.completed, batch.failed
        until = batch.reached.get(EmulatedBatchState.CANCELLING, self.now())
        return total, self.done_by(batch, self.now() if self.habits.cancel_goes_on else until), 0

    # --- a batch's life ---

    async def _live(self, batch: EmulatedBatch) -> None:
        with batch.source:
            await asyncio.sleep(self.habits.validating_seconds)
            await self._validate(batch)
            if batch.faults:
                batch.enter(EmulatedBatchState.FAILED, self.now())
                return
            batch.started_at = self.now()
            if batch.state is EmulatedBatchState.VALIDATING:
                batch.enter(EmulatedBatchState.IN_PROGRESS, self.now())
            ended, until = await self._ending(batch)
            done = (
                self.done_by(batch, until)
                if ended is not EmulatedBatchState.COMPLETED
                else len(batch.offsets)
            )
            if ended is not EmulatedBatchState.CANCELLED:
                batch.enter(EmulatedBatchState.FINALIZING, self.now())
            await self._finalize(batch, done, ended)
            batch.enter(ended, self.now())

    async def _validate(self, batch: EmulatedBatch) -> None:
        offset, ids, tokens, faults = 0, set[str](), dict[str, int](), batch.faults
        for number, raw in enumerate(batch.source, 1):
            if raw.strip():
                batch.offsets.append(offset)
                try:
                    custom_id, asked = batch.read(loads(raw))
                    if custom_id in ids:
                        raise BadBody("custom_id: used twice")
                    ids.add(custom_id)
                    tokens[asked.model] = tokens.get(asked.model, 0) + asked.input_tokens
                except (BadBody, ValueError) as error:
                    faults.append(("invalid_request", str(error), number))
            offset += len(raw)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        batch.faults = [*faults[:FAULTS_SHOWN], *self._limits_passed(batch, offset, tokens)]
        batch.tokens, batch.requests = tokens, len(batch.offsets)
        random.Random(f"{batch.id} {self._provider.oracle.draw(batch.id)}").shuffle(batch.offsets)  # noqa: S311

    def _limits_passed(
        self, batch: EmulatedBatch, size: int, tokens: Mapping[str, int]
    ) -> Iterator[tuple[str, str, int | None]]:
        habits = self.habits
        if not batch.offsets:
            yield "empty_file", "the batch has no requests", None
        if len(batch.offsets) > habits.max_requests:
            yield "too_many_tasks", f"at most {habits.max_requests} requests", None
        if size > habits.max_bytes:
            yield "file_too_large", f"at most {habits.max_bytes} bytes", None
        for model, count in tokens.items():
            if model not in self._provider.models:
                yield "model_not_found", f"no model {model}", None
            elif (
                habits.enqueued_tokens is not None and self._enqueued(model) + count > habits.enqueued_tokens
            ):
                words = f"Enqueued token limit reached for {model}: {habits.enqueued_tokens}"
                yield "token_limit_exceeded", words, None

    def _enqueued(self, model: str) -> int:
        return sum(other.tokens.get(model, 0) for other in self.all.values() if other.state not in ENDED)

    def _stuck_at(self, batch: EmulatedBatch) -> float | None:
        habits = self.habits
        drawn = self._provider.oracle.draw("stuck", batch.id)
        return habits.stuck_at if habits.stuck_at is not None and drawn < habits.stuck_batches else None

    async def _ending(self, batch: EmulatedBatch) -> tuple[EmulatedBatchState, float]:
        """Wait for the end. Returns how it ended and until when requests were done."""
        start = batch.started_at or batch.created_at
        whole = start + self.habits.turnaround_seconds if self._stuck_at(batch) is None else float("inf")
        end = min(whole, batch.expires_at)
        try:
            async with asyncio.timeout(max(0.0, end - self.now())):
                await batch.cancel.wait()
        except TimeoutError:
            return (
                EmulatedBatchState.COMPLETED if whole <= batch.expires_at else EmulatedBatchState.EXPIRED
            ), end
        cancelled_at = batch.reached[EmulatedBatchState.CANCELLING]
        await asyncio.sleep(self.habits.cancel_seconds)
        return EmulatedBatchState.CANCELLED, self.now() if self.habits.cancel_goes_on else cancelled_at

    async def _finalize(self, batch: EmulatedBatch, done: int, ended: EmulatedBatchState) -> None:
        output, errors = (self._folder / f"{batch.id}-{kind}.jsonl" for kind in ("output", "errors"))
        with output.open("wb") as good, errors.open("wb") as bad:
            for place, offset in enumerate(batch.offsets):
                batch.source.seek(offset)
                request = loads(batch.source.readline())
                custom_id, asked = batch.read(request)
                result = self._result(asked, custom_id) if place < done else None
                batch.completed += isinstance(result, BilledAnswer)
                batch.failed += isinstance(result, ErrorResponse)
                batch.undone += result is None
                if written := batch.wire.write(EmulatedLine(custom_id, request, result), ended):
                    is_error, value = written
                    (bad if is_error else good).write(dumps(value) + b"\n")
                if place % BREATH == 0:
                    await asyncio.sleep(0)
            batch.output = output if good.tell() else None
            batch.errors = errors if bad.tell() else None

    def _result(self, asked: WireRequest, custom_id: str) -> BilledAnswer | ErrorResponse:
        provider = self._provider
        model = provider.models[asked.model]
        totals = provider.billing.of(model.name)
        totals.requests += 1
        trouble = provider.trouble(model, asked)
        trouble = trouble if trouble in IN_ANSWERS else None
        refusal = refused(model, asked, trouble)
        if (
            refusal is None
            and provider.oracle.draw("batch", custom_id, totals.requests) < self.habits.failed_share
        ):
            refusal = ErrorResponse(
                500, "server_error", "The server had an error while processing your request"
            )
        if refusal is not None:
            return refusal
        return provider.bill_answer(
            model, asked, provider.oracle.answer(model, asked), trouble, Mode.BATCH, {}
        )
