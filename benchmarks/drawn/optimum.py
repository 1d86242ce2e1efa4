"""The cheapest night of one who knows the draw: a mixed-integer program of its own, solved by HiGHS through SciPy.

It knows every endpoint's lengths, latencies, speeds and cache, and how often each is right on each task; not the luck of
single requests. Where scores are free it may send on what failed, once. Requests of one task and like size are a class.
Limits: concurrency and requests a minute until the deadline, price windows, a batch tier's turnaround and queue, workers
in whole numbers with their starts and minima, the floor, and the cap as the promise that it is: what waits in batches could
all be as long as it may be and still be paid. None where the draw's terms allow no night at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from drawn.draw import Draw, Night

Floats = NDArray[np.float64]
SIZES = 4
"""Classes of size within a task."""
HORIZON = 7 * 24 * 3600.0
USUAL = 0.8
"""The share of the turnaround stated that a batch takes in the mean."""


@dataclass(frozen=True)
class Part:
    """An endpoint at one price, for so many seconds of the night."""

    endpoint: int
    factor: float
    seconds: float


@dataclass(frozen=True)
class Best:
    cost_usd: float
    seconds: float
    """About when such a night is over; the deadline bounds it."""


def best_night(
    draw: Draw, night: Night, begins: float, seconds: float | None, cap_usd: float | None = None
) -> Best | None:
    """The optimum, or None where the deadline or the floor cannot be had."""
    return _Program(draw, night, begins, seconds, cap_usd).solve()


class _Program:
    def __init__(
        self, draw: Draw, night: Night, begins: float, seconds: float | None, cap_usd: float | None = None
    ) -> None:
        self.draw, self.night, self.begins, self.seconds, self.cap_usd = draw, night, begins, seconds, cap_usd
        self.ends = draw.endpoints
        self.parts = [part for e in range(len(self.ends)) for part in self._parts(e)]
        self.group, self.size = self._classes()
        self.usd, self.busy, self.quality = self._tables()
        self.columns = self._columns()

    def _classes(self) -> tuple[NDArray[np.int64], Floats]:
        order = np.zeros(self.draw.rows, np.int64)
        for task in range(self.draw.tasks):
            mine = np.flatnonzero(self.night.task == task)
            rank = np.argsort(np.argsort(self.night.input_tokens[mine, 0]))
            order[mine] = task * SIZES + rank * SIZES // max(len(mine), 1)
        return order, np.bincount(order, minlength=self.draw.tasks * SIZES).astype(float)

    def _mean(self, column: Floats) -> Floats:
        return np.bincount(self.group, column, len(self.size)) / np.maximum(self.size, 1)

    def _tables(self) -> tuple[Floats, Floats, Floats]:
        """By class and part: US dollars and seconds of one request; by class and endpoint: how often it is right."""
        usd, busy = np.zeros((2, len(self.size), len(self.parts)))
        for p, part in enumerate(self.parts):
            end = self.ends[part.endpoint]
            read = self._mean(self.night.input_tokens[:, part.endpoint])
            length = self.night.output_tokens[:, part.endpoint].astype(float)
            by_task = np.bincount(self.night.task, length, self.draw.tasks)
            by_task /= np.maximum(np.bincount(self.night.task, minlength=self.draw.tasks), 1)
            written = np.repeat(by_task, SIZES)
            if end.kind == "workers":
                busy[:, p] = read / end.prefill + written / end.decode
                continue
            price = end.job["price"]
            shared = self.night.shared_tokens // 128 * 128 if self.night.shared_tokens >= 1024 else 0
            cached = end.hit_rate * shared if "cached_input" in price else 0.0
            usd[:, p] = (
                (read - cached) * price["input"] + cached * price.get("cached_input", 0) + written * price["output"]
            ) * part.factor / 1e6  # fmt: skip
            busy[:, p] = end.first_seconds + end.seconds_per_token * written
        quality = np.ones((len(self.size), len(self.ends)))
        if self.draw.scored:
            for e in range(len(self.ends)):
                by_task = np.bincount(self.night.task, self.night.right[:, e], self.draw.tasks)
                by_task /= np.maximum(np.bincount(self.night.task, minlength=self.draw.tasks), 1)
                quality[:, e] = np.repeat(by_task, SIZES)
        else:
            quality[:] = [end.job["quality_prior"] for end in self.ends]
        return usd, busy, quality

    def _waiting(self, p: int, asked: dict[int, float]) -> dict[int, float]:
        """By column: the US dollars that its requests could cost at most while they wait in a batch, in the mean of the
        time until the deadline. `asked`: how many requests it sends there."""
        end, seconds = self.ends[self.parts[p].endpoint], self.seconds
        if end.kind != "batch" or self.cap_usd is None or seconds is None:
            return {}
        price, system = end.job["price"], len(self.draw.system.encode())
        size = self._mean(np.array([len(text) + system for text in self.night.prompts], float))
        most = (size * price["input"] + self.draw.max_tokens * price["output"]) / 1e6
        rounds = max(seconds // (USUAL * end.turnaround_seconds), 1.0)
        return {at: share * float(most[at % len(self.size)]) / rounds for at, share in asked.items()}

    def _parts(self, e: int) -> list[Part]:
        """An endpoint's prices until the deadline, each with the seconds that it is in force."""
        end = self.ends[e]
        until = HORIZON if self.seconds is None else self.seconds
        off_peak = end.job.get("off_peak")
        if off_peak is None:
            return [Part(e, 1.0, until)]
        cheap = 0.0
        instant = self.begins
        while instant < self.begins + until:
            step = min(60.0, self.begins + until - instant)
            if datetime.fromtimestamp(instant, UTC).hour in off_peak["hours"]:
                cheap += step
            instant += step
        return [Part(e, off_peak["factor"], cheap), Part(e, 1.0, until - cheap)]

    def _columns(self) -> list[tuple[int, ...]]:
        """Whom to ask, by part: one, or where scores are free one and then another about what failed."""
        within = [p for p, part in enumerate(self.parts) if self._in_time((part,))]
        columns: list[tuple[int, ...]] = [(p,) for p in within]
        if self.draw.scored:
            pairs = permutations(within, 2)
            columns += [
                pair for pair in pairs
                if self.ends[self.parts[pair[0]].endpoint].model != self.ends[self.parts[pair[1]].endpoint].model
                and self._in_time([self.parts[p] for p in pair])
            ]  # fmt: skip
        return columns

    def _in_time(self, parts: Any) -> bool:
        waits = sum(self.ends[part.endpoint].turnaround_seconds for part in parts)
        return all(part.seconds > 0 for part in parts) and (self.seconds is None or waits <= self.seconds)

    def _asked(self, column: tuple[int, ...]) -> list[tuple[int, Floats]]:
        """Each part and by class the share of the column's requests that it is asked."""
        asked = [(column[0], np.ones(len(self.size)))]
        if len(column) == 2:
            asked.append((column[1], 1.0 - self.quality[:, self.parts[column[0]].endpoint]))
        return asked

    def _quality(self, column: tuple[int, ...]) -> Floats:
        first = self.parts[column[0]].endpoint
        if len(column) == 1:
            return self.quality[:, first]
        second = self.parts[column[1]].endpoint
        missed = ~self.night.right[:, first]
        count = np.bincount(self.night.task, missed, self.draw.tasks)
        mended = np.bincount(self.night.task, missed & self.night.right[:, second], self.draw.tasks)
        return self.quality[:, first] + np.repeat(mended, SIZES) / np.repeat(
            np.bincount(self.night.task, minlength=self.draw.tasks).clip(1), SIZES
        ) * (count.repeat(SIZES) > 0)

    def solve(self) -> Best | None:  # noqa: C901 - a limit after the other
        k, c = len(self.size), len(self.columns)
        pools = [e for e, end in enumerate(self.ends) if end.kind == "workers"]
        width = k * c + 2 * len(pools)  # requests by class and column; workers; paid seconds
        cost = np.zeros(width)
        rows: list[dict[int, float]] = []
        low: list[float] = []
        high: list[float] = []

        def limit(of: dict[int, float], least: float, most: float) -> None:
            rows.append(of)
            low.append(least)
            high.append(most)

        use: dict[int, dict[int, float]] = {}
        calls: dict[int, dict[int, float]] = {}
        tokens: dict[int, dict[int, float]] = {}
        worth: dict[int, float] = {}
        for j, column in enumerate(self.columns):
            gained = self._quality(column)
            for g in range(k):
                at = j * k + g
                worth[at] = float(gained[g])
                for p, share in self._asked(column):
                    part = self.parts[p]
                    cost[at] += share[g] * self.usd[g, p]
                    use.setdefault(p, {})[at] = share[g] * self.busy[g, p]
                    calls.setdefault(p, {})[at] = float(share[g])
                    mean = self._mean(self.night.input_tokens[:, part.endpoint])[g]
                    tokens.setdefault(p, {})[at] = share[g] * mean
        for g in range(k):
            limit({j * k + g: 1.0 for j in range(c)}, self.size[g], self.size[g])
        if self.draw.floor is not None:
            limit(worth, self.draw.floor * float(self.size.sum()) - 1e-9, np.inf)
        waiting: dict[int, float] = {}
        for p, asked in calls.items():
            for at, usd in self._waiting(p, asked).items():
                waiting[at] = waiting.get(at, 0.0) + usd
        if waiting and self.cap_usd is not None:
            limit(waiting, -np.inf, self.cap_usd)
        for p, part in enumerate(self.parts):
            end = self.ends[part.endpoint]
            if p not in use:
                continue
            if end.kind == "realtime":
                limit(use[p], -np.inf, part.seconds * end.concurrency)
                if rpm := end.job["limits"].get("rpm"):
                    limit(calls[p], -np.inf, part.seconds * rpm / 60)
            elif end.kind == "batch" and (queue := end.job["limits"].get("enqueued_tokens")) and self.seconds:
                limit(tokens[p], -np.inf, queue * max(self.seconds // (USUAL * end.turnaround_seconds), 1.0))
            elif end.kind == "workers":
                n = k * c + pools.index(part.endpoint)
                paid = n + len(pools)
                until = min(part.seconds, HORIZON)
                rate, minimum = end.job["usd_per_hour"] / 3600, 60.0 * end.job["minimum_minutes"]
                limit(use[p] | {n: -(until - end.startup_seconds)}, -np.inf, 0.0)
                limit({paid: 1.0, n: -end.startup_seconds} | {i: -s for i, s in use[p].items()}, 0.0, np.inf)
                limit({paid: 1.0, n: -minimum}, 0.0, np.inf)
                cost[paid] = rate
        return self._solved(cost, rows, low, high, pools)

    def _solved(
        self,
        cost: Floats,
        rows: list[dict[int, float]],
        low: list[float],
        high: list[float],
        pools: list[int],
    ) -> Best | None:
        i = np.concatenate([np.full(len(row), r) for r, row in enumerate(rows)])
        j = np.concatenate([np.fromiter(row, np.int64) for row in rows])
        v = np.concatenate([np.fromiter(row.values(), float) for row in rows])
        matrix = coo_array((v, (i, j)), (len(rows), len(cost))).tocsr()
        whole = np.zeros(len(cost))
        most = np.full(len(cost), np.inf)
        first = len(cost) - 2 * len(pools)
        for place, e in enumerate(pools):
            whole[first + place] = 1
            most[first + place] = self.ends[e].job["workers"]
        scale = max(float(np.abs(cost).max()), 1e-12)
        solved = milp(
            cost / scale, constraints=LinearConstraint(matrix, low, high), integrality=whole,
            bounds=Bounds(0, most), options={"mip_rel_gap": 1e-4, "time_limit": 20},
        )  # fmt: skip
        if solved.x is None:
            return None
        return Best(float(solved.fun) * scale, self.seconds or 0.0)
