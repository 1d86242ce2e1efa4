"""Money that comes back: whoever waits for it is told."""

from __future__ import annotations

import asyncio


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
        await asyncio.wait((future,), timeout=seconds)
        if not future.done():
            future.cancel()
            self._waiting.remove(future)


RETURNS = Returns()
