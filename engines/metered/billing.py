"""How an endpoint's workers are paid: the meter of each, as the job states prices and rentals."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from thirdshift.engines.metered.meter import Meter
from thirdshift.engines.metered.node import NodeMeter, WorkerMeter
from thirdshift.engines.metered.records import WorkerRecords
from thirdshift.engines.metered.rentals import RENTALS, Rentals
from thirdshift.engines.metered.spot import SpotPrice, SpotTariff
from thirdshift.engines.metered.tariff import DailyTariff, Tariff
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint


class WorkerBilling:
    """Makes meters for the workers of one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        records: WorkerRecords,
        *,
        rentals: Rentals = RENTALS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self._engine_context, self._records = endpoint, engine_context, records
        self._rentals, self._own, self._clock = rentals, Rentals(clock), clock
        self._spec = endpoint.workers
        self._stated_usd = endpoint.price.usd_per_hour or Decimal(0)
        """When the run began."""
        spot = self._spec is not None and self._spec.spot_price is not None and self._stated_usd > 0
        self._spot = SpotPrice(self._stated_usd, self._asked, self._told, clock=clock) if spot else None
        self._nodes: dict[str, NodeMeter] = {}
        for until in engine_context.rented_until.get(endpoint.name, ()):
            self._own.leave((self._stated_usd, ()), clock() + (until - datetime.now(UTC)).total_seconds())

    @property
    def usd_per_hour(self) -> Decimal:
        """What an hour costs from now on."""
        return self._stated_usd if self._spot is None else self._spot.usd_per_hour

    def meter(
        self, run_id: str, worker_id: str, *, node: str, rented: tuple[str, ...], began: float | None
    ) -> WorkerMeter:
        """Return the meter of a worker that is about to start. `rented`: what names its devices; `began`: since when its
        time is paid, on the clock."""
        make = partial(self._made, run_id, worker_id, rented, began)
        if self._spec is None or not self._spec.node_price or not self._stated_usd:
            return make()
        whole = self._nodes.setdefault(node, NodeMeter())
        return whole.share(partial(self._made, run_id, worker_id, (node,), began))

    def _made(self, run_id: str, worker_id: str, rented: tuple[str, ...], began: float | None) -> Meter:
        spec = self._spec
        minimum = 60.0 * (spec.minimum_minutes if spec is not None else 0.0)
        increment = 60.0 * (spec.billing_increment_minutes if spec is not None else 0.0)
        rentals, named = (self._rentals if rented else self._own), (self._stated_usd, rented)
        paid = rentals.take(named) if minimum or increment else None
        if paid is None and (minimum or increment):  # by a process that did not say of what
            paid = self._own.take((self._stated_usd, ()))
        return Meter(
            self._stated_usd,
            self._engine_context,
            lambda amount: self._records.overhead(run_id, worker_id, amount),
            minimum_seconds=minimum,
            increment_seconds=increment,
            tariff=self._tariff(),
            clock=self._clock,
            began=began,
            paid_until=paid,
            leave=(lambda until: rentals.leave(named, until)) if minimum or increment else None,
        )

    def _tariff(self) -> Tariff | None:
        """Return what time costs, where that is not the same at all times."""
        if self._spot is not None:
            return SpotTariff(self._spot)
        price = self._endpoint.price
        return DailyTariff(price, self._clock) if price.off_peak and self._stated_usd else None

    def _asked(self) -> Decimal | None:
        return self._engine_context.hourly_usd(self._endpoint.name)

    def _told(self, before: Decimal, now: Decimal) -> None:
        self._engine_context.say(
            f"endpoint {self._endpoint.name}: an hour costs ${now:.2f} from now on; it was ${before:.2f}"
        )
