"""`max_vendor_share` of what is served in the end.

A plan and a repair keep it, as a whole. Of a repair a part may be sent first, an answer may fail or turn out worse than the
one that is held, and of votes more may differ than was expected. Where that leaves a vendor more than its share, other
answers that are held are served, those that lose least first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment


def keep_shares(
    assignment: Assignment,
    weight: NDArray[np.integer],
    vendor: NDArray[np.intp],
    most: float,
    worth: NDArray[np.floating],
) -> None:
    """Serve other held answers where a vendor has more than `most` requests. `weight`: [leaders] how many requests each
    stands for; `vendor`: [endpoints] by number; `worth`: [leaders, endpoints] of each answer."""
    while True:
        served = assignment.served
        has = served >= 0
        taken = np.bincount(vendor[served[has]], weight[has], minlength=int(vendor.max()) + 1)
        over = int(taken.argmax())
        if taken[over] <= most or not _give(
            assignment, weight, vendor, np.float64(most) - taken, over, worth
        ):
            return


def _give(
    assignment: Assignment,
    weight: NDArray[np.integer],
    vendor: NDArray[np.intp],
    room: NDArray[np.float64],
    over: int,
    worth: NDArray[np.floating],
) -> bool:
    """Serve what `over` has too much of by other vendors, and say whether anything was. `room`: [vendors], changed."""
    served = assignment.served
    rows = np.flatnonzero((served >= 0) & (vendor[served] == over))
    free = assignment.answered[rows] & (room[vendor] > 0)
    loss = worth[rows, served[rows]][:, None] - np.where(free, worth[rows], -np.inf)
    given, to = list[int](), list[int]()
    for at in np.argsort(loss.min(axis=1), kind="stable").tolist():
        row, endpoint = int(rows[at]), int(loss[at].argmin())
        if room[over] >= 0 or not np.isfinite(loss[at, endpoint]):
            break
        if room[vendor[endpoint]] >= weight[row]:
            room[vendor[endpoint]] -= weight[row]
            room[over] += weight[row]
            given.append(row)
            to.append(endpoint)
    assignment.override(np.array(given, np.int64), np.array(to, np.int32))
    return bool(given)
