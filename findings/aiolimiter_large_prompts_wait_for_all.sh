#!/bin/sh
# aiolimiter 1.3: who waits for the least goes first, whenever it came. As a limit of tokens a minute (`acquire(tokens)`) it lets
# no long prompt go while a shorter one waits: the first request of a batch goes last, and of ten workers each that has taken
# a long one stands still, until all ten do or nothing short is left. Guess: first come, first served, as asyncio's own locks
# and semaphores do it. Ours spaces requests in their order, a large one is paid off after it went
# (engines/core/rate_limits.py: Rate). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "aiolimiter==1.3.0"
"$place/venv/bin/python" - <<'PY'
import asyncio

from aiolimiter import AsyncLimiter


async def at_once():
    """All ask at the same time, the longest first; who goes when?"""
    limiter, went = AsyncLimiter(1000, time_period=2), []
    await limiter.acquire(1000)

    async def send(tokens):
        await limiter.acquire(tokens)
        went.append(tokens)

    asked = [900, 500, *[20] * 100, 300]
    await asyncio.gather(*(send(tokens) for tokens in asked))
    return asked, went


async def by_workers():
    """Ten workers, and a queue in which every tenth prompt is long: how many short ones go before the first long one?"""
    limiter, went = AsyncLimiter(1000, time_period=2), []
    await limiter.acquire(1000)
    queue = iter([900 if number % 10 == 0 else 20 for number in range(90)])

    async def work():
        for tokens in queue:
            await limiter.acquire(tokens)
            went.append(tokens)

    await asyncio.gather(*(work() for _ in range(10)))
    return went.index(900), went[-9:]


asked, went = asyncio.run(at_once())
assert went == sorted(asked) != asked, went
print("as found: asked first and sent last:", asked[0], "tokens; order of sizes:", *sorted(set(went), key=went.index))
short, last = asyncio.run(by_workers())
assert (short, last) == (81, [900] * 9), (short, last)
print(f"as found: with ten workers all {short} short prompts go before the first of 9 long ones, which was asked first")
PY
