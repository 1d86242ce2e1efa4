"""What a batch tier can hold at a time: whole requests, and no more of them than the cap can be reserved for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.problem import Option

BATCH_SHARE = 0.8
"""The share of a cap that batches may reserve; the rest is for what is asked in real time meanwhile."""


def in_batches(
    option: Option, input_tokens: NDArray[np.int32], reserved_usd: float, cap_usd: float | None
) -> Option:
    """Return the option with what its queue really holds. `reserved_usd`: what a request reserves, in the mean."""
    if option.queue_tokens is not None and len(input_tokens):
        whole = option.queue_tokens - option.token_factor * float(input_tokens.mean())
        option = replace(option, queue_tokens=max(whole, option.queue_tokens / 2))
    if option.turnaround_seconds > 0 and cap_usd is not None and reserved_usd > 0:
        option = replace(option, queue_requests=max(int(BATCH_SHARE * cap_usd / reserved_usd), 1))
    return option
