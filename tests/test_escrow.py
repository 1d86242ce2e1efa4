"""The escrow: under any order of reserving and settling, the cap holds."""

from __future__ import annotations

import threading
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engines.escrow import RunEscrow

CENTS = st.integers(0, 500).map(lambda n: Decimal(n) / 100)


@given(cap=CENTS, spent=CENTS, amounts=st.lists(st.tuples(CENTS, st.floats(0, 1)), max_size=40))
def test_reserved_plus_spent_never_passes_the_cap(
    cap: Decimal, spent: Decimal, amounts: list[tuple[Decimal, float]]
) -> None:
    escrow = RunEscrow(cap, spent)
    out: list[tuple[Decimal, float]] = []
    for amount, share in amounts:
        before = (escrow.spent_usd, escrow.reserved_usd)
        if escrow.reserve(amount):
            out.append((amount, share))
            assert escrow.spent_usd + escrow.reserved_usd <= cap
        else:
            assert (escrow.spent_usd, escrow.reserved_usd) == before
            assert escrow.spent_usd + escrow.reserved_usd + amount > cap
        if len(out) > 3:
            reserved, used = out.pop(0)
            escrow.settle(reserved, (reserved * Decimal(used)).quantize(Decimal("0.01")))
    for reserved, _ in out:
        escrow.settle(reserved, Decimal(0))
    assert escrow.reserved_usd == 0
    assert escrow.spent_usd <= max(cap, spent)


def test_without_a_cap_everything_is_counted_and_nothing_refused() -> None:
    escrow = RunEscrow(None)
    assert escrow.reserve(Decimal(10**9))
    escrow.settle(Decimal(10**9), Decimal(3))
    assert (escrow.spent_usd, escrow.reserved_usd, escrow.left_usd) == (3, 0, None)


def test_the_cap_itself_can_be_spent_to_the_last_nano_dollar() -> None:
    escrow = RunEscrow(Decimal("1.000000000"))
    assert escrow.reserve(Decimal("1.000000000"))
    assert not escrow.reserve(Decimal("0.000000001"))
    assert escrow.left_usd == 0


def test_threads_together_do_not_pass_the_cap() -> None:
    escrow = RunEscrow(Decimal(100))
    granted = [0] * 8

    def grab(which: int) -> None:
        for _ in range(1000):
            if escrow.reserve(Decimal("0.05")):
                granted[which] += 1

    threads = [threading.Thread(target=grab, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 2000
    assert escrow.reserved_usd == 100
