"""How much of what a provider allows is used: 1,200 requests and 200,000 tokens a minute, for two minutes.

    python benchmarks/limits.py [--seconds 120]

Three models of the emulated provider at once, each with those limits in every sliding minute: one whose short requests
meet the first, one whose long ones meet the second, and one whose endpoint states no limits, so that the headers must
tell. Each must use 95 % of the limit that it meets, with fewer than 1 % of calls a 429. The last line is JSON; exit 1
where one misses that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator import EmulatedModel, Emulator, OutputTokens
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Endpoint, Limits, Price, PriceSchedule, Purpose, Request

RPM, TPM = 1200, 200_000
SHARE_USED, SHARE_REFUSED = 0.95, 0.01
PRICE = Price(Decimal("0.1"), Decimal("0.4"))
WORDS = {"short": 60, "long": 260, "unstated": 60}
"""Words of a prompt. A short request takes about 110 tokens, a long one 300: 1,200 of them are below and above TPM."""


class Nowhere:
    """A journal for attempts that nobody asks for."""

    def sent(self, intents: object) -> None: ...
    def settled(self, outcomes: object) -> None: ...


class Requests:
    """More than two minutes can take, made as they are read; lengths differ by half."""

    def __init__(self, words: int) -> None:
        self._words = words

    def __len__(self) -> int:
        return 100_000

    def __iter__(self) -> Iterator[Request]:
        for row in range(len(self)):
            words = self._words * (75 + row * 37 % 51) // 100
            content = {"role": "user", "content": f"{row}: " + "apples " * words}
            yield Request(row, f"r{row}", f"h{row}", "t", (content,), 64)


def answer(emulator: Emulator, name: str, until: datetime) -> None:
    """Send to one endpoint until the deadline."""
    limits = Limits() if name == "unstated" else Limits(rpm=RPM, tpm=TPM)
    endpoint = Endpoint(
        name, f"openai/{name}", PriceSchedule(PRICE), api_base=emulator.api_base, limits=limits
    )
    engine = RealtimeEngine(endpoint, EngineContext(Nowhere(), RunBudget(None), until))
    shard = Shard("run", name, name, Purpose.MAIN, Requests(WORDS[name]))
    for _ in engine.collect(engine.submit(shard, name)):
        pass
    engine.close()


def figures(emulator: Emulator, name: str, began: float, seconds: float) -> dict[str, float]:
    """What the provider's books say of one model."""
    entries = [
        entry for entry in emulator.books() if entry["model"] == name and entry["at"] <= began + seconds
    ]
    tokens = sum(entry["input_tokens"] + entry["output_tokens"] for entry in entries)
    minutes = seconds / 60
    statuses = emulator.totals()[name]["statuses"]
    return {
        "requests": len(entries),
        "of_rpm": round(len(entries) / (RPM * minutes), 4),
        "of_tpm": round(tokens / (TPM * minutes), 4),
        "refused": round(statuses.get("429", 0) / sum(statuses.values()), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    seconds = parser.parse_args().seconds
    cast = [
        EmulatedModel(name, PRICE, output=OutputTokens(20), latency_seconds=0.5, limits=Limits(RPM, TPM))
        for name in WORDS
    ]
    with Emulator(cast) as emulator:
        began = time.time()
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        threads = [threading.Thread(target=answer, args=(emulator, name, until)) for name in WORDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        measured = {name: figures(emulator, name, began, seconds) for name in WORDS}
    met = all(
        max(figures_of_word["of_rpm"], figures_of_word["of_tpm"]) >= SHARE_USED
        and figures_of_word["refused"] < SHARE_REFUSED
        for figures_of_word in measured.values()
    )
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"benchmark": "limits", "seconds": seconds, **measured, "load": load, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
