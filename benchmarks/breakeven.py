"""From how many requests on is a worker by the hour cheaper than an API by the token? The planner's answer,
and a plot.

    python benchmarks/breakeven.py              the figures of docs/worker-or-api.md
    python benchmarks/breakeven.py --plot docs/worker-or-api.svg

Both sides answer equally well, so that only money decides. The planner is asked for more and more requests
until it starts a worker; that volume must be what a sheet of paper says, start-up / (API per request - worker
seconds per request), to a request.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thirdshift.router.planning import Option, Problem, Workers
from thirdshift.router.planning.solve import cheapest

INPUT, OUTPUT = 1_000, 200
"""Tokens of a request: a ticket with its instructions in, a label with its reason out."""

API = (0.30, 1.20)
"""USD per million tokens in and out: deepseek-v4-flash in litellm's price map (2026-11-22)."""


@dataclass(frozen=True)
class Case:
    """A worker at $2.49 an hour. Its rates are assumptions to be replaced by measured ones; what follows from
    them is not."""

    name: str
    workers: Workers


def case(name: str, prefill: float, decode: float, startup: float = 300.0, minimum: float = 0.0) -> Case:
    return Case(name, Workers(1, 2.49, prefill, decode, startup, minimum))


CASES = (
    case("fast: 20,000 in, 2,500 out tokens/s", 20_000, 2_500),
    case("the same, paid by the whole hour", 20_000, 2_500, minimum=3_600),
    case("slow: 4,000 in, 500 out tokens/s", 4_000, 500),
    case("too slow: 2,000 in, 250 out tokens/s", 2_000, 250),
)


def api_usd(requests: float) -> float:
    return requests * (INPUT * API[0] + OUTPUT * API[1]) * 1e-6


def worker_usd(workers: Workers, requests: float) -> float:
    seconds = INPUT / workers.prefill_tokens_per_second + OUTPUT / workers.decode_tokens_per_second
    paid = max(workers.minimum_seconds, workers.startup_seconds + requests * seconds)
    return paid / 3600 * workers.usd_per_hour


def problem(workers: Workers, requests: int) -> Problem:
    """Alike requests as one row by weight would hide the volume: every request is a row."""
    cost = np.tile([api_usd(1), 0.0], (requests, 1))
    options = (Option("api", "api", "lab"), Option("worker", "worker", "vllm", workers=workers))
    ones = np.ones(requests, dtype=np.int32)
    return Problem(
        options, ("tickets",), ones * 0, ones, cost, np.ones((requests, 2)), ones * INPUT, ones * OUTPUT
    )


def starts(workers: Workers, requests: int) -> bool:
    plan = cheapest(problem(workers, requests))
    return plan is not None and bool(plan.workers)


def planned(workers: Workers, most: int = 1 << 20) -> int | None:
    """The least volume at which the plan starts a worker; None: at no volume up to `most`."""
    high = 16
    while not starts(workers, high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if starts(workers, middle) else (middle, high)
    return high


def on_paper(workers: Workers) -> float:
    """Where the two lines cross; inf where the worker is dearer by the request already."""
    served_usd = api_usd(1) - (
        worker_usd(replace(workers, minimum_seconds=0), 1)
        - worker_usd(replace(workers, minimum_seconds=0), 0)
    )
    if served_usd <= 0:
        return math.inf
    by_start = workers.startup_seconds / 3600 * workers.usd_per_hour / served_usd
    by_minimum = workers.minimum_seconds / 3600 * workers.usd_per_hour / api_usd(1)
    return max(by_start, by_minimum)


# --- the plot

LEFT, TOP, WIDTH, HEIGHT = 70, 20, 560, 300
DECADES_X, DECADES_Y = (1, 5), (-2, 2)
COLOURS = ("#0b6e4f", "#b5651d", "#5b4b8a", "#a11d33")


def _x(requests: float) -> float:
    return LEFT + WIDTH * (math.log10(requests) - DECADES_X[0]) / (DECADES_X[1] - DECADES_X[0])


def _y(usd: float) -> float:
    share = (math.log10(usd) - DECADES_Y[0]) / (DECADES_Y[1] - DECADES_Y[0])
    return TOP + HEIGHT * (1 - min(1.0, max(0.0, share)))


def svg(breaks: dict[str, int | None]) -> str:
    """Cost over volume, both in decades: the API's line, each worker's curve, a dot where the plan changes
    over."""
    size = f'viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 130}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for decade in range(DECADES_X[0], DECADES_X[1] + 1):
        x = _x(10**decade)
        parts.append(f'<path d="M{x:.1f} {TOP}V{TOP + HEIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{10**decade:,}</text>')
    for decade in range(DECADES_Y[0], DECADES_Y[1] + 1):
        y = _y(10.0**decade)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">${10.0**decade:g}</text>')
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">requests</text>')
    volumes = np.logspace(*DECADES_X, 60)
    curves = [("API", "#222", [api_usd(v) for v in volumes])]
    curves += [
        (c.name, k, [worker_usd(c.workers, v) for v in volumes]) for c, k in zip(CASES, COLOURS, strict=True)
    ]
    for row, (name, colour, costs) in enumerate(curves):
        points = " ".join(f"{_x(v):.1f},{_y(c):.1f}" for v, c in zip(volumes, costs, strict=True))
        y = TOP + HEIGHT + 52 + 15 * row
        dash = ' stroke-dasharray="5 3"' if name == "API" else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<path d="M{LEFT} {y - 4}h24" stroke="{colour}" stroke-width="2"{dash}/>')
        at = breaks.get(name)
        note = "" if name == "API" else " - never" if at is None else f" - from {at:,} requests on"
        parts.append(f'<text x="{LEFT + 30}" y="{y}">{name}{note}</text>')
        if at is not None:
            parts.append(f'<circle cx="{_x(at):.1f}" cy="{_y(api_usd(at)):.1f}" r="4" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", type=Path)
    plot = parser.parse_args().plot
    breaks = {c.name: planned(c.workers, 1 << 16) for c in CASES}
    met = True
    print(f"a request: {INPUT:,} tokens in, {OUTPUT} out; API ${api_usd(1000):.3f} per 1,000")
    for c in CASES:
        paper, measured = on_paper(c.workers), breaks[c.name]
        cost = worker_usd(replace(c.workers, minimum_seconds=0, startup_seconds=0), 1000)
        print(
            f"{c.name:40} worker ${cost:.3f} per 1,000; the plan starts it from {measured or 'never'} (paper {paper:.1f})"
        )
        met &= (
            measured is None
            if paper == math.inf
            else measured is not None and abs(measured - paper) <= 1 + 1e-3 * paper
        )
    slowest = 2.49 / 3600 * (INPUT / 8 + OUTPUT) / api_usd(1)
    print(f"with 8 tokens in for 1 out, never below {8 * slowest:,.0f} tokens/s in and {slowest:,.0f} out")
    if plot:
        plot.write_text(svg(breaks), encoding="utf-8")
    print(json.dumps({"break_even": breaks, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
