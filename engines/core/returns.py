"""Money that comes back: whoever waits for it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

LONGEST_SECONDS = 15.0
"""Between two looks at what nobody tells of: a worker's lease that ended, a clock that was set."""
_GROWTH = 1.5


class Returns:
    """Tells those who wait for money that some came back. One for all engines of the process's loop."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            if not future.done():
                future.cancel()
                self._waiting.remove(future)


def pauses(first_seconds: float, longest_seconds: float = LONGEST_SECONDS) -> Iterator[float]:
    """How long to wait for news, time after time: what returns is told, so that a look without news is followed by one ever
    later."""
    seconds = first_seconds
    while True:
        yield seconds
        seconds = max(first_seconds, min(seconds * _GROWTH, longest_seconds))


RETURNS = Returns()
