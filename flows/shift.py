"""A shift: one night of one job. Its methods are the stations of `flows.road`, in its order.

Each station does what is missing: what is on disk or in the warehouse already is not done again, so a resumed run takes
the same road as a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.escrow import RunEscrow
from flows import earlier_nights, settle
from flows.adopting import NOTHING_LEFT, Left, never_twice
from flows.auditing import Audit
from flows.certifiable import audit_usd, doubts
from flows.consent import Consent
from flows.crew import Crew, Work
from flows.deciding import Columns, Decision, Market, best_possible, columns_of
from flows.errors import BrokeOff
from flows.judging import Asking, judgeable, judges_desk, kept_for_judging
from flows.kept_plan import keep_plan
from flows.knowledge import Knowledge
from flows.learning import Learner
from flows.paces import keep_rates, tonight
from flows.placing import Due, Placement, shards_of, told
from flows.prepare import Batch, check_shares, prepare, thawing
from flows.records import assignments, save_shard, silence, worker_rows
from flows.rehearsal import emulated
from flows.repairing import Repair
from flows.run_folder import OWNERS_ALONE, masked
from flows.screen import Screen
from flows.setting import Setting
from flows.tiers import twins
from flows.turns import Turns
from router.planning.solve import Compromise
from router.values import Desk, FailureKind, Purpose, usd
from warehouse.journal import FileJournal
from warehouse.parts import of_shard
from warehouse.store import Warehouse

SCORE_SECONDS = 5.0
"""How often what has landed is scored while more is under way."""


class Shift:
    """Everything one night holds. Made by `flows.opening.opened`."""

    def __init__(
        self,
        setting: Setting,
        escrow: RunEscrow,
        journal: FileJournal,
        screen: Screen,
        left: Left = NOTHING_LEFT,
    ) -> None:
        self.setting, self.escrow, self.journal, self.screen = setting, escrow, journal, screen
        self.over: dict[str, Any] | None = None
        """The summary, where the run was over before."""
        self.left = list(left.works)
        """Shards of an earlier process that a batch tier still has: to be taken up."""
        desk = Desk(journal, escrow, setting.deadline, left.set_aside(escrow), setting.folder)
        self.crew = Crew(setting.run_id, setting.folder, setting.reached, desk, journal)
        self.audit: Audit | None = None
        """Where scores cost money."""
        names = [endpoint.name for endpoint in setting.endpoints]
        self.knowledge = Knowledge(setting.warehouse, setting.run_id, names)
        self.twin = twins(setting.endpoints)
        self.batch: Batch
        self.columns: Columns
        self.learner: Learner
        self.market: Market
        self.decision: Decision
        self.placement: Placement
        self.repairs: Repair
        self.planned_usd = 0.0
        """What the plan takes from where it was made."""
        self.unapproved = False
        """Stopped because the plan is above what may be spent without being asked."""
        self.consent = Consent(setting)
        self.turns = Turns()
        self.warned = False
        """That it will be late."""
        self.users_mask = OWNERS_ALONE
        self.out_of_reach = False
        """The floor cannot be reached; what is run is the best plan there is."""
        self.held = ExitStack()
        """What lives as long as the shift."""
        self._broken: list[Work] = []
        self._scored = time.monotonic()

    # --- the stations -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Freeze the input, refuse what cannot be answered, make columns of the rest."""
        setting = self.setting
        with thawing(setting.folder):
            self.batch = prepare(
                setting.input,
                setting.folder,
                setting.endpoints,
                setting.policy,
                setting.policies,
                setting.needs,
            )
            setting.check_rejects(self.batch.intake)
            check_shares(self.batch, setting.endpoints, setting.allowed, setting.policy.max_vendor_share)
        if setting.scorer is not None and not setting.scores_all:
            self.batch = judgeable(setting, self.batch)
            self.audit = Audit(setting, self.batch)
        if setting.call.emulated:
            stand_in = emulated(tuple(setting.reached.values()), setting.folder, setting.call.outcomes)
            self.crew.endpoints = self.held.enter_context(stand_in)
        self.columns = columns_of(
            self.batch, setting.endpoints, setting.allowed, texts=setting.aim is not None
        )
        with Warehouse.open(setting.warehouse, say=self.screen.say) as warehouse:
            warehouse.save_requests(setting.run_id, setting.folder, setting.job.tags, setting.job.charge_by)
            warehouse.save_rejects(setting.run_id, setting.folder)
            warehouse.update_run(setting.run_id, input_fingerprint=self.batch.intake.fingerprint)
            warehouse.save_prices(setting.run_id, setting.prices)
            self.columns = earlier_nights.take_over(warehouse, setting, self.columns, self.screen.say)
            self.crew.judges_desk = judges_desk(warehouse, setting, self.crew.desk)
            self._score(warehouse)
        self.learner = Learner.of(setting, self.knowledge, self.columns, self.batch, self.screen.say)
        for each in (setting.refused, *doubts(setting, self.batch)):
            if each:
                self.screen.say(each, "yellow")
        rejects = f", {self.batch.intake.rejects:,} rejected" if self.batch.intake.rejects else ""
        self.screen.say(f"{setting.run_id}: {self.batch.rows:,} requests{rejects}")

    def pilot(self) -> list[Work]:
        """The next answers to look at, until looking at more would not pay."""
        setting = self.setting
        if adopted := self._adopted({Purpose.PILOT, Purpose.JUDGE}):
            return adopted
        if self.audit is not None and (works := self._to_score(self.audit.looks)):
            return works
        if not self.learner.rounds and setting.job.budget.approve_above_usd is not None:
            cheapest = np.where(self.columns.allowed, self.learner.market().by_endpoint(), np.inf).min(axis=1)
            self._approve(float(cheapest.sum()), "the cheapest plan there can be")
        while not self.crew.stopped and (found := self.learner.looks()) is not None:
            looks, cost = found
            placed = self.learner.not_held(looks.row, looks.endpoint)
            if not self._affordable(float(cost[looks.row, looks.endpoint].sum()), cost):
                break
            if placed:
                return self._works(Purpose.PILOT, placed)
        return []

    def _affordable(self, looks_usd: float, cost: NDArray[np.float64]) -> bool:
        """Whether the cap leaves, after a round of the pilot, what answering everything costs at least."""
        left = self.escrow.left_usd
        cheapest = float(np.where(self.columns.allowed, cost, np.inf).min(axis=1).sum())
        return left is None or looks_usd + cheapest <= left

    def plan(self) -> None:
        """Who answers what, from what is known now; said, and written down."""
        setting = self.setting
        if self.crew.stopped and not self.unapproved:
            self.crew.start_over()  # the cap stopped the pilot; a cheaper endpoint may still be paid for
        self.learner.paces = tonight(setting.paces, self.crew.engines)
        self.market = self.learner.market()
        promised = self.escrow.spent_usd + kept_for_judging(self.crew.judges_desk, self.escrow)
        self.decision = self.learner.decide(self.market, setting.terms(spent_usd=promised))
        plan, given_up = best_possible(self.decision, self.screen.say)
        self.out_of_reach = given_up is Compromise.FLOOR
        self.placement = Placement.of(
            plan,
            self.market,
            self.columns,
            twin=self.twin,
            ordered=given_up is Compromise.STOP,
            now=setting.clock(),
        )
        self.repairs = Repair(self.learner, self.placement, self.screen.say)
        names = [endpoint.name for endpoint in setting.endpoints]
        self.placement.keep(self.knowledge.held(), self.columns)
        for work in self.left:
            if work.purpose is Purpose.MAIN:
                still = work.unanswered[np.isin(work.unanswered, self.columns.rows)]
                self.placement.pin(self.columns.positions(still), names.index(work.endpoint))
        with Warehouse.open(setting.warehouse, say=self.screen.say) as warehouse:
            warehouse.save_assignments(
                assignments(setting.run_id, self.batch, self.columns, self.market, self.decision, plan, names)
            )
            audit = audit_usd(setting, self.batch, self.columns, self.market, plan.quality)
            self.planned_usd = plan.cost_usd + audit
            planned = self.escrow.spent_usd + usd(self.planned_usd)
            warehouse.update_run(setting.run_id, planned_usd=planned)
        keep_plan(setting.folder, plan, self.decision, float(self.escrow.spent_usd), setting.clock())
        self.screen.say(told(plan, self.placement, self.columns.weight, setting.endpoints))

    def approve(self) -> None:
        """Go no further with a plan that is above what may be spent without being asked."""
        self._approve(self.planned_usd, "the plan")

    def _approve(self, cost_usd: float, what: str) -> None:
        """Stop where what is planned is above `budget.approve_above_usd` and nobody approves of it."""
        refused = (
            None if self.crew.stopped else self.consent.refused(usd(cost_usd), self.escrow.spent_usd, what)
        )
        if refused is not None:
            self.unapproved = True
            self.crew.stopped[FailureKind.BUDGET] += 1
            self.screen.say(refused, "yellow")

    def serve(self) -> list[Work]:
        """What the plan still owes: unanswered requests, then those that failed, at other endpoints."""
        adopted = self._adopted(set(Purpose))
        if self.crew.stopped:
            return adopted
        self._learn()
        due = self.placement.due(self.decision.problem, self.market.endpoint, self.screen)
        self.placement.busy[:] = False  # when it is asked again, what was adopted has landed
        return adopted + self._shards(Purpose.MAIN, due)

    def _adopted(self, purposes: Collection[Purpose]) -> list[Work]:
        """Shards that are under way at a provider, to be waited for with the rest."""
        works = [work for work in self.left if work.purpose in purposes]
        self.left = [work for work in self.left if work.purpose not in purposes]
        if works:
            count = sum(len(work.unanswered) for work in works)
            self.screen.say(f"{count:,} requests are with a batch tier already: adopted, not sent again")
            works = works if self.audit is None else [self.audit.scoring.filled(work) for work in works]
            self._enter(works)
        return works

    def score(self) -> list[Work]:
        """What must be asked so that the answers drawn for the audit can be scored; none where all are scored."""
        if self.audit is None or self.crew.stopped:
            return []
        self._compose()
        return self._to_score(self.audit.drawn)

    def _to_score(self, due: Callable[[Warehouse], list[Asking]]) -> list[Work]:
        """Shards of a judge's, or of the anchor's, unless there is no money or time for more of them."""
        if self.audit is None or self.crew.stopped or self.crew.unscored:
            return []
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            asking = due(warehouse)
        works = []
        for each in asking:
            (work,) = self.crew.works(each.purpose, [(each.endpoint, each.rows)])
            works.append(self.audit.scoring.filled(replace(work, subject=each.subject)))
        self._enter(works)
        return works

    def repair(self) -> list[Work]:
        """Below the floor: what better endpoints mend best, until it is met or the cap or the deadline end it."""
        setting = self.setting
        if self.crew.stopped or setting.aim is None:
            return []
        self._learn()
        if self.audit is None:  # an answer chosen by its score is no sample of anything
            self.placement.prefer_scores(self.learner.observed())
        self._compose()
        with Warehouse.open(setting.warehouse, say=self.screen.say) as warehouse:
            shown = settle.quality_of(warehouse, setting).certificates
        spent = self.escrow.spent_usd
        found = self.repairs.due(shown, self.consent.within(setting.terms(spent_usd=spent), spent))
        works = [] if found is None else self._shards(*found)
        return works or self.score()

    def close(self) -> dict[str, Any]:
        """Results, certificate, publication, verdict. What was not sent has no result, all else exactly one."""
        setting = self.setting
        self.crew.close()
        self._land_rest()
        self._compose()
        if unplanned := set(self.crew.stopped) - settle.STOPS.keys():
            raise BrokeOff(
                f"run {setting.run_id} was stopped ({', '.join(sorted(unplanned))}); what was answered is kept: "
                f"thirdshift resume {setting.run_id}"
            )
        complete = not self.unapproved and not self.placement.owed(self.columns.allowed).any()
        with Warehouse.open(setting.warehouse, say=self.screen.say) as warehouse:
            summary = settle.finish(
                warehouse,
                setting,
                set() if complete else set(self.crew.stopped),
                out_of_reach=self.out_of_reach,
                unapproved=self.unapproved,
            )
        self.publish(summary)
        earlier_nights.forget(setting, self.screen.say)
        return summary

    def publish(self, summary: dict[str, Any]) -> None:
        """`output:`, once; also for a run that was killed between its end and this."""
        with masked(self.users_mask):  # what is published is for others to read
            settle.publish_results(self.setting, summary, self.screen.say)

    # --- sending ------------------------------------------------------------------------------------------------------

    @contextmanager
    def sending(self, works: Sequence[Work]) -> Iterator[None]:
        """Engines ready and progress on screen while shards are under way."""
        self.crew.man(works)
        tally = self.crew.tally_of(works, self.escrow.spent_usd)
        with self.screen.working(works[0].purpose.value, tally) as bar:
            self.crew.show(tally, lambda: bar.show(self.escrow.spent_usd))
            yield
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            self._score(warehouse)

    def land(self, work: Work, failed: str | None) -> None:
        """Take in a finished shard's part. A shard that broke is told, and its requests count as failed."""
        if failed is not None:
            self.screen.say(f"shard {work.shard_id} failed: {failed}", "red")
            never_twice(work, failed, self.setting.folder, self.crew.endpoints[work.endpoint].mode)
            self._broken.append(work)
            self.journal.seal(work.shard_id)  # what it was answered before it broke is paid for, and counts
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            for part in of_shard(self.setting.folder, work.shard_id):
                warehouse.ingest(part)
            save_shard(warehouse, self.setting.run_id, work, "failed" if failed else "done")
            if told := silence(warehouse, self.setting.run_id, work):
                self.screen.say(told, "yellow")
            if time.monotonic() - self._scored > SCORE_SECONDS:
                self._scored = time.monotonic()
                self._score(warehouse)

    def _score(self, warehouse: Warehouse) -> None:
        if self.setting.scorer is not None and self.setting.scores_all:
            scored, total = settle.score_new(
                warehouse, self.setting.run_id, self.setting.scorer, self.screen.say
            )
            if self.crew.tally is not None:
                self.crew.tally.score(scored, total)

    def _compose(self) -> None:
        """Results anew: each request's answer from the endpoint that serves it, or why it has none. What could still be
        answered, had the run not stopped, has no result."""
        self._learn()
        served = self.placement.served
        owed = self.placement.owed(self.columns.allowed)
        told = ~owed if self.crew.stopped else np.ones(len(served), bool)
        names = [endpoint.name for endpoint in self.setting.endpoints]
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            warehouse.compose_results(
                self.setting.run_id, settle.served_table(self.columns.rows[told], served[told], names)
            )
            if self.setting.scores_all:
                settle.unanswered_score_nothing(warehouse, self.setting.run_id, self.batch.scorable)

    def _learn(self) -> None:
        """Take in what has come; a shard that broke has failed at what it did not answer."""
        self.placement.learn(self.knowledge.held(), self.columns)
        names = [endpoint.name for endpoint in self.setting.endpoints]
        for work in self._broken:
            self.placement.give_up(self.columns.positions(work.rows), names.index(work.endpoint))
        for name, rows in self.crew.take_not_run():
            self.placement.left_undone(self.columns.positions(rows), names.index(name))
        for name in self.crew.closed:
            self.placement.give_up(np.arange(len(self.columns.rows)), names.index(name))

    def _land_rest(self) -> None:
        """Overhead is journalled outside shards."""
        self.journal.seal("overhead")
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            for part in of_shard(self.setting.folder, "overhead"):
                warehouse.ingest(part)
            lives = self.crew.lives()
            if lives:
                warehouse.save_workers(worker_rows(self.setting.run_id, lives))
            keep_rates(warehouse, self.setting, self.crew.engines)

    def _shards(self, purpose: Purpose, due: Due) -> list[Work]:
        if not len(due):
            return []
        ordered = self.placement.ordered
        return self._works(
            purpose, shards_of(due, self.columns, self.market, self.setting.endpoints, ordered=ordered)
        )

    def _works(self, purpose: Purpose, placed: Sequence[tuple[str, NDArray[np.int64]]]) -> list[Work]:
        works = self.crew.works(purpose, placed)
        self._enter(works)
        return works

    def _enter(self, works: Sequence[Work]) -> None:
        with Warehouse.open(self.setting.warehouse, say=self.screen.say) as warehouse:
            for work in works:
                save_shard(warehouse, self.setting.run_id, work, "running")
