"""`budget.approve_above_usd`: what a run may spend unasked, and who is asked for more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from thirdshift.engines.core.budget import BudgetFigures
from thirdshift.flows.console import money, spent
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.planning.problem import Terms

Ask = Callable[[RunContext, str], bool]
"""Asks somebody to approve of a run's cost; the text says why."""


def ask_nobody(context: RunContext, why: str) -> bool:  # noqa: ARG001 - an `Ask`
    """Refuse: the command has --yes."""
    return False


class ApprovalLimit:
    """What a run may spend without approval. An approval, once given, holds for the whole run, within its cap."""

    def __init__(self, context: RunContext, ask: Ask = ask_nobody) -> None:
        self._context, self._ask = context, ask
        self._given = context.call.yes
        self.denied = False
        """Nobody approved when they were asked: the run sends nothing more."""

    def refusal(
        self, cost_usd: Decimal, bill: BudgetFigures, what: str, pilot_usd: Decimal = Decimal(0)
    ) -> str | None:
        """Say why nothing more may be sent, after asking for approval; None where it may.

        `pilot_usd`: what a pilot ahead costs besides, at most: whoever approves is told, since it is spent too.
        """
        settled, unsettled = bill.settled_usd, bill.unsettled_usd
        limit, cap = self._context.job.budget.approve_above_usd, self._context.cap_usd
        if (
            limit is None
            or self._given
            or (cap is not None and cap <= limit)
            or settled + unsettled + cost_usd <= limit
        ):
            return None
        pilot = f", and the pilot before it up to {money(pilot_usd)}" if pilot_usd else ""
        why = (
            f"{what} costs {money(cost_usd)} more{pilot}; so far: {spent(settled, unsettled)}; together that is above "
            f"budget.approve_above_usd, {money(limit)}"
        )
        self._given = self._ask(self._context, why)
        self.denied = not self._given
        return f"{why}: nothing more is sent without --yes" if self.denied else None

    def within(self, terms: Terms, spent_usd: Decimal) -> Terms:
        """Return `terms` for what is sent without asking: a repair is no reason to ask again."""
        limit = self._context.job.budget.approve_above_usd
        if limit is None or self._given:
            return terms
        left = float(max(limit - spent_usd, Decimal(0)))
        return replace(terms, cap_usd=left if terms.cap_usd is None else min(terms.cap_usd, left))
