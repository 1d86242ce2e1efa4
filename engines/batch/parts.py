"""Parts of a shard that each fit into one batch: cut with their intents written, settled from their results.

Everything here may take seconds (files, JSON, the journal) and runs on worker threads, not on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from thirdshift.engines.batch.labels import attempt_of, entry_id, label, row_of, tag
from thirdshift.engines.batch.provider import BatchWire, Remote
from thirdshift.engines.core.attempts import unsent
from thirdshift.engines.core.records import ZERO, AttemptRecords, overrun_words
from thirdshift.engines.core.submission import Said, Submission
from thirdshift.engines.core.transport import Reply, lost, not_sent
from thirdshift.engines.core.validation import Schema, judged, schema_fault
from thirdshift.engines.wires.openai import refused_beforehand
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Failure, FailureKind, Intent, LedgerStatus, Outcome, Request

LINE_BYTES = 64 << 20
"""A result is no longer than this: a hundred times the longest answer on offer."""
LOT = 500
"""Records written to the journal at once."""
UNDONE_MOST = 3
"""After so many batches in a row that ended before their time without one answer, a tier is given no more: one after the
other they may take a day each, and the next would as well."""
BARRED = not_sent(FailureKind.EXPIRED, "not sent: by now a policy keeps it from this endpoint")
TOKENS_PER_BYTE = 0.3
TOKENS_PER_MESSAGE = 8
"""A guess for the provider's count of enqueued tokens, on the high side for English."""


class RequestFeed:
    """A shard's requests, one by one, with a way to put one back. `rows` None: all but `without`."""

    def __init__(
        self,
        requests: Iterable[Request],
        *,
        rows: Collection[int] | None = None,
        without: Collection[int] = (),
    ) -> None:
        wanted = (r for r in requests if r.row not in without and (rows is None or r.row in rows))
        self._iterator = iter(wanted)
        self._back: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        return self._back.pop() if self._back else next(self._iterator)

    def put_back(self, request: Request) -> None:
        self._back.append(request)


@dataclass(slots=True)
class PendingRequest:
    """What is kept of a request while its batch runs: not its text."""

    intent: Intent
    schema: Schema
    prompt_bytes: int = 0
    max_tokens: int = 0


@dataclass(slots=True)
class BatchPart:
    """Requests that travel in one batch."""

    path: Path
    attempt: int
    held: dict[int, PendingRequest] = field(default_factory=dict)
    """By row."""
    size: int = 0
    tokens: int = 0
    said: list[Said] = field(default_factory=list)
    """Requests that were not let in, with the reason."""
    stopped_by_cap: bool = False
    in_vain: bool = False
    """The cap stopped it, and nobody holds money that could return."""
    label: str = ""


class BatchParts:
    """Cuts and settles the parts of one endpoint's shards. `tokens_max`: what one part may enqueue, if known."""

    def __init__(self, engine_context: EngineContext, records: AttemptRecords, wire: BatchWire) -> None:
        self._context, self._records, self._wire = engine_context, records, wire
        self.tokens_max: int | None = None
        self.overrun = False
        """More was billed than a ceiling allowed: nothing more is to be sent, for the cap's sake."""
        self._undone = 0
        """Batches in a row that ended before their time without one answer."""

    # --- before ---

    def cut(self, shard: Shard, key: str, source: RequestFeed, path: Path, attempt: int) -> BatchPart | None:
        """The next part, in its file, every intent on disk and its money set aside; None at the source's end."""
        part = BatchPart(path, attempt)
        fresh: list[Intent] = []
        with path.open("wb") as file:
            for request in source:
                if not self._let_in(part, shard, key, request, file, fresh):
                    source.put_back(request)
                    break
                if len(fresh) >= LOT:
                    self._sent(fresh)
        self._sent(fresh)
        if not part.held and not part.said and not part.stopped_by_cap:
            return None
        part.label = label(key, part.held, part.attempt)
        return part

    def _let_in(
        self, part: BatchPart, shard: Shard, key: str, request: Request, file: BinaryIO, fresh: list[Intent]
    ) -> bool:
        """Whether the request was dealt with; False where it is for the next part."""
        line = self._line(f"{tag(key, part.attempt)}-{request.row}", request)
        fault = BARRED if request.row in shard.barred else self._fault(request, line)
        if fault is not None:
            part.said.append(self._refuse(shard, key, request, part.attempt, fault))
            return True
        size = self._records.prompt_bytes(request)
        tokens = int(size * TOKENS_PER_BYTE) + TOKENS_PER_MESSAGE * len(request.messages)
        if part.held and not self._fits(part, len(line), tokens):
            return False
        amount = self._records.worst_case(request, size)
        in_vain = not self._context.budget.reserved_usd
        if not self._context.budget.reserve(amount):
            part.stopped_by_cap, part.in_vain = True, in_vain
            return False
        entry = entry_id(key, request.row, part.attempt)
        intent = self._records.intent(shard, request, part.attempt, amount, tokens, entry_id=entry)
        fresh.append(intent)
        part.held[request.row] = PendingRequest(intent, request.response_schema, size, request.max_tokens)
        part.size += len(line)
        part.tokens += tokens
        file.write(line)
        return True

    def _line(self, custom_id: str, request: Request) -> bytes:
        """Empty where the messages are none that this wire knows."""
        try:
            return self._wire.line(custom_id, request)
        except (AttributeError, KeyError, TypeError):
            return b""

    def _fits(self, part: BatchPart, size: int, tokens: int) -> bool:
        limits = self._wire.limits
        if len(part.held) >= limits.requests or part.size + size > limits.bytes:
            return False
        return self.tokens_max is None or part.tokens + tokens <= self.tokens_max

    def _fault(self, request: Request, line: bytes) -> Reply | None:
        if self._undone >= UNDONE_MOST:
            given_up = f"not sent: the last {self._undone} batches of this endpoint ended without one answer"
            return not_sent(FailureKind.TIMEOUT, given_up)
        words = refused_beforehand(request) or schema_fault(request.response_schema)
        if words is None and not line:
            words = "its messages cannot be written as this provider wants them"
        if words is not None:
            return not_sent(FailureKind.BAD_REQUEST, words)
        limits = self._wire.limits
        if len(line) > min(limits.bytes, limits.line_bytes or limits.bytes):
            return not_sent(FailureKind.CONTEXT_OVERFLOW, "the request alone is larger than a batch may be")
        return None

    def _refuse(self, shard: Shard, key: str, request: Request, attempt: int, reply: Reply) -> Said:
        intent = self._records.intent(
            shard, request, attempt, ZERO, 0, entry_id=entry_id(key, request.row, attempt)
        )
        self._context.journal.sent((intent,))
        answer, outcome = self._judged(PendingRequest(intent, None), reply)
        self._context.journal.settled((outcome,))
        return answer

    def _sent(self, fresh: list[Intent]) -> None:
        if fresh:
            self._context.journal.sent(fresh)
            fresh.clear()

    def adopt(self, shard: Shard, key: str, remote: Remote, uploaded: Path) -> BatchPart:
        """The part that a batch already at the provider is: those of its requests that are in the shard.

        Its money is committed: it is set aside where the cap still allows, and booked all the same.
        """
        rows = set(self._rows(uploaded))
        part = BatchPart(uploaded, attempt_of(remote.label), label=remote.label)
        for request in shard.requests:
            if request.row in rows:
                entry = entry_id(key, request.row, part.attempt)
                reserved = self._committed(shard).pop(entry, None)
                if reserved is None:
                    amount = self._records.worst_case(request)
                    reserved = amount if self._context.budget.reserve(amount) else ZERO
                intent = self._records.intent(
                    shard, request, part.attempt, reserved, 0, entry_id=entry, at=remote.created_at
                )
                size = self._records.prompt_bytes(request)
                part.held[request.row] = PendingRequest(
                    intent, request.response_schema, size, request.max_tokens
                )
        for lot in _lots(part.held.values()):
            self._context.journal.sent([held.intent for held in lot])
        return part

    def _committed(self, shard: Shard) -> dict[str, Decimal]:
        return self._context.committed.get(shard.shard_id, {})

    def disown(self, shard: Shard, unread: Collection[str] = ()) -> None:
        """What an earlier process wrote down and the provider does not have was never sent: void, its money free for what
        is sent now under a number of its own. `unread`: batches of the shard that may hold it, nobody knows."""
        never = self._context.committed.pop(shard.shard_id, {})
        if never and unread:
            words = f"the input of batch {', '.join(unread)} is gone, so that what it holds is not known"
            self._context.say(
                f"endpoint {shard.endpoint}: {words}; {len(never)} requests are booked at the most they can have cost"
            )
        now = self._context.world.now()
        status = LedgerStatus.UNSETTLED if unread else LedgerStatus.VOID
        costs = {entry: amount if unread else ZERO for entry, amount in never.items()}
        self._context.journal.settled(
            [Outcome(entry, status, cost, now, final=False) for entry, cost in costs.items()]
        )
        for entry, amount in never.items():
            self._context.budget.settle(amount, costs[entry], certain=not unread)

    def _rows(self, uploaded: Path) -> Iterator[int]:
        with uploaded.open("rb") as file:
            for line in file:
                row = row_of(self._wire.custom_id(line))
                if row is not None:
                    yield row

    # --- after ---

    def settle(
        self,
        part: BatchPart,
        results: Iterable[Path],
        remote: Remote,
        put: Callable[[list[Said]], None],
        requests: Iterable[Request] = (),
    ) -> set[int]:
        """Book every result, in whatever order it stands, and then what has none, one request at a time. Rows that are
        worth sending again: the wire leaves out from now on what was refused in them (see `requests`)."""
        torn, answers = False, 0
        endpoint = next((held.intent.endpoint for held in part.held.values()), "")
        refused: dict[str, list[tuple[PendingRequest, Reply]]] = {}
        lot: list[tuple[PendingRequest, Reply]] = []
        for line in _lines(results):
            custom_id = self._wire.custom_id(line)
            if custom_id is None:
                torn = True
                continue
            row = row_of(custom_id)
            held = None if row is None else part.held.pop(row, None)
            if held is None:
                continue
            reply = self._records.believed(self._wire.read(line), held.prompt_bytes, held.max_tokens)
            answers += reply.kind is None
            if reply.parameter is None:
                lot.append((held, reply))
            else:
                refused.setdefault(reply.parameter, []).append((held, reply))
            if len(lot) >= LOT:
                put(self._book(lot))
                lot = []
        put(self._book(lot))
        again = self._refused(refused, put, requests) if refused else set[int]()
        self._count_undone(endpoint, remote, answers)
        self.end(part, _without_result(remote, torn=torn), put)
        return again

    def _count_undone(self, endpoint: str, remote: Remote, answers: int) -> None:
        """Count a batch that gave nothing, and say so where it is one too many."""
        if answers or not (remote.cut_short or remote.emptied):
            self._undone = 0
            return
        self._undone += 1
        if self._undone == UNDONE_MOST:
            words = f"{UNDONE_MOST} batches in a row ended without one answer; it is sent no more"
            self._context.say(f"endpoint {endpoint}: {words}")

    def _refused(
        self,
        refused: Mapping[str, list[tuple[PendingRequest, Reply]]],
        put: Callable[[list[Said]], None],
        requests: Iterable[Request],
    ) -> set[int]:
        """Book what was refused for a parameter; the rows that would be sent without it now."""
        again: set[int] = set()
        for parameter, lot in refused.items():
            row = lot[0][0].intent.row
            sample = next((request for request in requests if request.row == row), None)
            if sample is None or not self._wire.adapt(parameter, sample):
                put(self._book(lot))
                continue
            self._context.journal.settled([self._judged(*refusal, final=False)[1] for refusal in lot])
            for held, _ in lot:
                self._context.budget.settle(held.intent.reserved_usd, ZERO)
                again.add(held.intent.row or 0)
        return again

    def end(self, part: BatchPart, reply: Reply, put: Callable[[list[Said]], None]) -> None:
        """Book one reply for every request that is still held."""
        for lot in _lots(part.held.values()):
            put(self._book([(held, reply) for held in lot]))
        part.held.clear()

    def release(self, part: BatchPart, why: str) -> None:
        """The batch was never run and its requests go into others: each has another attempt ahead."""
        reply = not_sent(FailureKind.RATE_LIMITED, why)
        for lot in _lots(part.held.values()):
            outcomes = [self._judged(held, reply, final=False)[1] for held in lot]
            self._context.journal.settled(outcomes)
            for held in lot:
                self._context.budget.settle(held.intent.reserved_usd, ZERO)

    def _book(self, lot: list[tuple[PendingRequest, Reply]]) -> list[Said]:
        if not lot:
            return []
        judged = [self._judged(held, reply) for held, reply in lot]
        self._context.journal.settled([outcome for _, outcome in judged])
        for (held, _), (_, outcome) in zip(lot, judged, strict=True):
            self._context.budget.settle(held.intent.reserved_usd, outcome.cost_usd, certain=outcome.certain)
            # what a lowered cap had no room for is reserved at nothing, and that is no fault of the provider's
            at_ours = outcome.certain or outcome.service_tier in (None, self._records.tier)
            if at_ours and 0 < held.intent.reserved_usd < outcome.cost_usd:
                self._overran(held.intent, outcome)
        return [answer for answer, _ in judged]

    def _overran(self, intent: Intent, outcome: Outcome) -> None:
        if not self.overrun:
            self._context.say(overrun_words(intent, outcome))
        self.overrun = True

    def _judged(self, held: PendingRequest, reply: Reply, *, final: bool = True) -> tuple[Said, Outcome]:
        """What a reply is to its request. A batch makes no second attempt: that would be another night's wait."""
        intent = held.intent
        row, request_id = intent.row or 0, intent.request_id or ""
        answer: Said
        note = None
        if reply.kind is None:
            text, valid, note = judged(held.schema, reply.text)
            answer = Answer(
                row,
                request_id,
                text,
                reply.finish_reason,
                reply.reasoning,
                valid,
                reply.logprobs,
            )
        else:
            answer = Failure(row, request_id, reply.kind, reply.message)
        return answer, self._records.outcome(intent, reply, answer, final, note)


def _without_result(remote: Remote, *, torn: bool) -> Reply:
    """What a request without a result line has come to."""
    if remote.emptied:
        words = f"batch {remote.id} is {remote.status.lower()} and kept nothing; it is booked at the most it can have cost"
        return lost(FailureKind.EXPIRED, words)
    if remote.cut_short and not torn:
        return not_sent(FailureKind.EXPIRED, f"batch {remote.id} ended before this request was run")
    return lost(FailureKind.BROKEN_REPLY, f"batch {remote.id} has no readable result for this request")


def _lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES):
                if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    line = b"{}"  # longer than any result: it stands for one that cannot be read
                    while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                        continue
                if line.strip():
                    yield line


def _lots(held: Iterable[PendingRequest]) -> Iterator[list[PendingRequest]]:
    everything = list(held)
    for start in range(0, len(everything), LOT):
        yield everything[start : start + LOT]


def leave(work: Submission, source: RequestFeed, kind: FailureKind) -> None:
    """Say of what is left in the source that it is not sent."""
    feed = iter(source)
    while lot := list[Said](unsent(request, kind) for request in islice(feed, 1000)):
        work.put_lot(lot)
