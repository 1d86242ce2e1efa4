"""What one score costs that has to be asked for."""

from __future__ import annotations

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.planner import Market
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.judge import LETTERS_PER_TOKEN, OWN_WORDS, USUAL_VERDICT
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.lots import mean
from thirdshift.warehouse.store.store import Warehouse

NEWEST = 1000
"""So many of the newest verdicts tell what the next will cost."""
BILLED = f"""
select avg(cost_usd) as usd, count(*) as verdicts from (
    select l.cost_usd from ledger l join runs r using (run_id)
    where r.job = $job and l.purpose = 'judge' and l.status = 'settled' and l.endpoint = $judge and l.model = $model
      and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated
    order by l.settled_at desc limit {NEWEST})
"""
"""Rehearsals know rehearsals only, as with lengths."""


def score_usd(context: RunContext, columns: RequestColumns, market: Market) -> float:
    """Return what one score costs: a verdict, as they were billed so far or else on an answer of usual length; or the
    baseline's answer to agree with or to be held against."""
    if context.baseline is not None and (context.basis is Basis.AGREEMENT or context.by_sample):
        return float(mean(market.least_usd(context.baseline), market.sent))
    if context.judge is None:
        return 0.0
    if (billed := _billed_usd(context)) is not None:
        return billed
    price = context.judge.endpoint.price.base
    read = (len(context.judge.rubric) + OWN_WORDS) / LETTERS_PER_TOKEN
    read += float(mean(columns.tokens[0], columns.sent)) + float(
        mean(market.output_tokens, columns.sent).mean()
    )
    return (read * float(price.input) + USUAL_VERDICT * float(price.output)) * 1e-6


def _billed_usd(context: RunContext) -> float | None:
    """Return the mean of the newest verdicts that this job was billed for; None where there is none."""
    if context.judge is None or not context.warehouse.exists():
        return None
    judge = context.judge.endpoint
    with Warehouse.open(context.warehouse) as warehouse:
        rows = warehouse.query(
            BILLED, job=context.job.name, judge=judge.name, model=judge.model,
            emulated=str(context.call.emulated).lower(),
        ).to_pylist()  # fmt: skip
    return float(rows[0]["usd"]) if rows[0]["verdicts"] else None
