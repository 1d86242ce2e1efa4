"""A model's rate limits: no sliding minute sees more requests or tokens than stated; and their headers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from thirdshift.router.values import Limits

MINUTE = 60.0


class Minute:
    """What was used in the last sixty seconds, against a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._entries: deque[tuple[float, int]] = deque()

    def remaining(self, now: float) -> int:
        while self._entries and self._entries[0][0] <= now - MINUTE:
            self._used -= self._entries.popleft()[1]
        return self.limit - self._used

    def wait_for(self, amount: int, now: float) -> float:
        """Return seconds until `amount` fits; 0 where it does, infinite where it never will."""
        missing = amount - self.remaining(now)
        if missing <= 0:
            return 0.0
        if amount > self.limit:
            return math.inf
        for at, entry in self._entries:
            missing -= entry
            if missing <= 0:
                return max(at + MINUTE - now, 0.001)
        return MINUTE

    def use(self, amount: int, now: float) -> None:
        self._entries.append((now, amount))
        self._used += amount


class Allowance:
    """One model's limits. `admit` counts the request where it lets it in; `leave` when it is done."""

    def __init__(self, limits: Limits) -> None:
        self._requests = Minute(limits.rpm) if limits.rpm else None
        self._tokens = Minute(limits.tpm) if limits.tpm else None
        self._concurrency = limits.concurrency
        self.in_flight = 0
        self.most_in_flight = 0

    def admit(self, tokens: int, now: float) -> float:
        """Let a request in and return 0, else the seconds after which to come back; infinite: it is above the limit."""
        waits = [0.0]
        if self._requests is not None:
            waits.append(self._requests.wait_for(1, now))
        if self._tokens is not None:
            waits.append(self._tokens.wait_for(tokens, now))
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            waits.append(0.05)
        if max(waits) > 0.0:
            return max(waits)
        if self._requests is not None:
            self._requests.use(1, now)
        if self._tokens is not None:
            self._tokens.use(tokens, now)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return 0.0

    def leave(self) -> None:
        self.in_flight -= 1

    def headers(self, now: float) -> Mapping[str, str]:
        """Return OpenAI's x-ratelimit headers, for the limits there are."""
        headers: dict[str, str] = {}
        for name, minute in (("requests", self._requests), ("tokens", self._tokens)):
            if minute is not None:
                remaining = minute.remaining(now)
                headers[f"x-ratelimit-limit-{name}"] = str(minute.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(remaining, 0))
                headers[f"x-ratelimit-reset-{name}"] = f"{minute.wait_for(1, now):.3f}s"
        return headers


def retry_headers(seconds: float) -> dict[str, str]:
    """Return retry headers: whole seconds, as HTTP wants them, and milliseconds, as OpenAI adds them."""
    if math.isinf(seconds):
        return {}
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
