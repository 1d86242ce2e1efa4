"""Concurrency slots at an endpoint: a job's `limits.concurrency` holds across the flow runs of a Prefect server.

Within a run our engine keeps the limit, request by request. Across runs, a run holds a slot while it has shards
there: one lease of Prefect's global concurrency limit `thirdshift-<endpoint>` for all its shards together. Runs of
deployments make the limit, with one slot, where it is missing; whoever gives it more slots lets as many runs in at a time.
A run by the command keeps to a limit that is there. A slot that no live run holds is taken back, so that no run waits for
ever: see `thirdshift.flows.orchestration.slot_holders`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from time import monotonic
from uuid import UUID

from thirdshift.flows.orchestration.slot_holders import LEASE_STORAGE, mark, take_back, unheld
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.values import Mode

LEASE_SECONDS = 60.0
"""A killed process keeps its slot for as long; Prefect renews the lease meanwhile, and takes no shorter one."""
ASK_SECONDS = 5.0
"""How long one request for a slot waits, before it is checked whether the run still wants it."""
AGAIN_SECONDS = 5.0
"""After a question that Prefect's API did not answer."""
SILENT_SECONDS = 2 * LEASE_SECONDS
"""A slot that no run is seen to hold for as long is held by nobody; the server frees what it knows of sooner."""


@dataclass
class _EndpointSlot:
    lock: Lock = field(default_factory=Lock)
    shards: int = 0
    held: ExitStack = field(default_factory=ExitStack)


class EndpointSlots:
    """The slots of one run. `endpoints`: names whose slots are limited; all others are free."""

    def __init__(
        self,
        endpoints: Collection[str] = (),
        deadline: datetime | None = None,
        say: Callable[[str], None] = print,
        flow_run: UUID | None = None,
    ) -> None:
        self._slots = {name: _EndpointSlot() for name in endpoints}
        self._deadline, self._say, self._flow_run = deadline, say, flow_run
        self._over = Event()

    def stop(self) -> None:
        """Wait for no slot any more: what then goes to the engine is not sent."""
        self._over.set()

    @contextmanager
    def of(self, endpoint: str) -> Iterator[None]:
        """Wait for a slot at the endpoint, at most until the deadline, and hold it."""
        slot = self._slots.get(endpoint)
        if slot is None:
            yield
            return
        with slot.lock:
            if not slot.shards:
                self._take(slot.held, endpoint)
            slot.shards += 1
        try:
            yield
        finally:
            with slot.lock:
                slot.shards -= 1
                if not slot.shards:
                    with suppress(Exception):  # a lease that cannot be given back ends by itself
                        slot.held.close()
                    mark(self._flow_run, limit_name(endpoint), held=False)

    def _take(self, held: ExitStack, endpoint: str) -> None:
        from prefect.concurrency.sync import concurrency

        waits = lost = False
        watch = _SlotWatch(limit_name(endpoint), self._say)
        while not self._over.is_set() and (self._deadline is None or datetime.now(UTC) < self._deadline):
            try:
                held.enter_context(
                    concurrency(
                        limit_name(endpoint), timeout_seconds=ASK_SECONDS, lease_duration=LEASE_SECONDS
                    )
                )
                mark(self._flow_run, limit_name(endpoint), held=True)
                return
            except TimeoutError:
                if not waits:
                    self._say(
                        f"{endpoint}: waiting for another run to be done there ({limit_name(endpoint)})"
                    )
                waits = True
                watch.look()
            except Exception as error:  # noqa: BLE001 - a run waits for hours; the API may be away meanwhile
                if not lost:
                    self._say(
                        f"{endpoint}: its slot cannot be asked for now ({str(error) or type(error).__name__}); asking again"
                    )
                lost = True
                self._over.wait(AGAIN_SECONDS)


@dataclass
class _SlotWatch:
    """Looks, while a run waits, whether anybody holds what it waits for."""

    limit: str
    say: Callable[[str], None]
    since: float | None = None
    """When slots were first seen to be held by nobody."""

    def look(self) -> None:
        """Take back what has been held by nobody for `SILENT_SECONDS`."""
        try:
            slots = unheld(self.limit, timedelta(seconds=SILENT_SECONDS))
            if not slots:
                self.since = None
            elif self.since is None:
                self.since = monotonic()
            elif monotonic() - self.since >= SILENT_SECONDS:
                take_back(self.limit, slots)
                self.since = None
                self.say(
                    f"{self.limit}: {slots} slot{'s' * (slots > 1)} held by no run that is alive: taken back. A Prefect "
                    f"server that is started anew forgets who holds what, unless it has {LEASE_STORAGE}"
                )
        except Exception:  # noqa: BLE001 - the API may be away; the turn is asked for again, and so is this
            self.since = None


def limit_name(endpoint: str) -> str:
    return f"thirdshift-{endpoint}"


def slots_for(context: RunContext, say: Callable[[str], None]) -> EndpointSlots:
    """Return the slots of a run at the endpoints whose concurrency is stated; limits that are missing are created.

    A batch does not occupy its provider while it waits, and an emulated endpoint is shared with nobody: no slots there.
    """
    names = [
        endpoint.name
        for endpoint in context.endpoints
        if endpoint.limits.concurrency is not None
        and endpoint.mode is not Mode.BATCH
        and not endpoint.emulated
    ]
    from prefect import runtime

    return EndpointSlots(
        [name for name in names if _there(limit_name(name))],
        context.deadline,
        say,
        UUID(runtime.flow_run.id) if runtime.flow_run.id else None,
    )


def _there(name: str) -> bool:
    """Whether the limit exists; a run of a deployment makes it."""
    from prefect import runtime
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            if runtime.deployment.id is None:
                return False
            with suppress(ObjectAlreadyExists):  # another run was quicker
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    return True
