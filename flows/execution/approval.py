"""Consent: a plan above `budget.approve_above_usd` needs somebody's yes; by the command that is --yes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from thirdshift.flows.console import money

if TYPE_CHECKING:
    from thirdshift.flows.runs.context import RunContext
    from thirdshift.router.planning.problem import Terms


class ApprovalLimit:
    """Whether a night may spend more than it may unasked. Given once, it holds for the whole night, within its cap."""

    def __init__(self, context: RunContext) -> None:
        self.given = context.call.yes
        self.ask: Callable[[str], bool] = lambda _: False
        """Who is asked; by the command nobody."""
        self._limit, self._cap = context.job.budget.approve_above_usd, context.cap_usd

    def refused(self, cost_usd: Decimal, spent_usd: Decimal, what: str) -> str | None:
        """Why nothing more may be sent; None where it may."""
        limit, cap = self._limit, self._cap
        if limit is None or self.given or (cap is not None and cap <= limit) or spent_usd + cost_usd <= limit:
            return None
        why = (
            f"{what} costs {money(cost_usd)} more, {money(spent_usd)} is spent; that is above "
            f"budget.approve_above_usd, {money(limit)}"
        )
        self.given = self.ask(why)
        return None if self.given else f"{why}: nothing more is sent without --yes"

    def within(self, terms: Terms, spent_usd: Decimal) -> Terms:
        """The terms of what is sent without asking: a repair is no reason to ask again."""
        if self._limit is None or self.given:
            return terms
        left = float(max(self._limit - spent_usd, Decimal(0)))
        return replace(terms, cap_usd=left if terms.cap_usd is None else min(terms.cap_usd, left))
