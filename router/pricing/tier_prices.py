"""What a batch costs within the window that is asked for: the book's price, or the tier's discount, whichever is dearer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from thirdshift.router.pricing.pricebook import Override, PriceMissing
from thirdshift.router.tiers import BatchTier
from thirdshift.router.values import Mode, Price, PriceSchedule

Ask = Callable[[Mode, Override], PriceSchedule]
"""The book's price of one model. Raises PriceMissing."""


def tier_price(tier: BatchTier, ask: Ask, override: Override) -> PriceSchedule:
    """The schedule of a batch. The book's own batch price is for the tier's usual window; where it and the row's discount
    disagree, the dearer holds. Raises PriceMissing where neither is known."""
    usual = tier.usual_window
    booked: PriceSchedule | None = None
    missing: PriceMissing | None = None
    try:
        booked = ask(Mode.BATCH, override)
    except PriceMissing as error:
        missing = error
    if booked is not None and not usual:
        missing, booked = PriceMissing(*_window_words(tier, booked)), None
    if tier.discount is None:
        if booked is None:
            raise missing or PriceMissing(tier.name, Mode.BATCH, "its batch price is not known")
        return booked
    try:
        discounted = _discounted(ask(Mode.REALTIME, override), tier.discount, tier)
    except PriceMissing:
        if booked is None:
            raise
        return booked
    return discounted if booked is None or _dearer(discounted.base, booked.base) else booked


def _window_words(tier: BatchTier, booked: PriceSchedule) -> tuple[str, Mode, str]:
    window = tier.window.name if tier.window else ""
    return tier.name, Mode.BATCH, f"the batch price in {booked.source} is for another window than {window}"


def _dearer(one: Price, other: Price) -> bool:
    return (one.input, one.output) > (other.input, other.output) and one.output >= other.output


def _discounted(schedule: PriceSchedule, discount: Decimal, tier: BatchTier) -> PriceSchedule:
    """Real time's prices less the discount. Cached tokens keep their price: seldom is one given on top of the other."""
    tiers = tuple(replace(step, price=_less(step.price, discount)) for step in schedule.tiers)
    source = f"{schedule.source}, less {discount:.0%} of batches at {tier.title}"
    base = _less(schedule.base, discount)
    return replace(schedule, base=base, tiers=tiers, off_peak=(), source=source, as_of=tier.as_of)


def _less(price: Price, discount: Decimal) -> Price:
    left = 1 - discount
    cached = None if price.cached_input is None else min(price.cached_input, price.input * left)
    return replace(price, input=price.input * left, output=price.output * left, cached_input=cached)
