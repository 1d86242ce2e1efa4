"""One simulated night: lives of a process, each killed but the last, over one provider that keeps its own books.

A life is the product's own code from what a dead process left (`find_orphans`, `recover`) over the dispatcher, its engines,
journal and budget to the last shard; what is sent next is decided by the stage `serve` and its `Assignment`. The plan is
drawn; prediction, scores and the DuckDB file are outside.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.simulated.books import Entry, RunBooks, replies
from tests.support.simulated.draw import KEY, Death, DrawnNight
from tests.support.simulated.loop import Stuck, VirtualLoop
from tests.support.simulated.provider import SimulatedProvider
from tests.support.simulated.world import EPOCH, Disk, Killed, SimulatedWorld
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator.answer_key import AnswerKey, write_known
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.harvest import Harvest, Successor
from thirdshift.flows.dispatch.recovery import NotAdopted, Orphans, find_orphans, never_twice
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.plan import keep_earlier
from thirdshift.flows.execution.serving import record_replies, serve
from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.planner import RequestColumns
from thirdshift.flows.planning.run_queries import FinalReplies
from thirdshift.router.expiry import keeps_on_cancel
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.values import FailureKind, LedgerStatus, Mode, Purpose
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.journal.journal import FileJournal, recover

RUN_ID = "night"
LONGEST_SECONDS = 20 * 86_400.0
"""Every night ends within so much virtual time."""
MOST_TURNS = 400_000
"""And within so many turns of the loop."""
MOST_ROUNDS = 60
"""And within so many rounds of sending."""
MOST_LIVES = 12
AGAIN = Death(0, of_machine=False, away_seconds=6 * 3600.0)
"""How long somebody waits who is told to resume when the provider answers."""


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
    seconds: float = 0.0


@dataclass(slots=True)
class NightStory:
    """What a night came to, for the laws to judge."""

    drawn: DrawnNight
    lives: list[LifeStory] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    """After the last life."""
    after_deaths: list[tuple[list[Entry], Decimal]] = field(default_factory=list)
    """After each life: the entries as found, and what the provider had billed."""
    billed: list[dict[str, Any]] = field(default_factory=list)
    """The provider's books at the end."""
    forgotten: list[tuple[Entry, float]] = field(default_factory=list)
    """Entries that were lost with a machine, and how old they were, seconds."""
    log: list[str] = field(default_factory=list)
    turns: int = 0
    fault: str | None = None
    """What was raised that no law foresees."""


class SimulatedNight:
    """Everything that outlives a life."""

    def __init__(self, drawn: DrawnNight, place: Path, say: Callable[[str], None] | None = None) -> None:
        self.drawn, self.place = drawn, place
        self.rng = Random(f"chance {drawn.seed}")
        os.environ[KEY] = "any"
        random.seed(drawn.seed)  # stamina draws its waits from Python's own generator
        self.loop = VirtualLoop(self.rng, LONGEST_SECONDS)
        self.story, self.books = NightStory(drawn), RunBooks()
        self._say = say
        at_provider = place / "provider"
        at_provider.mkdir(parents=True)
        self.provider = SimulatedProvider(
            list(drawn.models),
            drawn.habits,
            at_provider,
            SimulatedWorld(
                self.loop, self.rng, Disk(at_provider), lambda _: None, steps=None, die=lambda: None
            ),
            self.loop,
            self.rng,
            drawn.net,
            nothing_known(),
        )
        self.deadline = None if drawn.deadline_seconds is None else _instant(drawn.deadline_seconds)
        self.folder = place / "life-0" / RUN_ID
        self.folder.mkdir(parents=True)

    def play(self) -> NightStory:
        """All lives, one after the other."""
        try:
            asyncio.set_event_loop(self.loop)
            deaths = iter(self.drawn.deaths)
            while not (self.story.lives and self.story.lives[-1].ended):
                if len(self.story.lives) > MOST_LIVES:
                    raise Stuck(f"resumed {MOST_LIVES} times, and not at its end")
                self._life(len(self.story.lives), next(deaths, None))
            self.story.entries = self.books.everything(self.folder)
            self.story.billed = list(self.provider.books())
        except Exception as error:
            self.story.fault = f"{type(error).__name__}: {error}"
            if self._say is not None:
                raise
        finally:
            self.story.turns = self.loop.turns
            self._bury()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            with suppress(Stuck):
                self.loop.play_until(lambda: not asyncio.all_tasks(self.loop))
            self.provider.close()
            asyncio.set_event_loop(None)
            self.loop.close()
        return self.story

    def say(self, words: str, style: str | None = None) -> None:
        line = f"{self.loop.now:12.3f}  {words}"
        self.story.log.append(line)
        if self._say is not None:
            self._say(line)

    def _life(self, number: int, death: Death | None) -> None:
        place = self.place / f"life-{number + 1}" / RUN_ID
        disk = Disk(self.folder)

        def die() -> None:
            place.parent.mkdir()
            disk.after_death(place, self.rng, of_machine=death is not None and death.of_machine)
            self._forget(place)

        world = SimulatedWorld(
            self.loop,
            self.rng,
            disk,
            self.provider.session,
            steps=None if death is None else death.steps,
            die=die,
            skew=self._skew,
        )
        begun = self.loop.now
        self.say(f"life {number} begins")
        try:
            life = Life(self, world).live()
        except NotAdopted as error:  # the program ends, and says when to resume
            self.say(f"life {number}: {error}")
            life, death = LifeStory(ended=False), AGAIN
            die()
        except BaseException:
            if not world.dead:
                raise
            life = LifeStory(ended=False)
        life.seconds = self.loop.now - begun
        self.story.lives.append(life)
        if not life.ended and death is not None:
            self._bury()
            self.say(f"life {number} is killed{', its machine too' if death.of_machine else ''}")
            shutil.rmtree(self.folder)  # whatever the dead wrote on their way out
            self.folder = place
            self.loop.pass_time(death.away_seconds)
            totals = self.provider.provider.billing.totals.values()
            billed = sum((total.cost_usd for total in totals), Decimal(0))
            self.story.after_deaths.append((self.books.everything(self.folder), billed))
        else:
            self.say(f"life {number} ends: {life}")

    def _forget(self, place: Path) -> None:
        """Note what the next process does not find of what this one had written."""
        left = {entry.entry_id for entry in self.books.everything(place)}
        for entry in self.books.everything(self.folder):
            if entry.entry_id not in left:
                age = EPOCH + self.loop.now - entry.started_at.timestamp()
                self.story.forgotten.append((entry, age))

    def _bury(self) -> None:
        """End the tasks of a dead process; the provider's go on."""
        self.loop.at_turn = lambda: None
        mine = self.provider.tasks | self.provider.batches.tasks
        dead = [task for task in asyncio.all_tasks(self.loop) if task not in mine]
        for task in dead:
            task.cancel()
        while not all(task.done() for task in dead):
            with suppress(Killed):
                self.loop.play_until(lambda: all(task.done() for task in dead))
        for task in dead:
            if not task.cancelled():
                task.exception()

    def _skew(self) -> float:
        """How wrong the machine's clock is now."""
        return next((by for at, by in reversed(self.drawn.jumps) if at <= self.loop.now), 0.0)


class Life:
    """One process on the run, from what the last one left."""

    def __init__(self, night: SimulatedNight, world: SimulatedWorld) -> None:
        self.night, self.world, self.drawn, self.folder = night, world, night.drawn, night.folder
        self.endpoints, self.endpoint_names = (
            night.drawn.endpoints,
            [end.name for end in night.drawn.endpoints],
        )
        self.broken_shards: list[ShardWork] = []
        self.console = SimpleNamespace(say=night.say)
        self.queries = SimpleNamespace(replies=self._replies)
        self.context = SimpleNamespace(
            world=world,
            folder=self.folder,
            endpoints=self.endpoints,
            terms=self._terms,
            scorer=None,
            learns=False,
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
                RUN_ID, self.folder, by_name, lent, journal, harvest=self._harvest()
            ) as dispatcher:
                self.dispatcher = dispatcher
                return self._serve()

    def _serve(self) -> LifeStory:
        planned = self._planned()
        rounds = 0
        while shards := serve(planned):
            rounds += 1
            if rounds > MOST_ROUNDS:
                raise Stuck(f"still sending after {rounds} rounds: {[shard.shard_id for shard in shards]}")
            self._send(shards)
        record_replies(planned)
        left = planned.assignment.answerable(planned.prepared.columns.allowed)
        served = int((planned.assignment.served >= 0).sum())
        return LifeStory(True, frozenset(self.dispatcher.stopped), served, int(left.sum()))

    def _send(self, shards: Sequence[ShardWork]) -> None:
        """As `execution/sending.py` does, on one thread: all are begun, and landed as they end."""
        self.dispatcher.ensure_engines(shards)
        under_way = [(shard, *self.dispatcher.submit(shard)) for shard in shards]
        while under_way:
            self.night.loop.play_until(
                lambda: any(engine.progress(ticket).finished for _, engine, ticket in under_way)
            )
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

    def orphans_of(self, _: object) -> list[ShardWork]:
        return self._filled(self._orphans.shards)

    def take_orphans(self, _: object) -> list[ShardWork]:
        taken, self._orphans = self._orphans, Orphans()
        return self._filled(taken.shards)

    def enter_shards(self, shards: Sequence[ShardWork]) -> None:
        """The warehouse's file is outside of the simulation."""

    def _filled(self, shards: Sequence[ShardWork]) -> list[ShardWork]:
        """The shards with their requests, which otherwise the frozen input holds."""
        every = self.drawn.requests
        return [
            replace(shard, requests=[every[row] for row in shard.unanswered.tolist()]) for shard in shards
        ]

    def _replies(self) -> FinalReplies:
        return replies(self.night.books.sealed(self.folder), self.endpoints)

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
            allowed=np.ones((count, width), bool),
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
            np.tile([float(end.price.base.output) for end in self.endpoints], (count, 1)),
            np.full((count, width), 0.8, np.float32),
            np.full(count, 60.0),
            np.full((count, width), 20.0),
        )

    def _assignment(self, columns: RequestColumns) -> Assignment:
        target = np.array(self.drawn.plan, np.int32)
        assignment = Assignment(target, np.zeros(len(target)), np.full(len(self.endpoints), -1, np.int32))
        run: Any = self
        keep_earlier(run, columns, assignment)
        return assignment


def _costs(entries: Sequence[Entry], status: LedgerStatus) -> Decimal:
    return sum((entry.cost_usd for entry in entries if entry.status is status), Decimal(0))


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(EPOCH + seconds, UTC)


@cache
def nothing_known() -> AnswerKey:
    """No right answer is known beforehand: the emulator invents them."""
    with NamedTemporaryFile() as file:
        write_known(Path(file.name), ())
        return AnswerKey(Path(file.name))
