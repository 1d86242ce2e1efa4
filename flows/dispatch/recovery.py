"""Batches that an earlier process left at a provider: their shards, taken up under the names they had.

A batch goes on when its process dies. Its shard's journal is then left open (`recover(..., adopt=…)`), and the shard is
submitted again with the same id and key: the engine finds what the provider has of it and sends only what it has not.
What those attempts can cost is set aside before anything else may spend it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import numpy as np

from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.work import ShardWork, rows_file
from thirdshift.flows.errors import UserError
from thirdshift.router.interfaces import Budget, EngineContext
from thirdshift.router.values import Endpoint, Mode, Purpose
from thirdshift.warehouse.journal.journal import FileJournal, attempts, open_journals, pending
from thirdshift.world import World


class NotAdopted(UserError):
    """What a provider has of a batch could not be learnt; nothing was sent again."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Orphans:
    """Batch shards that a dead process of a run left at its providers."""

    shards: tuple[ShardWork, ...] = ()
    committed: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    """Shard to entry to what it can cost: as `values.EngineContext.committed`."""

    @property
    def shard_ids(self) -> list[str]:
        return [shard.shard_id for shard in self.shards]

    def cancel_and_book(
        self,
        run_id: str,
        folder: Path,
        endpoints: Sequence[Endpoint],
        say: Callable[[str], None],
        world: World,
    ) -> None:
        """Cancel what an abandoned run has at its providers, wait for the end, and book what was billed.

        What cannot be learnt stays booked at what it can have cost at most.
        """
        by_name = {endpoint.name: endpoint for endpoint in endpoints}
        budget = RunBudget(None)
        with FileJournal(folder, world) as journal:
            committed = self.set_aside(budget)
            engine_context = EngineContext(journal, budget, world.now(), committed, folder, world=world)
            with Dispatcher(run_id, folder, by_name, engine_context, journal) as dispatcher:
                for shard in self.shards:
                    say(
                        f"cancelling what {shard.endpoint} has of shard {shard.shard_id}, and waiting for the end"
                    )
                    dispatcher.ensure_engines([shard])
                    try:
                        dispatcher.answer(shard.shard_id)
                    except Exception as error:  # noqa: BLE001 - whatever keeps us from asking, the worst case is booked
                        say(
                            f"what became of it cannot be learnt ({error}); it is booked at the most it can cost"
                        )

    @property
    def committed_usd(self) -> Decimal:
        """What they can cost yet, at most."""
        return sum((usd for entries in self.committed.values() for usd in entries.values()), Decimal(0))

    def set_aside(self, budget: Budget) -> dict[str, dict[str, Decimal]]:
        """Reserve what may be billed yet; what a lowered cap has no room for is committed at nothing, and is booked
        all the same once it is billed."""
        return {
            shard: {entry: usd if budget.reserve(usd) else Decimal(0) for entry, usd in entries.items()}
            for shard, entries in self.committed.items()
        }


NO_ORPHANS = Orphans()


def find_orphans(folder: Path, endpoints: Sequence[Endpoint]) -> Orphans:
    """Look at a dead process's journals, before they are sealed. Raises JournalError where one is damaged."""
    return orphans_at(folder, {endpoint.name for endpoint in endpoints if endpoint.mode is Mode.BATCH})


def orphans_at(folder: Path, tiers: Collection[str]) -> Orphans:
    """Look for what a dead process left at these batch tiers. Raises JournalError where a journal is damaged."""
    orphans = Orphans()
    for shard_id in open_journals(folder):
        _, purpose, endpoint = [*shard_id.split("-", 2), "", ""][:3]
        if endpoint in tiers and rows_file(folder, shard_id).exists() and pending(folder, shard_id):
            orphans = _with(orphans, folder, shard_id, endpoint, Purpose(purpose))
    return orphans


def _with(orphans: Orphans, folder: Path, shard_id: str, endpoint: str, purpose: Purpose) -> Orphans:
    made = attempts(folder, shard_id)
    done = [intent.row for intent, outcome in made if outcome is not None and outcome.final]
    rows = np.load(rows_file(folder, shard_id))
    begun = min(intent.started_at for intent, _ in made).astimezone(UTC)
    left = np.setdiff1d(rows, np.array(done, np.int64))
    # what is sent again is an attempt of its own: one that was booked under the same number would be taken for it
    number = 1 + max(intent.attempt for intent, _ in made)
    work = ShardWork(shard_id, endpoint, purpose, rows, begun, left, first_attempt=number)
    return replace(
        orphans,
        shards=(*orphans.shards, work),
        committed=orphans.committed
        | {shard_id: {intent.entry_id: intent.reserved_usd for intent, outcome in made if outcome is None}},
    )


def never_twice(work: ShardWork, fault: str, folder: Path, mode: Mode) -> None:
    """A batch that broke off is still the provider's: its requests go nowhere else. Raises NotAdopted."""
    if work.left is not None or (mode is Mode.BATCH and pending(folder, work.shard_id)):
        raise NotAdopted(
            f"shard {work.shard_id} is with {work.endpoint}, and what became of it cannot be learnt: {fault}; nothing "
            "was sent again. Resume when the provider answers"
        )
