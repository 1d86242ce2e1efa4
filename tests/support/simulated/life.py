"""One life of a simulated night: the product's own code from what a dead process left (`find_orphans`, `recover`) over the
dispatcher, its engines, journal and budget to the last shard.

What is sent next is decided by the stage `serve` and its `Assignment`; the plan, and its votes, are drawn. Where scores are
free, answers that fail are sent on and the best that is held is served; prediction and the DuckDB file are outside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.support.simulated.books import Entry, answers, replies
from tests.support.simulated.judging import PaidScoring
from tests.support.simulated.loop import Stuck
from tests.support.simulated.scores import EXACT, observed, sent_on
from tests.support.simulated.world import EPOCH, SimulatedWorld
from thirdshift.engines.core.budget import RunBudget, SubBudget
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.harvest import Harvest, Successor
from thirdshift.flows.dispatch.recovery import Orphans, find_orphans, never_twice
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.plan import keep_earlier
from thirdshift.flows.execution.serving import record_replies, serve
from thirdshift.flows.planning.assignment import Assignment, shards_of
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.flows.quality.scoring import judges_limit
from thirdshift.router.expiry import keeps_on_cancel
from thirdshift.router.interfaces import Engine, EngineContext, Ticket
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import FailureKind, LedgerStatus, Mode, Purpose, Request
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.journal.journal import FileJournal, recover

if TYPE_CHECKING:
    from tests.support.simulated.night import SimulatedNight

RUN_ID = "night"
MOST_ROUNDS = 60
"""A life ends within so many rounds of sending."""

LOOK_TURNS = 16
"""Of the loop, until a thread sees that its shard is over."""


@dataclass(slots=True)
class LifeStory:
    """What one life came to."""

    ended: bool
    """It was not killed."""
    stopped: frozenset[FailureKind] = frozenset()
    """Why requests were left unsent."""
    served: int = 0
    """Requests with an answer."""
    open_rows: int = 0
    """Requests without one that somebody could still answer."""
    served_by: tuple[int, ...] = ()
    """By row, the position of the endpoint whose answer is its result; -1: it has none."""
    seconds: float = 0.0


class Life:
    """One process on the run, from what the last one left."""

    def __init__(self, night: SimulatedNight, world: SimulatedWorld) -> None:
        self.night, self.world, self.drawn, self.folder = night, world, night.drawn, night.folder
        self.endpoints, self.endpoint_names = (
            night.drawn.endpoints,
            [end.name for end in night.drawn.endpoints],
        )
        self.broken_shards: list[ShardWork] = []
        paid = self.drawn.paid_scores
        self._paid = None
        if paid is not None:
            may = np.array(self.drawn.allowed, bool)
            self._paid = PaidScoring(paid, self.endpoints, self.drawn.requests, may, night.story.subjects)
        self.console = SimpleNamespace(say=night.say)
        self.queries = SimpleNamespace(replies=self._replies, answers=self._answers)
        self.context = SimpleNamespace(
            world=world,
            folder=self.folder,
            endpoints=self.endpoints,
            terms=self._terms,
            scorer=EXACT if night.drawn.scored else None,
            learns=night.drawn.scored,
            cap_usd=night.drawn.cap_usd,
        )

    def live(self) -> LifeStory:
        """Open what there is, send what is missing, close."""
        self._orphans = find_orphans(self.folder, self.endpoints)
        recover(self.folder, self._orphans.shard_ids, self.world)
        entries = self.night.books.everything(self.folder)
        spent = _costs(entries, LedgerStatus.SETTLED)
        unsettled = _costs(entries, LedgerStatus.UNSETTLED) - self._orphans.committed_usd  # that is set aside
        self.budget = RunBudget(self.drawn.cap_usd, spent + unsettled, unsettled_usd=unsettled)
        with FileJournal(self.folder, self.world) as journal:
            self.journal = journal
            lent = EngineContext(
                journal,
                self.budget,
                self.night.deadline,
                self._orphans.set_aside(self.budget),
                self.folder,
                elsewhere=len(self.endpoints) > 1,
                say=self.night.say,
                world=self.world,
            )
            by_name = dict(zip(self.endpoint_names, self.endpoints, strict=True))
            with Dispatcher(
                RUN_ID,
                self.folder,
                by_name,
                lent,
                journal,
                judge_context=self._judge_context(lent, entries),
                harvest=self._harvest(),
            ) as dispatcher:
                self.dispatcher = dispatcher
                return self._serve()

    def _judge_context(self, lent: EngineContext, entries: Sequence[Entry]) -> EngineContext:
        """As the function of that name in `scoring.py` makes it."""
        paid = self.drawn.paid_scores
        if paid is None or paid.most_usd is None:
            return lent
        reserved = {entry_id for held in lent.committed.values() for entry_id in held}
        judged = (e for e in entries if e.purpose == Purpose.JUDGE and e.entry_id not in reserved)
        limit = judges_limit(paid.most_usd, _costs(judged), lent.committed)
        return replace(lent, budget=SubBudget(lent.budget, limit))

    def _serve(self) -> LifeStory:
        planned = self._planned()
        for stage in (serve, self._repair):
            rounds = 0
            while shards := stage(planned):
                rounds += 1
                if rounds > MOST_ROUNDS:
                    raise Stuck(
                        f"still sending after {rounds} rounds: {[shard.shard_id for shard in shards]}"
                    )
                self._send(shards)
        record_replies(planned)
        left = planned.assignment.answerable(planned.prepared.columns.allowed)
        served = planned.assignment.served
        count, open_rows = int((served >= 0).sum()), int(left.sum())
        return LifeStory(True, frozenset(self.dispatcher.stopped), count, open_rows, tuple(served.tolist()))

    def _repair(self, planned: Any) -> list[ShardWork]:
        """As the stage `repair` does where scores are free, but for whom it asks."""
        assignment, columns = planned.assignment, planned.prepared.columns
        if self.dispatcher.stopped or not self.drawn.scored:
            return []
        record_replies(planned)
        if asking := self._asked():
            return asking
        seen = self._seen()
        assignment.override_by_scores(seen)
        price = np.array([float(end.price.base.output) for end in self.endpoints])
        due = sent_on(assignment, seen, columns.allowed, price, self.world.time())
        if not len(due):
            return []
        cut = shards_of(due, columns, planned.market, self.endpoints)
        return self.create_shards(Purpose.REPAIR, cut)

    def _seen(self) -> Observations:
        """The scores that are known."""
        entries = self.night.books.sealed(self.folder)
        if self._paid is not None:
            return self._paid.scored(entries)
        return observed(entries, self.endpoints, self.drawn.requests)

    def _asked(self) -> list[ShardWork]:
        """Shards for the scores that somebody is paid for."""
        if self._paid is None:
            return []
        wanted, due = self._paid.wanted, self._paid.due(self.night.books.sealed(self.folder))
        if due:
            self.world.count_down()
        asked = self.endpoint_names[wanted.endpoint]
        shards = self.dispatcher.create_shards(wanted.purpose, [(asked, rows) for _, rows in due])
        self.night.story.subjects |= {
            shard.shard_id: subject for shard, (subject, _) in zip(shards, due, strict=True)
        }
        return self._filled(shards)

    def _send(self, shards: Sequence[ShardWork]) -> None:
        """As `execution/sending.py` does, on one thread: all are begun, and landed as they end."""
        self.dispatcher.ensure_engines(shards)
        under_way = [(shard, *self.dispatcher.submit(shard)) for shard in shards]
        while under_way:
            self.night.loop.play_until(partial(_one_is_over, under_way), every=LOOK_TURNS)
            for shard, engine, ticket in list(under_way):
                if engine.progress(ticket).finished:
                    under_way.remove((shard, engine, ticket))
                    self._land(shard)

    def _land(self, shard: ShardWork) -> None:
        try:
            self.dispatcher.answer(shard.shard_id)
        except WarehouseError:
            raise
        except Exception as error:  # noqa: BLE001 - as `sending.fault_of` has it
            self.night.say(f"shard {shard.shard_id} failed: {error}")
            never_twice(shard, str(error), self.folder, self.dispatcher.endpoints[shard.endpoint].mode)
            self.broken_shards.append(shard)
            self.journal.seal(shard.shard_id)

    # --- what `serve` and what it calls read of a run ---

    def create_shards(
        self, purpose: Purpose, rows_by_endpoint: Sequence[tuple[str, NDArray[np.int64]]]
    ) -> list[ShardWork]:
        return self._filled(self.dispatcher.create_shards(purpose, rows_by_endpoint))

    def orphans_of(self, purposes: Collection[Purpose]) -> list[ShardWork]:
        return self._filled([shard for shard in self._orphans.shards if shard.purpose in purposes])

    def take_orphans(self, _: object) -> list[ShardWork]:
        taken, self._orphans = self._orphans, Orphans()
        return self._filled(taken.shards)

    def enter_shards(self, shards: Sequence[ShardWork]) -> None:
        """The warehouse's file is outside of the simulation."""

    def _filled(self, shards: Sequence[ShardWork]) -> list[ShardWork]:
        """The shards with their requests, which otherwise the frozen input holds or a judge's questions are."""
        return [replace(shard, requests=self._requests(shard)) for shard in shards]

    def _requests(self, shard: ShardWork) -> list[Request]:
        rows = shard.unanswered
        if shard.purpose is Purpose.JUDGE and self._paid is not None:
            return self._paid.questions(shard.shard_id, rows, self.night.books.sealed(self.folder))
        return [self.drawn.requests[row] for row in rows.tolist()]

    def _replies(self) -> FinalReplies:
        return replies(self.night.books.sealed(self.folder), self.endpoints)

    def _answers(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], list[str]]:
        return answers(self.night.books.sealed(self.folder), self.endpoints, rows)

    def _terms(self) -> Terms:
        return Terms()

    def _harvest(self) -> Harvest | None:
        if not self.drawn.harvested or self.night.deadline is None:
            return None
        taker = next(end for end in self.endpoints if end.mode is Mode.REALTIME)
        rest = {
            end.name: Successor(taker.name, 5.0, keeps_on_cancel(end.tier))
            for end in self.endpoints
            if end.mode is Mode.BATCH
        }
        return Harvest(self.night.deadline, rest, self.world)

    def _planned(self) -> Any:
        """The drawn plan in the form that the stages hand on."""
        count, width = len(self.drawn.requests), len(self.endpoints)
        columns: Any = SimpleNamespace(
            rows=np.arange(count),
            tokens=(np.full(count, 60),),
            prefix=np.arange(count),
            allowed=np.array(self.drawn.allowed, bool),
            positions=lambda rows: np.searchsorted(np.arange(count), rows),
        )
        offered = [
            SimpleNamespace(endpoint=place, option=Option(end.name, end.name, end.provider))
            for place, end in enumerate(self.endpoints)
        ]
        market = SimpleNamespace(
            offered=offered,
            endpoint=np.arange(width, dtype=np.int32),
            output_tokens=np.full((count, width), 20.0),
            least_usd=lambda e: np.full(count, 20e-6 * float(self.endpoints[e].price.base.output)),
        )
        prepared = SimpleNamespace(run=self, audit=None, columns=columns)
        assignment, problem = self._assignment(columns), self._problem(offered)
        return SimpleNamespace(
            run=self,
            prepared=prepared,
            assignment=assignment,
            market=market,
            singles=problem,
        )

    def _problem(self, offered: Sequence[Any]) -> Problem:
        count, width = len(self.drawn.requests), len(offered)
        return Problem(
            tuple(offer.option for offer in offered),
            ("t",),
            np.zeros(count, np.int32),
            np.ones(count, np.int64),
            np.where(self.drawn.allowed, [float(end.price.base.output) for end in self.endpoints], np.inf),
            np.full((count, width), 0.8, np.float32),
            np.full(count, 60.0),
            np.full((count, width), 20.0),
        )

    def _assignment(self, columns: RequestColumns) -> Assignment:
        drawn, later = self.drawn, bool(self.night.story.lives)
        target = np.array(drawn.later_plan if later else drawn.plan, np.int32)
        opens = np.array([EPOCH + at if at else 0.0 for at in drawn.opens])[target]
        assignment = Assignment(target, opens, np.full(len(self.endpoints), -1, np.int32))
        for row, vote in enumerate(drawn.later_votes if later else drawn.votes):
            assignment.vote[row] = -1 if vote is None else vote
        run: Any = self
        keep_earlier(run, columns, assignment)
        return assignment


def _one_is_over(under_way: Sequence[tuple[ShardWork, Engine, Ticket]]) -> bool:
    return any(engine.progress(ticket).finished for _, engine, ticket in under_way)


def _costs(entries: Iterable[Entry], *statuses: LedgerStatus) -> Decimal:
    """What they cost, of these statuses; of all where none is named."""
    return sum((entry.cost_usd for entry in entries if not statuses or entry.status in statuses), Decimal(0))
