"""What lives as long as one run, and how its shards are sent and landed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.console import PLAIN_SECONDS, RunConsole, spent
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.recovery import NO_ORPHANS, Orphans, find_orphans, never_twice
from thirdshift.flows.dispatch.rows import save_shard, silence
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.approval import ApprovalLimit
from thirdshift.flows.execution.notices import Notifier
from thirdshift.flows.execution.slots import Slots
from thirdshift.flows.planning.measured.run_queries import RunQueries
from thirdshift.flows.quality import finishing, publishing
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.folder import OWNERS_ALONE, masked
from thirdshift.flows.runs.summary import RunSummary
from thirdshift.flows.telemetry.telemetry import Telemetry
from thirdshift.router.values import FailureKind, Mode, Purpose, usd
from thirdshift.warehouse.errors import WarehouseError, WarehouseInUse
from thirdshift.warehouse.exchange.compaction import compact
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.journal.parts import of_shard
from thirdshift.warehouse.store import ledger, runs
from thirdshift.warehouse.store.ingest import enter_under_way, ingest_parts, missing_parts
from thirdshift.warehouse.store.store import Warehouse

SCORE_SECONDS = 5.0
"""How often what has landed is scored while more is under way."""
SCORE_SHARE = 0.05
"""No more of a night goes into that: what is to be scored is looked for among all that was answered."""
LAND_SECONDS = 5.0
"""How long a part waits for the warehouse before more is sent; it is on disk, and the next one takes it along."""


class Run:
    """What lives as long as one run. `thirdshift.flows.execution.opening.open_run` makes it.

    The stages are functions over it and the values that earlier stages return; their order is `run_stages`.
    """

    def __init__(
        self,
        context: RunContext,
        budget: RunBudget,
        journal: FileJournal,
        console: RunConsole,
        dispatcher: Dispatcher,
        slots: Slots,
        approval: ApprovalLimit,
        notifier: Notifier,
        telemetry: Telemetry,
        *,
        orphans: Orphans = NO_ORPHANS,
        finished: RunSummary | None = None,
        users_mask: int = OWNERS_ALONE,
    ) -> None:
        """`orphans`: shards of an earlier process that a batch tier still has. `finished`: the summary, where the run
        was over before. `users_mask`: the process's file mode mask, for what is published.
        """
        self.context, self.budget, self.journal, self.console = context, budget, journal, console
        self.dispatcher, self.slots, self.approval = dispatcher, slots, approval
        self.notifier, self.telemetry = notifier, telemetry
        self.finished = finished
        self.endpoint_names = [endpoint.name for endpoint in context.endpoints]
        batches = [endpoint.name for endpoint in context.endpoints if endpoint.mode is Mode.BATCH]
        self.queries = RunQueries(context.warehouse, context.run_id, self.endpoint_names, batches)
        self.broken_shards: list[ShardWork] = []
        """Shards that failed as a whole."""
        self._orphans = list(orphans.shards)
        self._users_mask = users_mask
        self._score_at = context.world.monotonic() + SCORE_SECONDS
        self._to_land: list[tuple[ShardWork, str | None]] = []
        """Finished shards whose parts are not in the warehouse yet, each with why it broke."""
        self._said: set[str] = set()

    def warehouse(self) -> AbstractContextManager[Warehouse]:
        """Open the warehouse; the console says so where another process has it."""
        return Warehouse.open(self.context.warehouse, say=self.console.say)

    def approve(self, cost_usd: float, what: str, pilot_usd: float = 0.0) -> None:
        """Stop the run where `what`, at `cost_usd`, is above `budget.approve_above_usd` and nobody approves of it.

        `pilot_usd`: what a pilot ahead costs besides, at most.
        """
        if self.dispatcher.stopped:
            return
        refusal = self.approval.refusal(usd(cost_usd), self.budget.figures, what, usd(pilot_usd))
        if refusal is not None:
            self.dispatcher.stopped[FailureKind.BUDGET] += 1
            self.console.say(refusal, "yellow")

    def create_shards(
        self, purpose: Purpose, rows_by_endpoint: Sequence[tuple[str, NDArray[np.int64]]]
    ) -> list[ShardWork]:
        """Name a shard for each (endpoint, rows), write it down and enter it in the warehouse."""
        shards = self.dispatcher.create_shards(purpose, rows_by_endpoint)
        self.enter_shards(shards)
        return shards

    def enter_shards(self, shards: Sequence[ShardWork]) -> None:
        """Enter shards in the warehouse as running."""
        with self.warehouse() as warehouse:
            for shard in shards:
                save_shard(warehouse, self.context.run_id, shard, "running")

    def orphans_of(self, purposes: Collection[Purpose]) -> list[ShardWork]:
        """The shards that a batch tier still has and nobody waits for yet."""
        return [shard for shard in self._orphans if shard.purpose in purposes]

    def take_orphans(self, purposes: Collection[Purpose]) -> list[ShardWork]:
        """Return `orphans_of`, each of them once in the life of the run."""
        taken = self.orphans_of(purposes)
        self._orphans = [shard for shard in self._orphans if shard.purpose not in purposes]
        return taken

    @contextmanager
    def sending(self, shards: Sequence[ShardWork]) -> Iterator[None]:
        """Engines ready and progress on screen while shards are under way."""
        self.dispatcher.ensure_engines(shards)
        progress = self.dispatcher.progress_counts(shards, self._bill)
        with self.console.working(shards[0].purpose.value, progress) as bar:
            self.dispatcher.show(progress, bar.show)
            # while nothing is answered, nobody else calls it
            stop = self.context.world.repeat("progress", PLAIN_SECONDS, bar.show)
            try:
                yield
            finally:
                stop()
        with self.warehouse() as warehouse:
            self._take_in(warehouse)
            self.score_new(warehouse)

    def _bill(self) -> str:
        """Say what is spent at this moment."""
        bill = self.budget.figures
        return spent(bill.settled_usd, bill.unsettled_usd, bill.in_flight_usd)

    def land(self, shard: ShardWork, failed: str | None, *, more: bool = False) -> None:
        """Take a finished shard's part into the warehouse; while another program has that, later.

        `failed`: why the shard broke, which the console says; what it did not answer then counts as failed. `more`: the
        next lands at once, and takes this one's part in too: opening and closing the warehouse is most of it.
        """
        context = self.context
        if failed is not None:
            self.console.say(f"shard {shard.shard_id} failed: {failed}", "red")
            never_twice(shard, failed, context.folder, self.dispatcher.endpoints[shard.endpoint].mode)
            self.dispatcher.give_up(shard)
            self.broken_shards.append(shard)
            self.journal.seal(shard.shard_id)  # what it was answered before it broke is paid for, and counts
        self._to_land.append((shard, failed))
        if more:
            return
        with (
            suppress(WarehouseInUse),
            Warehouse.open(context.warehouse, wait_seconds=LAND_SECONDS, say=self._say_once) as warehouse,
        ):
            self._take_in(warehouse)
            begun = context.world.monotonic()
            if begun > self._score_at:
                self.score_new(warehouse)
                ended = context.world.monotonic()
                self._score_at = ended + max(SCORE_SECONDS, (ended - begun) / SCORE_SHARE)

    def _take_in(self, warehouse: Warehouse) -> None:
        """Ingest the parts of the shards that have finished."""
        context = self.context
        while self._to_land:
            shard, failed = self._to_land[0]
            ingest_parts(warehouse, *of_shard(context.folder, shard.shard_id))
            save_shard(warehouse, context.run_id, shard, "failed" if failed else "done")
            if message := silence(warehouse, context.run_id, shard):
                self.console.say(message, "yellow")
            del self._to_land[0]

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.console.say(text)

    def keep(self, status: str, wait_seconds: float) -> None:
        """Enter `status` for a run that ends before its end, with what it was answered and what that cost so far.

        Raises WarehouseError where the warehouse is not to be had within `wait_seconds`: `resume` takes it in then.
        """
        context = self.context
        self.dispatcher.seal_live()
        with Warehouse.open(context.warehouse, wait_seconds=wait_seconds, say=self._say_once) as warehouse:
            ingest_parts(warehouse, *missing_parts(warehouse, context.run_id, context.folder))
            batches = find_orphans(context.folder, tuple(context.reached.values())).shard_ids
            enter_under_way(warehouse, context.run_id, context.folder, batches)
            cost = ledger.spending(warehouse, context.run_id)
            money = {"spent_usd": cost.settled_usd, "unsettled_usd": cost.unsettled_usd}
            runs.update(warehouse, context.run_id, status=status, **money)

    def score_new(self, warehouse: Warehouse) -> None:
        """Score what has landed, where every answer is scored."""
        context = self.context
        if context.scorer is not None and context.scores_all:
            finishing.score_new(warehouse, context.run_id, context.scorer, self.console.say)

    def publish(self, summary: RunSummary) -> None:
        """Publish the results where the job asks for it, once; also for a run that was killed between its end and this."""
        with masked(self._users_mask):  # what is published is for others to read
            publishing.copy_warehouse(self.context, self.console.say)
            publishing.publish_results(self.context, summary, self.console.say)

    def tidy(self) -> None:
        """Leave in the run's folder what later commands read, once it is done for good. Where that fails, it is said."""
        context = self.context
        try:
            with self.warehouse() as warehouse:
                if (runs.get(warehouse, context.run_id) or {}).get("status") == "done":
                    compact(warehouse, context.run_id, context.folder)
        except (WarehouseError, OSError) as error:
            self.console.say(f"{context.folder} is left as it is: {error}", "yellow")
