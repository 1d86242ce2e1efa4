"""An engine on a Ray cluster for tests: its workers are stand-ins, so that deaths cost no model's start."""

from __future__ import annotations

import threading
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.engines import MemoryJournal, request, shard
from tests.support.ray_cluster import RayCluster, until
from tests.support.workers import stand_in_python, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.ray.engine import RayEngine
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Answer, ClusterSpec, Endpoint, Failure

USD_PER_HOUR = Decimal(36)


def house(
    folder: Path, cluster: RayCluster, *, workers: int = 2, device: str = "cpu", **options: Any
) -> Endpoint:
    python = str(stand_in_python(folder))
    spec = ClusterSpec(cluster.address, python=python)
    return worker_endpoint(
        usd_per_hour=USD_PER_HOUR,
        python=python,
        workers=workers,
        device=device,
        options=options,
        cluster=spec,
    )


class Night:
    """An engine with its journal, and what it has said."""

    def __init__(
        self, endpoint: Endpoint, *, deadline: datetime | None = None, elsewhere: bool = False, **terms: float
    ) -> None:
        self.journal, self.said = MemoryJournal(), list[str]()
        context = EngineContext(
            self.journal, RunBudget(Decimal(10)), deadline, elsewhere=elsewhere, say=self.said.append
        )
        self.engine = RayEngine(endpoint, context, **terms)
        self.replies: list[Answer | Failure] = []

    def ask(self, count: int) -> list[Answer | Failure]:
        """Have a shard answered, and end the engine."""
        ticket = self.begin(count)
        for reply in self.engine.collect(ticket):
            self.replies.append(reply)
        self.engine.close()
        assert sorted(reply.row for reply in self.replies) == list(range(count))
        return self.replies

    def begin(self, count: int, key: str = "key") -> Any:
        return self.engine.submit(shard("house", [request(n, f"add {n} 1") for n in range(count)]), key)

    def in_background(self, count: int) -> threading.Thread:
        thread = threading.Thread(target=self.ask, args=(count,))
        thread.start()
        return thread

    @property
    def answers(self) -> int:
        return sum(isinstance(reply, Answer) for reply in self.replies)

    def at_work(self, workers: int = 1, answers: int = 1) -> list[int]:
        """Wait until so many are ready and something is answered; return the workers' process ids."""
        until(
            lambda: (
                sum(
                    life.ready_at is not None and life.stopped_at is None
                    for life in self.engine.worker_lifetimes()
                )
                >= workers
            )
        )
        until(lambda: self.answers >= answers)
        return [life.pid for life in self.engine.worker_lifetimes() if life.stopped_at is None]
