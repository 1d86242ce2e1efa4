"""The limiter on a loop whose time is made: minutes pass in milliseconds, nothing waits for real."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thirdshift.engines.core.rate_limits import MAX_WINDOW, START_WINDOW, Limiter
from thirdshift.engines.core.transport import Hints
from thirdshift.engines.emulator.rate_limits import Allowance
from thirdshift.engines.wires.rate_limit_headers import hints_of, retry_after_of, span_seconds
from thirdshift.router.values import Limits

Scene = Callable[["MadeTime"], Coroutine[Any, Any, Any]]


class MadeTime(asyncio.SelectorEventLoop):
    """Where nothing is ready, time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        real = self._selector.select
        self._selector.select = lambda timeout=None: real(0) or self._jump(timeout)

    def _jump(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everyone waits, and for nothing"
        self.now += timeout
        return []

    def time(self) -> float:
        return self.now


def play(scene: Scene) -> Any:
    loop = MadeTime()
    try:
        return loop.run_until_complete(scene(loop))
    finally:
        loop.close()


class Sender:
    """Sends as fast as a limiter lets it to an allowance that counts as the provider does."""

    def __init__(self, loop: MadeTime, limiter: Limiter, provider: Allowance, seconds: float) -> None:
        self.loop, self.limiter, self.provider = loop, limiter, provider
        self.until = loop.time() + seconds
        self.accepted: deque[tuple[float, int]] = deque()
        self.refused = 0
        self.rng = random.Random(3)

    async def go(self, expected: int, tokens: Callable[[], int]) -> None:
        async with asyncio.TaskGroup() as group:
            while self.loop.time() < self.until:
                await self.limiter.acquire(expected)
                group.create_task(self.send(expected, tokens()))

    async def send(self, expected: int, tokens: int) -> None:
        await asyncio.sleep(self.rng.uniform(0.01, 0.08))
        wait = self.provider.admit(tokens, self.loop.time())
        if wait > 0:
            self.refused += 1
            self.limiter.congested(wait, refused=True)
            self.limiter.release(expected, 0)
            return
        self.accepted.append((self.loop.time(), tokens))
        await asyncio.sleep(self.rng.uniform(0.2, 2.0))
        self.provider.leave()
        self.limiter.succeeded()
        self.limiter.release(expected, tokens)


@pytest.mark.parametrize(("tokens", "binding"), [(150, "requests"), (400, "tokens")])
def test_what_a_provider_allows_is_used_and_hardly_ever_overstepped(tokens: int, binding: str) -> None:
    limits = Limits(rpm=1200, tpm=200_000)

    async def scene(loop: MadeTime) -> Sender:
        sender = Sender(loop, Limiter(limits, loop.time), Allowance(limits), 120.0)
        await sender.go(300, lambda: sender.rng.randint(tokens // 2, tokens * 3 // 2))
        return sender

    sender = play(scene)
    used = (
        len(sender.accepted) / 2400 if binding == "requests" else sum(t for _, t in sender.accepted) / 400_000
    )
    assert 0.95 <= used <= 1.01
    assert sender.refused <= 0.01 * len(sender.accepted)


@settings(max_examples=30, deadline=None)
@given(
    rpm=st.integers(1, 3000),
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60),
    each=st.integers(1, 40),
)
def test_no_minute_ever_sees_more_requests_than_stated(rpm: int, gaps: list[float], each: int) -> None:
    async def scene(loop: MadeTime) -> list[float]:
        limiter, sent = Limiter(Limits(rpm=rpm), loop.time), list[float]()

        async def one() -> None:
            await limiter.acquire(1)
            sent.append(loop.time())
            limiter.release()

        async with asyncio.TaskGroup() as group:
            for gap in gaps[: max(1, rpm // each)]:
                for _ in range(each):
                    group.create_task(one())
                await asyncio.sleep(gap)
        return sent

    sent = play(scene)
    for i, start in enumerate(sent):
        assert sum(start <= at < start + 60.0 for at in sent[i:]) <= max(rpm, 1)


def test_who_comes_first_goes_first() -> None:
    async def scene(loop: MadeTime) -> list[int]:
        limiter, order = Limiter(Limits(rpm=60, concurrency=2), loop.time), list[int]()

        async def one(number: int) -> None:
            await limiter.acquire(1)
            order.append(number)
            await asyncio.sleep(0.5)
            limiter.release()

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(number))
        return order

    assert play(scene) == list(range(20))


def test_never_more_in_flight_than_stated() -> None:
    async def scene(loop: MadeTime) -> int:
        limiter, most = Limiter(Limits(concurrency=7), loop.time), 0

        async def one() -> None:
            nonlocal most
            await limiter.acquire(1)
            most = max(most, limiter.in_flight)
            await asyncio.sleep(1)
            limiter.succeeded()
            limiter.release()

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(one())
        assert loop.time() == pytest.approx(1000 + 15, abs=0.1)
        return most

    assert play(scene) == 7


def test_the_window_grows_while_it_is_used_and_halves_once_per_burst_of_trouble() -> None:
    async def scene(loop: MadeTime) -> None:
        limiter = Limiter(Limits(), loop.time)
        assert limiter.window == START_WINDOW
        for _ in range(START_WINDOW):
            await limiter.acquire(1)
        for _ in range(100):
            limiter.succeeded()
        assert limiter.window > START_WINDOW
        grown = limiter.window
        for _ in range(10):
            limiter.congested(None, refused=False)
        assert limiter.window == grown // 2
        loop.now += 5
        limiter.congested(None, refused=False)
        assert limiter.window == grown // 4
        for _ in range(100_000):
            limiter.succeeded()
        assert limiter.window <= MAX_WINDOW

    play(scene)


def test_an_unstated_limit_is_found_by_trying() -> None:
    async def scene(loop: MadeTime) -> Sender:
        sender = Sender(loop, Limiter(Limits(), loop.time), Allowance(Limits(concurrency=40)), 60.0)
        await sender.go(1, lambda: 1)
        return sender

    sender = play(scene)
    possible = 60.0 / 1.1 * 40
    assert len(sender.accepted) > 0.5 * possible
    assert sender.refused < 0.2 * len(sender.accepted)


def test_a_pause_holds_everyone_and_a_cancelled_waiter_leaves_no_trace() -> None:
    async def scene(loop: MadeTime) -> None:
        limiter = Limiter(Limits(concurrency=1), loop.time)
        limiter.congested(30.0, refused=True)
        began = loop.time()
        first = asyncio.create_task(limiter.acquire(1))
        second = asyncio.create_task(limiter.acquire(1))
        await asyncio.sleep(1)
        first.cancel()
        await second
        assert loop.time() - began == pytest.approx(30.0)
        assert limiter.in_flight == 1

    play(scene)


def test_headers_teach_limits_that_were_not_stated() -> None:
    async def scene(loop: MadeTime) -> float:
        limiter = Limiter(Limits(concurrency=500), loop.time)
        limiter.heed(Hints(limit_requests=60))
        limiter.heed(Hints(remaining_requests=0, reset_requests_seconds=10.0))
        began = loop.time()
        for _ in range(31):
            await limiter.acquire(1)
        return loop.time() - began

    assert 39.0 <= play(scene) <= 42.0


def test_an_idle_endpoint_costs_no_timer() -> None:
    async def scene(loop: MadeTime) -> None:
        limiter = Limiter(Limits(rpm=10), loop.time)
        await limiter.acquire(1)
        limiter.release()
        assert not loop._scheduled  # type: ignore[attr-defined]

    play(scene)


def test_waiting_times_are_read_in_every_form() -> None:
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    assert retry_after_of({"retry-after": "7"}) == 7.0
    assert retry_after_of({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, now) == 30.0
    assert retry_after_of({"retry-after": "Sun, 22 Nov 2026 11:00:30 GMT"}, now) == 0.0
    clock = {"date": "Sun, 22 Nov 2026 17:00:00 GMT", "retry-after": "Sun, 22 Nov 2026 17:00:02 GMT"}
    assert retry_after_of(clock, now) == 2.0  # the provider's clock is five hours ahead
    assert retry_after_of({**clock, "date": "now"}, now) == 18_002.0
    ahead = {
        "anthropic-ratelimit-tokens-limit": "9",
        "anthropic-ratelimit-tokens-reset": "2026-11-22T17:00:05Z",
    }
    assert hints_of(ahead | {"date": clock["date"]}) == Hints(None, 9, None, None, None, 5.0)
    assert retry_after_of({"retry-after": "soon"}) is None
    assert retry_after_of({"retry-after": "8", "retry-after-ms": "250"}) == 0.25
    assert retry_after_of({}) is None
    assert span_seconds("1m30s") == 90.0
    assert span_seconds("6ms") == pytest.approx(0.006)
    assert span_seconds("1.5") == 1.5
    assert span_seconds("2026-11-22T12:00:05Z", now) == 5.0
    assert span_seconds("nan") is span_seconds("-3s") is span_seconds("") is None


def test_limit_headers_of_both_manners_are_read() -> None:
    openai = {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "2s",
    }
    assert hints_of(openai) == Hints(100, None, None, 5, None, 2.0)
    assert hints_of({"anthropic-ratelimit-tokens-limit": "9"}) == Hints(None, 9)
    assert hints_of({"content-type": "x"}) is None


@given(st.text(max_size=30))
def test_no_header_breaks_us(text: str) -> None:
    retry_after_of({"retry-after": text})
    hints_of({"x-ratelimit-limit-requests": text, "x-ratelimit-reset-requests": text})
