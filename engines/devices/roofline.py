"""How fast a model should be on a card before anybody measured it: arithmetic, bytes read, and what is lost between.

A step of the engine writes a token for each request that runs. It takes the time of its arithmetic, of reading the weights
once and every request's cache, and a fixed rest; reading prompts is arithmetic. How many requests run is what the memory
holds besides the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thirdshift.engines.devices.cards import Card

ARITHMETIC = 0.47
"""The share of a card's published arithmetic that prompts reach. This and the next five were fitted to the figures that
`benchmarks/roofline.py` marks as used for it, and are tried there on others."""
SPARSE = 0.8
"""What of it models with experts reach: each expert gets a few of a step's tokens."""
BANDWIDTH = 0.75
"""The share of its published bandwidth that writing reaches."""
STEP_SECONDS = 0.0015
"""A step's rest: scheduling, starting kernels."""
REQUEST_SECONDS = 18e-6
"""What each request adds to a step's rest: sampling, sending answers."""
SPLIT_LOSS = 0.82
"""What each doubling of the cards of a worker leaves of their speed: they wait for each other at every layer."""
KEPT = 0.90
"""The share of the memory that is for weights and caches."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a step of a model must compute and read."""

    parameters: float
    active: float
    """Parameters that one token goes through."""
    weight_bytes: float
    """Bytes of one parameter."""
    cache_bytes: float
    """Bytes that are kept of one token, over all layers."""
    arithmetic: str = "bf16"
    """bf16, fp8 or fp4: what it multiplies in."""
    window: float = math.inf
    """Tokens that the mean layer looks back at most."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a worker should do."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    """With all the requests that run at once."""
    running: int


def pace(shape: ModelShape, card: Card, cards: int, read: float, written: float, most: int) -> Pace | None:
    """Return what a worker of `cards` should do with prompts and answers of so many tokens; None: it does not fit.

    `most`: requests that the engine runs at once where the memory holds them.
    """
    room = KEPT * card.gigabytes * 1e9 * cards - shape.parameters * shape.weight_bytes
    context = read + written / 2
    looked = min(context, shape.window)
    running = min(float(most), room / (shape.cache_bytes * (read + written) or 1.0))
    if running < 1:
        return None
    whole = cards * SPLIT_LOSS ** math.log2(cards)
    flops = (
        {"bf16": card.bf16_tflops, "fp8": card.fp8_tflops, "fp4": card.fp4_tflops}[shape.arithmetic]
        * 1e12
        * whole
    )
    bandwidth = card.terabytes_per_second * 1e12 * whole * BANDWIDTH
    dense = shape.active > shape.parameters / 2
    reading = 2 * shape.active / (flops * ARITHMETIC * (1.0 if dense else SPARSE))
    touched = min(1.0, shape.active / shape.parameters * max(1.0, running))
    step = (
        STEP_SECONDS
        + REQUEST_SECONDS * running
        + shape.parameters * touched * shape.weight_bytes / bandwidth
        + running * looked * shape.cache_bytes / bandwidth
        + 2 * shape.active * running / flops
    )
    return Pace(1 / reading, running / step, int(running))
