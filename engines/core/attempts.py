"""One request on one endpoint, from admission to its answer or last failure; the same for every transport.

Each attempt: a slot from the limiter, the deadline, what it can cost at most from the budget, the intent in
the journal, the sending, the outcome in the journal, the money settled. What follows a failure is
`failures.NEXT_STEP`. Records that fall due in one turn of the event loop are written together: intents always
before they are sent, outcomes before anyone is told of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal

from thirdshift.engines.core.failures import CUT_EMPTY_FACTOR, NEXT_STEP, Step, backoff_seconds
from thirdshift.engines.core.health import EndpointHealth
from thirdshift.engines.core.rate_limits import Limiter
from thirdshift.engines.core.records import ZERO, AttemptRecords, overrun_words
from thirdshift.engines.core.returns import RETURNS, pauses
from thirdshift.engines.core.transport import Reply, Transport, lost, not_sent
from thirdshift.engines.core.validation import judged, schema_fault
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Intent,
    Outcome,
    Request,
    Usage,
)

ALONE_IN_ERROR = 3
"""A request that meets a server's error so often while others are answered is not asked here again: the fault is its."""

ADAPTED_MOST = 6
"""So often one request is sent again because the endpoint's bodies have changed: a schema alone has four forms."""

RETURN_POLL_SECONDS = 0.25
"""Money comes back through engines that are not on our loop too; how often a waiting request looks."""

UNSENT = {
    FailureKind.BUDGET: "not sent: the cap leaves no room for what it can cost; resume with a higher --cap",
    FailureKind.DEADLINE: "not sent: the deadline has passed; resume with a later --deadline",
    FailureKind.CANCELLED: "not sent: the run is stopping; resume goes on with it",
    FailureKind.EXPIRED: "not sent: its batch would not be back before the deadline",
}


@dataclass(slots=True)
class Admission:
    """A slot and money: what one attempt needs before it is sent."""

    intent: Intent
    prompt_bytes: int
    tokens: int
    """Expected, input and output."""


@dataclass(slots=True)
class Met:
    """What one request has met in this shard so far."""

    answers: int
    """Answers that the endpoint had given before it."""
    failures: dict[FailureKind, int] = field(default_factory=dict)
    adapted: int = 0


class Expectation:
    """Tokens per byte and per answer, as usage has told so far: what the limiter counts before it knows."""

    def __init__(self) -> None:
        self._per_byte = 0.3
        self._output: float | None = None

    def input_tokens(self, prompt_bytes: int) -> int:
        return int(prompt_bytes * self._per_byte) + 1

    def output_tokens(self, max_tokens: int) -> int:
        return min(max_tokens, int(max_tokens / 4 if self._output is None else self._output))

    def learn(self, prompt_bytes: int, usage: Usage) -> None:
        """One in twenty of the newest: follows a change of task within some dozens of answers."""
        self._per_byte += 0.05 * (usage.input_tokens / max(prompt_bytes, 1) - self._per_byte)
        seen = usage.output_tokens
        self._output = seen if self._output is None else self._output + 0.05 * (seen - self._output)


class Attempts:
    """All attempts on one endpoint. Lives on the event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        transport: Transport,
        records: AttemptRecords,
        *,
        patience_seconds: float,
        backoff_first_seconds: float,
        rng: random.Random,
    ) -> None:
        self._endpoint, self._context = endpoint, engine_context
        self._transport, self._records = transport, records
        self._world = engine_context.world
        self._first_wait = backoff_first_seconds
        self._rng = rng
        self._expect = Expectation()
        self._deadline = None if engine_context.deadline is None else engine_context.deadline.timestamp()
        self._halted: FailureKind | None = None
        self._interrupted = lost(FailureKind.TIMEOUT, f"endpoint {endpoint.name}: given up while in flight")
        self._overrun_words: str | None = None
        self._over = asyncio.Event()
        """Halted, or the endpoint is given up."""
        self._dead: Reply | None = None
        self._health = EndpointHealth(
            endpoint.name,
            patience_seconds=patience_seconds,
            first_wait_seconds=backoff_first_seconds,
            elsewhere=engine_context.elsewhere,
            deadline=self._deadline,
            world=self._world,
        )
        self._outcomes: list[tuple[Decimal, Outcome]] = []
        """Not in the journal yet, each with what was reserved for it."""
        self._slots: list[tuple[int, int | None]] = []
        """To be given back once the money that they took is settled: tokens expected, and used."""
        self.limiter = Limiter(endpoint.limits, self._world.monotonic)

    def halt(self, kind: FailureKind) -> None:
        """Send nothing more; `kind` is why. Whoever waits is told at once."""
        if self._halted is None:
            self._halted = kind
            self._over.set()
            self.limiter.wake_all()
            RETURNS.tell()

    @property
    def out_until(self) -> float | None:
        """POSIX time until which the endpoint is given up, where that is known."""
        return self._health.out_until

    @property
    def halted(self) -> FailureKind | None:
        if self._halted is None and self._deadline is not None and self._world.time() >= self._deadline:
            self.halt(FailureKind.DEADLINE)
        return self._halted

    # --- before sending ---

    async def admit(self, shard: Shard, request: Request, number: int) -> Admission | FailureKind:
        """A slot, then money; or why the request is not sent. Callers that wait are admitted in order."""
        size = self._records.prompt_bytes(request)
        input_tokens = self._expect.input_tokens(size)
        tokens = input_tokens + self._expect.output_tokens(request.max_tokens)
        if not self.halted:
            if self._dead is not None and self._health.is_back():
                self._dead = None
                self._over.clear()
                self.limiter.restore()
            await self.limiter.acquire(tokens)
            reserved = self._records.worst_case(request, size)
            if not self.halted and await self._reserve(reserved):
                intent = self._records.intent(shard, request, number, reserved, input_tokens)
                return Admission(intent, size, tokens)
            self.limiter.release(tokens, 0)
        return self._halted or FailureKind.BUDGET

    async def _reserve(self, amount: Decimal) -> bool:
        """Set money aside. While others hold some, wait for what returns: the tail is spent one by one."""
        budget, waits = self._context.budget, pauses(RETURN_POLL_SECONDS)
        while True:
            in_vain = not budget.reserved_usd  # read first: what returns in between is then seen by reserve()
            if budget.reserve(amount):
                return True
            if in_vain:
                self.halt(FailureKind.BUDGET)
            if self.halted is not None:
                return False
            await RETURNS.wait(next(waits))

    def enter(self, admissions: Sequence[Admission]) -> None:
        """Write the intents down: from here on they may be sent. What the journal raises gives all of it back."""
        try:
            self._context.journal.sent([admission.intent for admission in admissions])
        except BaseException:
            for admission in admissions:
                self._context.budget.settle(admission.intent.reserved_usd, ZERO)
                self.limiter.release(admission.tokens, 0)
            raise

    # --- sending ---

    async def run(self, shard: Shard, request: Request, admission: Admission) -> Answer | Failure:
        """Attempts until there is an answer or the table says enough. The first is already entered."""
        met = Met(self._health.answers)
        while True:
            reply, answer, again = await self._attempt(request, admission, met)
            if not again:
                return answer
            if reply.kind is FailureKind.CUT_EMPTY:
                request = replace(request, max_tokens=self._larger(request))
            if reply.kind is not None and NEXT_STEP[reply.kind].wait and not reply.adapted:
                await self._nap(self._wait(met.failures[reply.kind], reply))
            admitted = await self.admit(shard, request, admission.intent.attempt + 1)
            if isinstance(admitted, FailureKind):
                return self.unsent(request, admitted)
            self.enter((admitted,))
            admission = admitted

    async def _attempt(
        self, request: Request, admission: Admission, met: Met
    ) -> tuple[Reply, Answer | Failure, bool]:
        """One attempt from its sending to its outcome. The reservation is settled whatever happens."""
        intent, outcome = admission.intent, None
        try:
            reply = await self._send(request, admission, met)
            answer, again, note = self._judge(request, reply, met)
            outcome = self._records.outcome(intent, reply, answer, final=not again, note=note)
            if outcome.cost_usd > intent.reserved_usd:
                self._overrun(intent, outcome)
        except asyncio.CancelledError:
            outcome = self._records.outcome(intent, self._interrupted, None, final=False)
            raise
        finally:
            self._note(intent.reserved_usd, outcome)
        return reply, answer, again

    async def _send(self, request: Request, admission: Admission, met: Met) -> Reply:
        reply = self._interrupted
        try:
            fault = schema_fault(request.response_schema)
            if fault is not None:
                reply = not_sent(FailureKind.BAD_REQUEST, fault)
            elif self._dead is not None:
                reply = self._dead
            else:
                came = await self._transport.send(request)
                reply = self._records.believed(came, admission.prompt_bytes, request.max_tokens)
        finally:
            alone = reply.kind is FailureKind.OVERLOADED and self._alone(met)
            self._feedback(admission, reply, alone=alone)
        return reply

    def _alone(self, met: Met) -> bool:
        """Whether a server's error meets this request and no other: it has met one before, and others were answered."""
        return FailureKind.OVERLOADED in met.failures and self._health.answers > met.answers

    def _overrun(self, intent: Intent, outcome: Outcome) -> None:
        """A provider bills more than its ceiling allowed, or may by one reading of its figures: nothing more is sent to
        it, for the cap's sake."""
        if outcome.service_tier in (None, self._records.tier):
            if self._overrun_words is None:
                self._overrun_words = overrun_words(intent, outcome)
                self._context.say(self._overrun_words)
            self.halt(FailureKind.BUDGET)

    def unsent(self, request: Request, kind: FailureKind) -> Failure:
        """A request that is not sent, with why."""
        if kind is FailureKind.BUDGET and self._overrun_words is not None:
            return Failure(request.row, request.request_id, kind, f"not sent: {self._overrun_words}")
        return unsent(request, kind)

    def _note(self, reserved_usd: Decimal, outcome: Outcome | None) -> None:
        """An outcome for the journal, written with the others of this turn of the loop; None: by a fault of ours there is
        none, and it has cost what it can cost at most."""
        if outcome is None:
            self._return(reserved_usd, reserved_usd, certain=False)
            self._free_slots()
            return
        if not self._outcomes:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outcomes.append((reserved_usd, outcome))

    def _return(self, reserved_usd: Decimal, cost_usd: Decimal, *, certain: bool) -> None:
        self._context.budget.settle(reserved_usd, cost_usd, certain=certain)
        RETURNS.tell()

    def _flush(self) -> None:
        try:
            self.flush()
        except Exception:  # noqa: BLE001 - the outcomes are kept, and the shard's next flush raises it again
            self.halt(FailureKind.CANCELLED)

    def flush(self) -> None:
        """Write the outcomes that are due, and only then give back what they have not used: money that is spent anew before
        its return is on disk would be there twice after a crash. What the journal raises leaves all to be done."""
        if self._outcomes:
            self._context.journal.settled(outcome for _, outcome in self._outcomes)
            due, self._outcomes = self._outcomes, []
            for reserved_usd, outcome in due:
                self._return(reserved_usd, outcome.cost_usd, certain=outcome.certain)
        self._free_slots()

    def _free_slots(self) -> None:
        """Let the next in: what the last cost is in the budget by now, however much it was."""
        slots, self._slots = self._slots, []
        for tokens, used in slots:
            self.limiter.release(tokens, used)

    def _feedback(self, admission: Admission, reply: Reply, *, alone: bool = False) -> None:
        """What a reply teaches the limiter, the expectation and the endpoint's health. `alone`: others are answered, so
        that an error says nothing of how busy the endpoint is."""
        limiter, usage = self.limiter, reply.usage
        if self._dead is not None:  # nothing is sent any more, and nothing is learnt
            self._slots.append((admission.tokens, 0))
            return
        if reply.hints is not None:
            limiter.heed(reply.hints)
        kind = reply.kind
        if kind is None or alone or not NEXT_STEP[kind].congestion:
            limiter.succeeded()
        else:
            limiter.congested(reply.retry_after, refused=kind is FailureKind.RATE_LIMITED)
        used = 0 if reply.unbilled else None
        if usage is not None:
            used = usage.input_tokens + usage.output_tokens
            self._expect.learn(admission.prompt_bytes, usage)
        health = self._health
        if (end := health.hear(admission.intent.row or 0, reply)) is not None:
            self._give_up(end)
        elif health.pause_seconds:
            limiter.pause(health.pause_seconds)
        self._slots.append((admission.tokens, used))

    def _give_up(self, reply: Reply) -> None:
        """From now on every request gets this reply, and nothing is sent."""
        self._dead = reply
        self._context.say(reply.message)
        self._over.set()
        self.limiter.lift()

    # --- after sending ---

    def _judge(self, request: Request, reply: Reply, met: Met) -> tuple[Answer | Failure, bool, str | None]:
        """What the reply is to the request, whether another attempt follows, and what the ledger should say of it. An
        invalid answer is one."""
        if reply.kind is None:
            text, valid, note = judged(request.response_schema, reply.text)
            finish, thoughts = reply.finish_reason, reply.reasoning
            answer = Answer(request.row, request.request_id, text, finish, thoughts, valid, reply.logprobs)
            return answer, valid is False and self._again(request, FailureKind.INVALID, met), note
        again = (
            self._again(request, reply.kind, met) or self._may_come_back(reply) or self._adapted(reply, met)
        )
        message = reply.message
        if again and reply.kind is FailureKind.CUT_EMPTY:
            message += f"; asked once more with max_tokens {self._larger(request)}"
        return Failure(request.row, request.request_id, reply.kind, message), again, None

    def _again(self, request: Request, kind: FailureKind, met: Met) -> bool:
        met.failures[kind] = count = met.failures.get(kind, 0) + 1
        rule = NEXT_STEP[kind]
        if rule.step is not Step.SAME_ENDPOINT or count >= rule.attempts or self._dead is not None:
            return False
        if kind is FailureKind.OVERLOADED and count >= ALONE_IN_ERROR and self._health.answers > met.answers:
            return False
        return kind is not FailureKind.CUT_EMPTY or self._larger(request) > request.max_tokens

    def _adapted(self, reply: Reply, met: Met) -> bool:
        """What the server refuses is left out from now on: that is worth another attempt, a few times."""
        met.adapted += reply.adapted
        return reply.adapted and met.adapted <= ADAPTED_MOST and self._dead is None

    def _may_come_back(self, reply: Reply) -> bool:
        """Nobody listens: that costs nothing and is no request's fault, so it is borne until patience ends."""
        return reply.kind is FailureKind.CONNECTION and reply.unbilled and self._dead is None

    def _larger(self, request: Request) -> int:
        """The larger budget of an answer that was cut before its first word, within the context window."""
        wanted = request.max_tokens * CUT_EMPTY_FACTOR
        window = self._endpoint.context_window
        if window is None:
            return wanted
        taken = self._expect.input_tokens(self._records.prompt_bytes(request))
        return max(request.max_tokens, min(wanted, window - taken))

    def _wait(self, failures: int, reply: Reply) -> float:
        return backoff_seconds(failures, reply.retry_after, self._rng, self._first_wait)

    async def _nap(self, seconds: float) -> None:
        """Wait, but not when there is nothing left to wait for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()


def unsent(request: Request, kind: FailureKind) -> Failure:
    return Failure(request.row, request.request_id, kind, UNSENT[kind])
