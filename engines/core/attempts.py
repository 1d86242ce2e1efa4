"""One request on one endpoint, from admission to its answer or last failure; the same for every transport.

Each attempt: a slot from the limiter, the deadline, what it can cost at most from the escrow, the intent in
the journal, the sending, the outcome in the journal, the money settled. What follows a failure is
`outcomes.NEXT_STEP`. Records that fall due in one turn of the event loop are written together: intents always
before they are sent, outcomes before anyone is told of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal

from thirdshift.engines.core.failures import CUT_EMPTY_FACTOR, NEXT_STEP, Step, backoff_seconds
from thirdshift.engines.core.rate_limits import Limiter
from thirdshift.engines.core.records import ZERO, AttemptRecords
from thirdshift.engines.core.transport import Reply, Transport, lost, not_sent
from thirdshift.engines.core.validation import is_valid, schema_fault
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Endpoint, Failure, FailureKind, Intent, Outcome, Request, Usage

ENDPOINT_WIDE_IN_A_ROW = 3
"""So many failures of the endpoint's own (no key, no such model) in a row, and no more is sent."""

NEVER_A_WORD = 20
"""An endpoint that has answered nothing yet and says "overloaded" or "internal error" so often in a row, for so many first
waits, is given up: every request of a pilot would else try it eight times, for minutes."""

NEVER_THERE_SECONDS = 30.0
"""An endpoint that has answered nothing yet is waited for no longer than this: its address is likelier wrong than its
server on its way back."""

RETURN_POLL_SECONDS = 0.25
"""Money comes back through engines that are not on our loop too; how often a waiting request looks."""

UNSENT = {
    FailureKind.BUDGET: "not sent: the cap leaves no room for what it can cost; resume with a higher --cap",
    FailureKind.DEADLINE: "not sent: the deadline has passed; resume with a later --deadline",
    FailureKind.CANCELLED: "not sent: the run is stopping; resume goes on with it",
}


@dataclass(slots=True)
class Admission:
    """A slot and money: what one attempt needs before it is sent."""

    intent: Intent
    prompt_bytes: int
    tokens: int
    """Expected, input and output."""


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
        books: AttemptRecords,
        *,
        patience_seconds: float,
        backoff_first_seconds: float,
        rng: random.Random,
    ) -> None:
        self._endpoint, self._desk, self._transport, self._books = endpoint, engine_context, transport, books
        self._patience = patience_seconds
        self._first_wait = backoff_first_seconds
        self._rng = rng
        self._expect = Expectation()
        self._deadline = None if engine_context.deadline is None else engine_context.deadline.timestamp()
        self._halted: FailureKind | None = None
        self._interrupted = lost(FailureKind.TIMEOUT, f"endpoint {endpoint.name}: given up while in flight")
        self._over = asyncio.Event()
        """Halted, or the endpoint is given up."""
        self._dead: Reply | None = None
        self._wide_in_a_row = 0
        self._unreachable_since: float | None = None
        self._only_errors: tuple[int, float] | None = (0, 0.0)
        """How many it gave and when the first came; None once it has said anything else."""
        self._outcomes: list[tuple[Decimal, Outcome]] = []
        """Not in the journal yet, each with what was reserved for it."""
        self.limiter = Limiter(endpoint.limits)

    def halt(self, kind: FailureKind) -> None:
        """Send nothing more; `kind` is why. Whoever waits is told at once."""
        if self._halted is None:
            self._halted = kind
            self._over.set()
            self.limiter.wake_all()

    @property
    def halted(self) -> FailureKind | None:
        if self._halted is None and self._deadline is not None and time.time() >= self._deadline:
            self.halt(FailureKind.DEADLINE)
        return self._halted

    # --- before sending ---

    async def admit(self, shard: Shard, request: Request, number: int) -> Admission | FailureKind:
        """A slot, then money; or why the request is not sent. Callers that wait are admitted in order."""
        size = self._books.prompt_bytes(request)
        input_tokens = self._expect.input_tokens(size)
        tokens = input_tokens + self._expect.output_tokens(request.max_tokens)
        if not self.halted:
            await self.limiter.acquire(tokens)
            reserved = self._books.worst_case(request, size)
            if not self.halted and await self._reserve(reserved):
                intent = self._books.intent(shard, request, number, reserved, input_tokens)
                return Admission(intent, size, tokens)
            self.limiter.release(tokens, 0)
        return self._halted or FailureKind.BUDGET

    async def _reserve(self, amount: Decimal) -> bool:
        """Set money aside. While others hold some, wait for what returns: the tail is spent one by one."""
        budget = self._desk.budget
        while True:
            in_vain = not budget.reserved_usd  # read first: what returns in between is then seen by reserve()
            if budget.reserve(amount):
                return True
            if in_vain:
                self.halt(FailureKind.BUDGET)
            if self.halted is not None:
                return False
            await RETURNS.wait(RETURN_POLL_SECONDS)

    def enter(self, admissions: Sequence[Admission]) -> None:
        """Write the intents down: from here on they may be sent. What the journal raises gives all of it back."""
        try:
            self._desk.journal.sent([admission.intent for admission in admissions])
        except BaseException:
            for admission in admissions:
                self._desk.budget.settle(admission.intent.reserved_usd, ZERO)
                self.limiter.release(admission.tokens, 0)
            raise

    # --- sending ---

    async def run(self, shard: Shard, request: Request, admission: Admission) -> Answer | Failure:
        """Attempts until there is an answer or the table says enough. The first is already entered."""
        failures: dict[FailureKind, int] = {}
        while True:
            reply, said, again = await self._attempt(request, admission, failures)
            if not again:
                return said
            if reply.kind is FailureKind.CUT_EMPTY:
                request = replace(request, max_tokens=self._larger(request))
            if reply.kind is not None and NEXT_STEP[reply.kind].wait:
                await self._nap(self._wait(failures[reply.kind], reply))
            admitted = await self.admit(shard, request, admission.intent.attempt + 1)
            if isinstance(admitted, FailureKind):
                return unsent(request, admitted)
            self.enter((admitted,))
            admission = admitted

    async def _attempt(
        self, request: Request, admission: Admission, failures: dict[FailureKind, int]
    ) -> tuple[Reply, Answer | Failure, bool]:
        """One attempt from its sending to its outcome. The reservation is settled whatever happens."""
        intent, outcome = admission.intent, None
        try:
            reply = await self._send(request, admission)
            said, again = self._judge(request, reply, failures)
            outcome = self._books.outcome(intent, reply, said, final=not again)
        except asyncio.CancelledError:
            outcome = self._books.outcome(intent, self._interrupted, None, final=False)
            raise
        finally:
            self._note(intent.reserved_usd, outcome)
        return reply, said, again

    async def _send(self, request: Request, admission: Admission) -> Reply:
        reply = self._interrupted
        try:
            fault = schema_fault(request.response_schema)
            if fault is not None:
                reply = not_sent(FailureKind.BAD_REQUEST, fault)
            elif self._dead is not None:
                reply = replace(self._dead)
            else:
                reply = await self._transport.send(request)
        finally:
            self._feedback(admission, reply)
        return reply

    def _note(self, reserved_usd: Decimal, outcome: Outcome | None) -> None:
        """An outcome for the journal, written with the others of this turn of the loop; None: by a fault of ours there is
        none, and it has cost what it can cost at most."""
        if outcome is None:
            self._return(reserved_usd, reserved_usd)
            return
        if not self._outcomes:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outcomes.append((reserved_usd, outcome))

    def _return(self, reserved_usd: Decimal, cost_usd: Decimal) -> None:
        self._desk.budget.settle(reserved_usd, cost_usd)
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
            self._desk.journal.settled(outcome for _, outcome in self._outcomes)
            due, self._outcomes = self._outcomes, []
            for reserved_usd, outcome in due:
                self._return(reserved_usd, outcome.cost_usd)

    def _feedback(self, admission: Admission, reply: Reply) -> None:
        """What a reply teaches the limiter, the expectation and the endpoint's health."""
        limiter, usage = self.limiter, reply.usage
        if self._dead is not None:  # nothing is sent any more, and nothing is learnt
            limiter.release(admission.tokens, 0)
            return
        if reply.hints is not None:
            limiter.heed(reply.hints)
        rule = None if reply.kind is None else NEXT_STEP[reply.kind]
        if rule is None or not rule.congestion:
            limiter.succeeded()
        else:
            limiter.congested(reply.retry_after, refused=reply.kind is FailureKind.RATE_LIMITED)
        used = 0 if reply.unbilled else None
        if usage is not None:
            used = usage.input_tokens + usage.output_tokens
            self._expect.learn(admission.prompt_bytes, usage)
        self._watch(reply, endpoint_wide=rule is not None and rule.endpoint_wide)
        self._hear(reply)
        limiter.release(admission.tokens, used)

    def _watch(self, reply: Reply, *, endpoint_wide: bool) -> None:
        """Whether the endpoint is there at all: no key, no such model, or nobody listens for too long."""
        self._wide_in_a_row = self._wide_in_a_row + 1 if endpoint_wide else 0
        if self._wide_in_a_row >= ENDPOINT_WIDE_IN_A_ROW:
            self._give_up(replace(reply, unbilled=True, usage=None))
        if reply.kind is not FailureKind.CONNECTION or not reply.unbilled:
            self._unreachable_since = None
            return
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
        away = now - self._unreachable_since
        patience = self._patience if self._only_errors is None else min(self._patience, NEVER_THERE_SECONDS)
        if away >= patience:
            message = f"endpoint {self._endpoint.name}: unreachable for {away:.0f} s; is it up?"
            self._give_up(not_sent(FailureKind.CONNECTION, message))
            return
        self.limiter.pause(min(30.0, away / 4.0))

    def _hear(self, reply: Reply) -> None:
        """Whether it has ever said anything but that it cannot."""
        if reply.kind is not FailureKind.OVERLOADED:
            told = reply.kind not in (FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.RATE_LIMITED)
            self._only_errors = None if told else self._only_errors
        elif self._only_errors is not None and self._dead is None:
            count, now = self._only_errors[0] + 1, time.monotonic()
            first = self._only_errors[1] or now
            self._only_errors = count, first
            if count >= NEVER_A_WORD and now - first >= NEVER_A_WORD * self._first_wait:
                message = f"{reply.message}; it has answered nothing so far and is given up"
                self._give_up(replace(reply, message=message, unbilled=True, usage=None))

    def _give_up(self, reply: Reply) -> None:
        """From now on every request gets this reply, and nothing is sent."""
        self._dead = reply
        self._over.set()
        self.limiter.lift()

    # --- after sending ---

    def _judge(
        self, request: Request, reply: Reply, failures: dict[FailureKind, int]
    ) -> tuple[Answer | Failure, bool]:
        """What the reply is to the request, and whether another attempt follows. An invalid answer is one."""
        if reply.kind is None:
            valid = is_valid(request.response_schema, reply.text)
            answer = Answer(
                request.row,
                request.request_id,
                reply.text,
                reply.finish_reason,
                reply.reasoning,
                valid,
                reply.logprobs,
            )
            again = valid is False and self._again(request, FailureKind.INVALID, failures)
            return answer, again
        again = self._again(request, reply.kind, failures) or self._may_come_back(reply)
        message = reply.message
        if again and reply.kind is FailureKind.CUT_EMPTY:
            message += f"; asked once more with max_tokens {self._larger(request)}"
        return Failure(request.row, request.request_id, reply.kind, message), again

    def _again(self, request: Request, kind: FailureKind, failures: dict[FailureKind, int]) -> bool:
        failures[kind] = failures.get(kind, 0) + 1
        rule = NEXT_STEP[kind]
        if rule.step is not Step.SAME_ENDPOINT or failures[kind] >= rule.attempts or self._dead is not None:
            return False
        return kind is not FailureKind.CUT_EMPTY or self._larger(request) > request.max_tokens

    def _may_come_back(self, reply: Reply) -> bool:
        """Nobody listens: that costs nothing and is no request's fault, so it is borne until patience ends."""
        return reply.kind is FailureKind.CONNECTION and reply.unbilled and self._dead is None

    def _larger(self, request: Request) -> int:
        """The larger budget of an answer that was cut before its first word, within the context window."""
        wanted = request.max_tokens * CUT_EMPTY_FACTOR
        window = self._endpoint.context_window
        if window is None:
            return wanted
        taken = self._expect.input_tokens(self._books.prompt_bytes(request))
        return max(request.max_tokens, min(wanted, window - taken))

    def _wait(self, failures: int, reply: Reply) -> float:
        return backoff_seconds(failures, reply.retry_after, self._rng, self._first_wait)

    async def _nap(self, seconds: float) -> None:
        """Wait, but not when there is nothing left to wait for."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)


def unsent(request: Request, kind: FailureKind) -> Failure:
    return Failure(request.row, request.request_id, kind, UNSENT[kind])


class Returns:
    """Tells those who wait for money that some came back. One for all engines of the process's loop."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await asyncio.wait((future,), timeout=seconds)
        if not future.done():
            future.cancel()
            self._waiting.remove(future)


RETURNS = Returns()
