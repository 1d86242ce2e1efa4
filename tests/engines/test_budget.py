"""The budget: under any order of reserving and settling, the cap holds."""

from __future__ import annotations

import threading
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from thirdshift.engines.core.budget import BatchBudget, RunBudget

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


def test_batches_leave_what_is_sent_beside_them_what_that_is_expected_to_cost() -> None:
    whole, beside = RunBudget(Decimal(10)), [True]
    batches = BatchBudget(whole, lambda: bool(beside))
    batches.leave(Decimal(5))  # and a fifth more, lest the last answers find nothing
    taken = 0
    while batches.reserve(Decimal(1)):
        taken += 1
    assert taken == 4
    assert whole.reserve(Decimal(5))
    whole.settle(Decimal(5), Decimal(4))
    assert not batches.reserve(Decimal(1)), "a dollar is still to come beside them, and something over"
    beside.clear()
    assert batches.reserve(Decimal(1))
    for _ in range(5):
        batches.settle(Decimal(1), Decimal("0.5"))
    assert (whole.spent_usd, whole.reserved_usd) == (Decimal("6.5"), 0)


def test_a_batch_that_nothing_is_left_for_takes_its_first_request_all_the_same() -> None:
    batches = BatchBudget(RunBudget(Decimal(1)), lambda: True)
    batches.leave(Decimal(1))
    assert batches.reserve(Decimal(1))
    assert not batches.reserve(Decimal(1))


@given(amounts=st.lists(st.tuples(CENTS, st.booleans()), max_size=40), aside=CENTS, cap=CENTS)
def test_batches_and_what_is_sent_beside_them_never_pass_the_cap_together(
    amounts: list[tuple[Decimal, bool]], aside: Decimal, cap: Decimal
) -> None:
    whole = RunBudget(cap)
    batches = BatchBudget(whole, lambda: True)
    batches.leave(aside)
    held: list[tuple[RunBudget | BatchBudget, Decimal]] = []
    for amount, waits in amounts:
        budget = batches if waits else whole
        if budget.reserve(amount):
            held.append((budget, amount))
        assert whole.spent_usd + whole.reserved_usd <= cap
        if len(held) > 4:
            budget, reserved = held.pop(0)
            budget.settle(reserved, reserved / 2)
    for budget, reserved in held:
        budget.settle(reserved, Decimal(0))
    assert whole.reserved_usd == 0
