"""One run of one job. Its methods are the stages of `run_stages`, in its order.

Each does what is missing, so a resumed run takes the same road as a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.console import RunConsole
from thirdshift.flows.dispatch.dispatcher import Dispatcher, context_lent
from thirdshift.flows.dispatch.emulation import emulated
from thirdshift.flows.dispatch.recovery import NO_ORPHANS, Orphans, never_twice
from thirdshift.flows.dispatch.rows import assignments, save_shard, silence, worker_rows
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.errors import BrokeOff
from thirdshift.flows.execution import earlier_runs
from thirdshift.flows.execution.approval import ApprovalLimit
from thirdshift.flows.execution.slots import Slots, UnlimitedSlots
from thirdshift.flows.planning.assignment import Assignment, PendingRows, plan_sentence, shards_of
from thirdshift.flows.planning.input import PreparedInput, check_shares, prepare, thawing
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.planner import (
    Decision,
    Market,
    RequestColumns,
    best_possible,
    request_columns,
    save_plan,
)
from thirdshift.flows.planning.run_queries import RunQueries
from thirdshift.flows.planning.throughput import keep_rates, throughput_of_run
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.quality import finishing, publishing
from thirdshift.flows.quality.audit import Audit
from thirdshift.flows.quality.label_budget import audit_usd, doubts
from thirdshift.flows.quality.repair import Repair
from thirdshift.flows.quality.scoring import ScoringRequest, judge_context, judgeable, kept_for_judging
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.folder import OWNERS_ALONE, masked
from thirdshift.router.planning.solve import Compromise
from thirdshift.router.values import FailureKind, Purpose, usd
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.journal.parts import of_shard
from thirdshift.warehouse.store import dispatch, prices, requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse

SCORE_SECONDS = 5.0
"""How often what has landed is scored while more is under way."""


class Shift:
    """Everything one night holds. Made by `thirdshift.flows.execution.opening.opened`."""

    def __init__(
        self,
        context: RunContext,
        budget: RunBudget,
        journal: FileJournal,
        console: RunConsole,
        left: Orphans = NO_ORPHANS,
    ) -> None:
        self.context, self.budget, self.journal, self.console = context, budget, journal, console
        self.over: dict[str, Any] | None = None
        """The summary, where the run was over before."""
        self.left = list(left.works)
        """Shards of an earlier process that a batch tier still has: to be taken up."""
        lent = context_lent(context, journal, budget, left.set_aside(budget), console)
        self.dispatcher = Dispatcher(context.run_id, context.folder, context.reached, lent, journal)
        self.audit: Audit | None = None  # where scores cost money
        names = [endpoint.name for endpoint in context.endpoints]
        self.run_queries = RunQueries(context.warehouse, context.run_id, names)
        self.realtime_counterpart = realtime_counterparts(context.endpoints)
        self.batch: PreparedInput
        self.columns: RequestColumns
        self.learner: Learner
        self.market: Market
        self.decision: Decision
        self.assignment: Assignment
        self.repairs: Repair
        self.planned_usd = 0.0
        """What the plan takes from where it was made."""
        self.unapproved = False
        """Stopped because the plan is above what may be spent without being asked."""
        self.approval = ApprovalLimit(context)
        self.turns: Slots = UnlimitedSlots()
        self.warned = False
        """That it will be late."""
        self.users_mask = OWNERS_ALONE
        self.out_of_reach = False
        """The floor cannot be reached; what is run is the best plan there is."""
        self.held = ExitStack()
        """What lives as long as the shift."""
        self._broken: list[ShardWork] = []
        self._scored = time.monotonic()

    # --- the stations -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Freeze the input, refuse what cannot be answered, make columns of the rest."""
        context = self.context
        with thawing(context.folder):
            self.batch = prepare(
                context.input,
                context.folder,
                context.endpoints,
                context.policy,
                context.policies,
                context.needs,
            )
            context.check_rejects(self.batch.intake)
            check_shares(self.batch, context.endpoints, context.allowed, context.policy.max_vendor_share)
        if context.scorer is not None and not context.scores_all:
            self.batch = judgeable(context, self.batch)
            self.audit = Audit(context, self.batch)
        if context.call.emulated:
            stand_in = emulated(tuple(context.reached.values()), context.folder, context.call.outcomes)
            self.dispatcher.endpoints = self.held.enter_context(stand_in)
        self.columns = request_columns(
            self.batch, context.endpoints, context.allowed, texts=context.aim is not None
        )
        with Warehouse.open(context.warehouse, say=self.console.say) as warehouse:
            requests.save(warehouse, context.run_id, context.folder, context.job.tags, context.job.charge_by)
            requests.save_rejects(warehouse, context.run_id, context.folder)
            runs.update(warehouse, context.run_id, input_fingerprint=self.batch.intake.fingerprint)
            prices.save(warehouse, context.run_id, context.prices)
            self.columns = earlier_runs.take_over(warehouse, context, self.columns, self.console.say)
            self.dispatcher.judge_context = judge_context(warehouse, context, self.dispatcher.engine_context)
            self._score(warehouse)
        self.learner = Learner.of(context, self.run_queries, self.columns, self.batch, self.console.say)
        for each in (context.refused, *doubts(context, self.batch)):
            if each:
                self.console.say(each, "yellow")
        rejects = f", {self.batch.intake.rejects:,} rejected" if self.batch.intake.rejects else ""
        self.console.say(f"{context.run_id}: {self.batch.rows:,} requests{rejects}")

    def pilot(self) -> list[ShardWork]:
        """The next answers to look at, until looking at more would not pay."""
        context = self.context
        if adopted := self._adopted({Purpose.PILOT, Purpose.JUDGE}):
            return adopted
        if self.audit is not None and (works := self._to_score(self.audit.looks)):
            return works
        if not self.learner.rounds and context.job.budget.approve_above_usd is not None:
            cheapest = np.where(self.columns.allowed, self.learner.market().by_endpoint(), np.inf).min(axis=1)
            self._approve(float(cheapest.sum()), "the cheapest plan there can be")
        while not self.dispatcher.stopped and (found := self.learner.looks()) is not None:
            looks, cost = found
            placed = self.learner.not_held(looks.row, looks.endpoint)
            if not self._affordable(float(cost[looks.row, looks.endpoint].sum()), cost):
                break
            if placed:
                return self._works(Purpose.PILOT, placed)
        return []

    def _affordable(self, looks_usd: float, cost: NDArray[np.float64]) -> bool:
        """Whether the cap leaves, after a round of the pilot, what answering everything costs at least."""
        left = self.budget.left_usd
        cheapest = float(np.where(self.columns.allowed, cost, np.inf).min(axis=1).sum())
        return left is None or looks_usd + cheapest <= left

    def plan(self) -> None:
        """Who answers what, from what is known now; said, and written down."""
        context = self.context
        if self.dispatcher.stopped and not self.unapproved:
            self.dispatcher.start_over()  # the cap stopped the pilot; a cheaper endpoint may still be paid for
        self.learner.throughputs = throughput_of_run(context.throughputs, self.dispatcher.engines)
        self.market = self.learner.market()
        promised = self.budget.spent_usd + kept_for_judging(self.dispatcher.judge_context, self.budget)
        self.decision = self.learner.decide(self.market, context.terms(spent_usd=promised))
        plan, given_up = best_possible(self.decision, self.console.say)
        self.out_of_reach = given_up is Compromise.FLOOR
        self.assignment = Assignment.of(
            plan,
            self.market,
            self.columns,
            realtime_counterpart=self.realtime_counterpart,
            ordered=given_up is Compromise.STOP,
            now=context.clock(),
        )
        self.repairs = Repair(self.learner, self.assignment, self.console.say)
        names = [endpoint.name for endpoint in context.endpoints]
        self.assignment.keep(self.run_queries.held(), self.columns)
        for work in self.left:
            if work.purpose is Purpose.MAIN:
                still = work.unanswered[np.isin(work.unanswered, self.columns.rows)]
                self.assignment.pin(self.columns.positions(still), names.index(work.endpoint))
        with Warehouse.open(context.warehouse, say=self.console.say) as warehouse:
            assigned = (self.batch, self.columns, self.market, self.decision, plan, names)
            dispatch.save_assignments(warehouse, assignments(context.run_id, *assigned))
            audit = audit_usd(context, self.batch, self.columns, self.market, plan.quality)
            self.planned_usd = plan.cost_usd + audit
            planned = self.budget.spent_usd + usd(self.planned_usd)
            runs.update(warehouse, context.run_id, planned_usd=planned)
        save_plan(context.folder, plan, self.decision, float(self.budget.spent_usd), context.clock())
        self.console.say(plan_sentence(plan, self.assignment, self.columns.weight, context.endpoints))

    def approve(self) -> None:
        """Go no further with a plan that is above what may be spent without being asked."""
        self._approve(self.planned_usd, "the plan")

    def _approve(self, cost_usd: float, what: str) -> None:
        """Stop where what is planned is above `budget.approve_above_usd` and nobody approves of it."""
        refused = (
            None
            if self.dispatcher.stopped
            else self.approval.refused(usd(cost_usd), self.budget.spent_usd, what)
        )
        if refused is not None:
            self.unapproved = True
            self.dispatcher.stopped[FailureKind.BUDGET] += 1
            self.console.say(refused, "yellow")

    def serve(self) -> list[ShardWork]:
        """What the plan still owes: unanswered requests, then those that failed, at other endpoints."""
        adopted = self._adopted(set(Purpose))
        if self.dispatcher.stopped:
            return adopted
        self._learn()
        due = self.assignment.due(self.decision.problem, self.market.endpoint, self.console)
        self.assignment.busy[:] = False  # when it is asked again, what was adopted has landed
        return adopted + self._shards(Purpose.MAIN, due)

    def _adopted(self, purposes: Collection[Purpose]) -> list[ShardWork]:
        """Shards that are under way at a provider, to be waited for with the rest."""
        works = [work for work in self.left if work.purpose in purposes]
        self.left = [work for work in self.left if work.purpose not in purposes]
        if works:
            count = sum(len(work.unanswered) for work in works)
            self.console.say(f"{count:,} requests are with a batch tier already: adopted, not sent again")
            works = works if self.audit is None else [self.audit.scoring.filled(work) for work in works]
            self._enter(works)
        return works

    def score(self) -> list[ShardWork]:
        """What must be asked so that the answers drawn for the audit can be scored; none where all are scored."""
        if self.audit is None or self.dispatcher.stopped:
            return []
        self._compose()
        return self._to_score(self.audit.drawn)

    def _to_score(self, due: Callable[[Warehouse], list[ScoringRequest]]) -> list[ShardWork]:
        """Shards of a judge's, or of the anchor's, unless there is no money or time for more of them."""
        if self.audit is None or self.dispatcher.stopped or self.dispatcher.unscored:
            return []
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            asking = due(warehouse)
        works = []
        for each in asking:
            (work,) = self.dispatcher.works(each.purpose, [(each.endpoint, each.rows)])
            works.append(self.audit.scoring.filled(replace(work, subject=each.subject)))
        self._enter(works)
        return works

    def repair(self) -> list[ShardWork]:
        """Below the floor: what better endpoints mend best, until it is met or the cap or the deadline end it."""
        context = self.context
        if self.dispatcher.stopped or context.aim is None:
            return []
        self._learn()
        if self.audit is None:  # an answer chosen by its score is no sample of anything
            self.assignment.prefer_scores(self.learner.observed())
        self._compose()
        with Warehouse.open(context.warehouse, say=self.console.say) as warehouse:
            shown = finishing.quality_of(warehouse, context).certificates
        spent = self.budget.spent_usd
        found = self.repairs.due(shown, self.approval.within(context.terms(spent_usd=spent), spent))
        works = [] if found is None else self._shards(*found)
        return works or self.score()

    def close(self) -> dict[str, Any]:
        """Results, certificate, publication, verdict. What was not sent has no result, all else exactly one."""
        context = self.context
        self.dispatcher.close()
        self._land_rest()
        self._compose()
        if unplanned := set(self.dispatcher.stopped) - finishing.STOPS.keys():
            raise BrokeOff(
                f"run {context.run_id} was stopped ({', '.join(sorted(unplanned))}); what was answered is kept: "
                f"thirdshift resume {context.run_id}"
            )
        complete = not self.unapproved and not self.assignment.owed(self.columns.allowed).any()
        with Warehouse.open(context.warehouse, say=self.console.say) as warehouse:
            summary = finishing.finish(
                warehouse,
                context,
                set() if complete else set(self.dispatcher.stopped),
                out_of_reach=self.out_of_reach,
                unapproved=self.unapproved,
            )
        self.publish(summary)
        earlier_runs.forget(context, self.console.say)
        return summary

    def publish(self, summary: dict[str, Any]) -> None:
        """`output:`, once; also for a run that was killed between its end and this."""
        with masked(self.users_mask):  # what is published is for others to read
            publishing.publish_results(self.context, summary, self.console.say)

    # --- sending ------------------------------------------------------------------------------------------------------

    @contextmanager
    def sending(self, works: Sequence[ShardWork]) -> Iterator[None]:
        """Engines ready and progress on screen while shards are under way."""
        self.dispatcher.ensure_engines(works)
        tally = self.dispatcher.tally_of(works, self.budget.spent_usd)
        with self.console.working(works[0].purpose.value, tally) as bar:
            self.dispatcher.show(tally, lambda: bar.show(self.budget.spent_usd))
            yield
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            self._score(warehouse)

    def land(self, work: ShardWork, failed: str | None) -> None:
        """Take in a finished shard's part. A shard that broke is told, and its requests count as failed."""
        if failed is not None:
            self.console.say(f"shard {work.shard_id} failed: {failed}", "red")
            never_twice(work, failed, self.context.folder, self.dispatcher.endpoints[work.endpoint].mode)
            self._broken.append(work)
            self.journal.seal(work.shard_id)  # what it was answered before it broke is paid for, and counts
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            ingest_parts(warehouse, *of_shard(self.context.folder, work.shard_id))
            save_shard(warehouse, self.context.run_id, work, "failed" if failed else "done")
            if message := silence(warehouse, self.context.run_id, work):
                self.console.say(message, "yellow")
            if time.monotonic() - self._scored > SCORE_SECONDS:
                self._scored = time.monotonic()
                self._score(warehouse)

    def _score(self, warehouse: Warehouse) -> None:
        if self.context.scorer is not None and self.context.scores_all:
            scored, total = finishing.score_new(
                warehouse, self.context.run_id, self.context.scorer, self.console.say
            )
            if self.dispatcher.tally is not None:
                self.dispatcher.tally.score(scored, total)

    def _compose(self) -> None:
        """Compose results anew; what could still be answered, had the run not stopped, has none."""
        self._learn()
        served = self.assignment.served
        owed = self.assignment.owed(self.columns.allowed)
        told = ~owed if self.dispatcher.stopped else np.ones(len(served), bool)
        names = [endpoint.name for endpoint in self.context.endpoints]
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            table = finishing.served_table(self.columns.rows[told], served[told], names)
            results.compose(warehouse, self.context.run_id, table)
            if self.context.scores_all:
                finishing.unanswered_score_nothing(warehouse, self.context.run_id, self.batch.scorable)

    def _learn(self) -> None:
        """Take in what has come; a shard that broke has failed at what it did not answer."""
        self.assignment.learn(self.run_queries.held(), self.columns)
        names = [endpoint.name for endpoint in self.context.endpoints]
        for work in self._broken:
            self.assignment.give_up(self.columns.positions(work.rows), names.index(work.endpoint))
        for name, rows in self.dispatcher.take_not_run():
            self.assignment.left_undone(self.columns.positions(rows), names.index(name))
        for name in self.dispatcher.closed:
            self.assignment.give_up(np.arange(len(self.columns.rows)), names.index(name))

    def _land_rest(self) -> None:
        """Overhead is journalled outside shards."""
        self.journal.seal("overhead")
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            ingest_parts(warehouse, *of_shard(self.context.folder, "overhead"))
            worker_lifetimes = self.dispatcher.worker_lifetimes()
            if worker_lifetimes:
                dispatch.save_workers(warehouse, worker_rows(self.context.run_id, worker_lifetimes))
            keep_rates(warehouse, self.context, self.dispatcher.engines)

    def _shards(self, purpose: Purpose, due: PendingRows) -> list[ShardWork]:
        if not len(due):
            return []
        ordered = self.assignment.ordered
        return self._works(
            purpose, shards_of(due, self.columns, self.market, self.context.endpoints, ordered=ordered)
        )

    def _works(self, purpose: Purpose, placed: Sequence[tuple[str, NDArray[np.int64]]]) -> list[ShardWork]:
        works = self.dispatcher.works(purpose, placed)
        self._enter(works)
        return works

    def _enter(self, works: Sequence[ShardWork]) -> None:
        with Warehouse.open(self.context.warehouse, say=self.console.say) as warehouse:
            for work in works:
                save_shard(warehouse, self.context.run_id, work, "running")
