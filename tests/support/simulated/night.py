"""One simulated night: lives of a process, each killed but the last, over one provider that keeps its own books."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from typing import Any
from unittest.mock import patch

import stamina._core

from tests.support.simulated.books import Entry, RunBooks
from tests.support.simulated.draw import KEY, Death, DrawnNight
from tests.support.simulated.life import RUN_ID, Life, LifeStory
from tests.support.simulated.loop import Stuck, VirtualLoop, nothing
from tests.support.simulated.provider import SimulatedProvider
from tests.support.simulated.world import EPOCH, Disk, Killed, SimulatedWorld
from thirdshift.engines.emulator.answer_key import AnswerKey, write_known
from thirdshift.flows.dispatch.recovery import NotAdopted

LONGEST_SECONDS = 20 * 86_400.0
"""Every night ends within so much virtual time."""
MOST_LIVES = 12
AGAIN = Death(0, of_machine=False, away_seconds=6 * 3600.0)
"""How long somebody waits who is told to resume when the provider answers."""


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
    unlearnt_usd: Decimal = Decimal(0)
    """What attempts may have cost at most, beyond what was known of them: their outcomes were lost with a machine."""
    lost_by_process: int = 0
    """Entries that were lost where only a process died."""
    repeated: int = 0
    """Entries that stand in several parts."""
    subjects: dict[str, int] = field(default_factory=dict)
    """By a shard that asks for scores, the position of the endpoint whose answers it is about: the warehouse has that
    written down."""
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
        # stamina draws its waits from Python's own generator, from which any thread of this process may draw
        with patch.object(stamina._core, "random", Random(self.drawn.seed)):
            return self._play()

    def _play(self) -> NightStory:
        try:
            asyncio.set_event_loop(self.loop)
            deaths = iter(self.drawn.deaths)
            while not (self.story.lives and self.story.lives[-1].ended):
                if len(self.story.lives) > MOST_LIVES:
                    raise Stuck(f"resumed {MOST_LIVES} times, and not at its end")
                self._life(len(self.story.lives), next(deaths, None))
            self.story.entries = self.books.everything(self.folder)
            self.story.repeated = self.books.repeated(self.folder)
            self.story.billed = list(self.provider.books())
        except Exception as error:
            self.story.fault = f"{type(error).__name__}: {error}"
            if self._say is not None:
                raise
        finally:
            self.story.turns, self.loop.bounded = self.loop.turns, False
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
            self._forget(place, of_machine=death is not None and death.of_machine)

        world = SimulatedWorld(
            self.loop,
            self.rng,
            disk,
            self.provider.session,
            steps=None if death is None else death.steps,
            at_disk=death is not None and death.at_disk,
            at_scoring=death is not None and death.at_scoring,
            die=die,
            skew=self._skew if self.drawn.jumps else lambda: 0.0,
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

    def _forget(self, place: Path, *, of_machine: bool) -> None:
        """Note what the next process does not find of what this one had written."""
        left = {entry.entry_id: entry for entry in self.books.everything(place)}
        for entry in self.books.everything(self.folder):
            if entry.entry_id in left:
                if of_machine:
                    self.story.unlearnt_usd += left[entry.entry_id].cost_usd - entry.cost_usd
            elif not of_machine:
                self.story.lost_by_process += 1
            else:
                age = EPOCH + self.loop.now - entry.started_at
                self.story.forgotten.append((entry, age))

    def _bury(self) -> None:
        """End the tasks of a dead process; the provider's go on."""
        self.loop.at_turn = nothing
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


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(EPOCH + seconds, UTC)


@cache
def nothing_known() -> AnswerKey:
    """No right answer is known beforehand: the emulator invents them."""
    with NamedTemporaryFile() as file:
        write_known(Path(file.name), ())
        return AnswerKey(Path(file.name))
