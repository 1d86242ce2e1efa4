"""The escrow: under any order of reserving and settling, the cap holds."""

from __future__ import annotations

import threading
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from thirdshift.engines.core.budget import RunBudget

CENTS = st.integers(0, 500).map(lambda n: Decimal(n) / 100)


@given(cap=CENTS, spent=CENTS, amounts=st.lists(st.tuples(CENTS, st.floats(0, 1)), max_size=40))
def test_reserved_plus_spent_never_passes_the_cap(
    cap: Decimal, spent: Decimal, amounts: list[tuple[Decimal, float]]
) -> None:
    budget = RunBudget(cap, spent)
    out: list[tuple[Decimal, float]] = []
    for amount, share in amounts:
        before = (budget.spent_usd, budget.reserved_usd)
        if budget.reserve(amount):
            out.append((amount, share))
            assert budget.spent_usd + budget.reserved_usd <= cap
        else:
            assert (budget.spent_usd, budget.reserved_usd) == before
            assert budget.spent_usd + budget.reserved_usd + amount > cap
        if len(out) > 3:
            reserved, used = out.pop(0)
            budget.settle(reserved, (reserved * Decimal(used)).quantize(Decimal("0.01")))
    for reserved, _ in out:
        budget.settle(reserved, Decimal(0))
    assert budget.reserved_usd == 0
    assert budget.spent_usd <= max(cap, spent)


def test_without_a_cap_everything_is_counted_and_nothing_refused() -> None:
    budget = RunBudget(None)
    assert budget.reserve(Decimal(10**9))
    budget.settle(Decimal(10**9), Decimal(3))
    assert (budget.spent_usd, budget.reserved_usd, budget.left_usd) == (3, 0, None)


def test_the_cap_itself_can_be_spent_to_the_last_nano_dollar() -> None:
    budget = RunBudget(Decimal("1.000000000"))
    assert budget.reserve(Decimal("1.000000000"))
    assert not budget.reserve(Decimal("0.000000001"))
    assert budget.left_usd == 0


def test_threads_together_do_not_pass_the_cap() -> None:
    budget = RunBudget(Decimal(100))
    granted = [0] * 8

    def grab(which: int) -> None:
        for _ in range(1000):
            if budget.reserve(Decimal("0.05")):
                granted[which] += 1

    threads = [threading.Thread(target=grab, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 2000
    assert budget.reserved_usd == 100
