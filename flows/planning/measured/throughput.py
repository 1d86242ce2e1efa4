"""How fast local workers are, for the plan: as earlier nights measured it, before that a stated guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from thirdshift.engines.devices import hardware, machine, width
from thirdshift.engines.devices.cards import card_named, with_memory
from thirdshift.engines.devices.model_shape import config_of, shape_of
from thirdshift.engines.devices.roofline import pace
from thirdshift.engines.devices.setting import driver, setting, usual_seqs
from thirdshift.engines.metered.throughput import Rates
from thirdshift.flows.planning.measured.latency import earlier_latencies
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.planning.market import DEVICE_PACE, GUESSED
from thirdshift.router.planning.options import Throughput
from thirdshift.router.planning.problem import Devices
from thirdshift.router.values import ClusterSpec, Endpoint, WorkerSpec
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.store import Warehouse

TYPICAL_READ, TYPICAL_WRITTEN = 1000.0, 300.0
"""Tokens of a prompt and an answer, for what memory holds at once: the lengths are not known yet."""
ENOUGH_SECONDS = 5.0
"""Seconds of work it takes before what is measured in this run corrects its plan."""


@runtime_checkable
class HasRates(Protocol):
    """An engine that measures its workers as they work."""

    def rates(self) -> Rates | None: ...


@runtime_checkable
class HasHardware(Protocol):
    """An engine whose workers may run on several kinds of hardware."""

    def rates_by_hardware(self) -> list[Rates]: ...


@runtime_checkable
class HasWorkers(Protocol):
    """An engine with workers of its own."""

    def worker_lifetimes(self) -> Sequence[Any]: ...


@runtime_checkable
class HasHourlyPrice(Protocol):
    """An engine whose workers are paid by the hour."""

    @property
    def usd_per_hour(self) -> Decimal: ...


@dataclass(frozen=True, slots=True)
class KnownThroughput:
    throughput: Throughput
    source: str


def known_paces(endpoints: Sequence[Endpoint], warehouse: Warehouse | None) -> dict[str, KnownThroughput]:
    """Return the throughput of every endpoint that is paid by the hour, by name."""
    seen = Measured(rates.known(warehouse).to_pylist() if warehouse is not None else [])
    found = {}
    for each in endpoints:
        spec = each.workers
        if spec is None and each.price.usd_per_hour is None:
            continue
        if spec is not None and spec.cluster is not None:
            found[each.name] = _on_cluster(each.model, spec, spec.cluster, seen)
            continue
        place = ("server", each.api_base or "") if spec is None else (spec.device, hardware(spec))
        row = seen.of(each.model, *place, setting(spec), driver(spec))
        known = _before(each, place[0]) if row is None or row[WRITTEN] is None else _measured(row)
        if row is not None and row[WRITTEN] is None:
            known = replace(
                known, throughput=replace(known.throughput, startup_seconds=row["startup_seconds"])
            )
        found[each.name] = replace(known, throughput=replace(known.throughput, devices=_devices(spec)))
    return found


WRITTEN = "decode_tokens_per_second"


class Measured:
    """What earlier nights have measured, by what it holds for."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows`: as `rates.known` has them, the best first."""
        self._rows = rows

    def of(
        self, model: str, device: str, hardware: str, setting: str, driver: str
    ) -> Mapping[str, Any] | None:
        """Return the row for this, or for the same with another driver, or one that says nothing of its options (earlier
        versions wrote none); None: there is none."""
        here = [
            row
            for row in self._rows
            if (row["model"], row["device"], row["hardware"]) == (model, device, hardware)
        ]
        same = [row for row in here if row["setting"] == setting]
        exact = [row for row in same if (row["driver"] or "") == driver]
        return next(iter((*exact, *same, *(row for row in here if row["setting"] is None))), None)


def _devices(spec: WorkerSpec | None) -> Devices | None:
    """Return what a worker takes of the devices of this machine, which other models want too."""
    if spec is None or spec.device == "cpu":
        return None
    return Devices(spec.device, width(spec.options), len(machine().of(spec.device)))


def _on_cluster(model: str, spec: WorkerSpec, cluster: ClusterSpec, seen: Measured) -> KnownThroughput:
    """Return the mean worker of a cluster: each kind of hardware that was measured, by how many there is room for."""
    device, how = spec.device, setting(spec)
    kinds = [
        (row, count)
        for name, count in cluster.hardware
        if (row := seen.of(model, device, name, how, "")) is not None and row[WRITTEN] is not None
    ]
    if len(kinds) == 1:
        return _measured(kinds[0][0])
    room = sum(count for _, count in kinds)
    if not room:
        return _guess(device)

    def mean(column: str) -> float:
        return sum(count * float(row[column]) for row, count in kinds) / room

    return KnownThroughput(
        Throughput(
            prefill_tokens_per_second=mean("prefill_tokens_per_second"),
            decode_tokens_per_second=mean("decode_tokens_per_second"),
            startup_seconds=mean("startup_seconds"),
        ),
        "the mean of what was measured on "
        + " and ".join(f"{row['hardware']} (room for {count})" for row, count in kinds),
    )


def with_throughput(context: RunContext, warehouse: Warehouse | None) -> tuple[RunContext, list[str]]:
    """The setting with what is known of its workers' pace, and that in sentences."""
    known = known_paces(context.endpoints, warehouse)
    speeds = {
        name: f"{name}: a worker is taken to read {found.throughput.prefill_tokens_per_second:,.0f} tokens a second, "
        f"to write {found.throughput.decode_tokens_per_second:,.0f} and to start in "
        f"{found.throughput.startup_seconds:.0f} s: {found.source}"
        for name, found in known.items()
    }
    throughputs = {name: one.throughput for name, one in known.items()}
    if warehouse is not None:
        emulated = context.call.emulated
        throughputs |= earlier_latencies(context.endpoints, warehouse, emulated=emulated)
    return replace(context, throughputs=throughputs, speeds=speeds), list(speeds.values())


def throughput_of_run(
    throughputs: Mapping[str, Throughput], engines: Mapping[str, object]
) -> dict[str, Throughput]:
    """`paces` corrected by what these engines have measured so far."""
    corrected = dict(throughputs)
    for name, one in _rates(engines):
        if one.full and one.seconds >= ENOUGH_SECONDS:
            corrected[name] = replace(
                corrected.get(name, Throughput()),
                prefill_tokens_per_second=one.prefill_tokens_per_second,
                decode_tokens_per_second=one.decode_tokens_per_second,
                startup_seconds=one.startup_seconds,
            )
    for name, engine in engines.items():
        if isinstance(engine, HasWorkers) and name in corrected:
            up = sum(lifetime.stopped_at is None for lifetime in engine.worker_lifetimes())
            corrected[name] = replace(corrected[name], running=up)
    return corrected


def priced_now(endpoints: Sequence[Endpoint], engines: Mapping[str, object]) -> tuple[Endpoint, ...]:
    """Return the endpoints, those with a spot price at what their workers are paid from now on."""
    return tuple(
        replace(endpoint, price=replace(endpoint.price, usd_per_hour=engine.usd_per_hour))
        if endpoint.workers is not None
        and endpoint.workers.spot_price is not None
        and isinstance(engine := engines.get(endpoint.name), HasHourlyPrice)
        else endpoint
        for endpoint in endpoints
    )


def keep_rates(warehouse: Warehouse, context: RunContext, engines: Mapping[str, object]) -> None:
    """Write down what this process has measured."""
    endpoints = {each.name: each for each in context.endpoints}
    found = [
        {
            "run_id": context.run_id,
            "endpoint": name,
            "model": endpoints[name].model,
            "setting": setting(endpoints[name].workers),
            "driver": driver(endpoints[name].workers),
            "is_full": one.full,
            "device": one.device,
            "hardware": one.hardware,
            "vllm": one.vllm_version,
            "prefill_tokens_per_second": one.prefill_tokens_per_second,
            "decode_tokens_per_second": one.decode_tokens_per_second,
            "told_apart": one.measured,
            "startup_seconds": one.startup_seconds,
            "seconds": one.seconds,
            "prefill_tokens": one.prefill_tokens,
            "decode_tokens": one.decode_tokens,
            "measured_at": datetime.now(UTC),
        }
        for name, one in _rates(engines, by_hardware=True)
    ]
    if found:
        rates.save(warehouse, pa.Table.from_pylist(found, rates.MEASURED))


def _rates(engines: Mapping[str, object], *, by_hardware: bool = False) -> list[tuple[str, Rates]]:
    """Return what was measured of engines whose workers have answered something."""
    several: list[tuple[str, Rates | None]] = []
    for name, each in engines.items():
        if by_hardware and isinstance(each, HasHardware):
            several += [(name, rates) for rates in each.rates_by_hardware()]
        elif isinstance(each, HasRates):
            several.append((name, each.rates()))
    return [(name, one) for name, one in several if one is not None and one.seconds > 0]


def _measured(row: Mapping[str, Any]) -> KnownThroughput:
    nights = "one night" if row["nights"] == 1 else f"the last {row['nights']} nights"
    throughput = Throughput(
        prefill_tokens_per_second=row["prefill_tokens_per_second"],
        decode_tokens_per_second=row["decode_tokens_per_second"],
        startup_seconds=row["startup_seconds"],
    )
    version = f" with vLLM {row['vllm']}" if row["vllm"] else ""
    return KnownThroughput(throughput, f"measured on {row['hardware']}{version}, {nights}")


def _before(endpoint: Endpoint, device: str) -> KnownThroughput:
    """Return what is believed before a first night: by the model's shape and the card, where both are known."""
    spec = endpoint.workers
    devices = machine().of(device) if spec is not None and device != "cpu" else ()
    card = card_named(devices[0].name) if devices else None
    config = config_of(endpoint.model) if card is not None else None
    shape = shape_of(config, spec.options) if spec is not None and config is not None else None
    if spec is None or card is None or shape is None:
        return _guess(device)
    most = usual_seqs(spec, devices[0].memory_mib)
    card = with_memory(card, devices[0].memory_mib)
    told = pace(shape, card, width(spec.options), TYPICAL_READ, TYPICAL_WRITTEN, most)
    if told is None:
        return _guess(device)
    throughput = replace(
        DEVICE_PACE[device],
        prefill_tokens_per_second=told.prefill_tokens_per_second,
        decode_tokens_per_second=told.decode_tokens_per_second,
    )
    return KnownThroughput(
        throughput,
        f"reckoned from its config.json ({shape.parameters / 1e9:,.1f} billion parameters, {shape.active / 1e9:,.1f} of "
        f"them active, {shape.arithmetic}) and {width(spec.options)} x {devices[0].name} ({card.source}), {told.running:,} "
        "requests at once; until a first night has measured it",
    )


def _guess(device: str) -> KnownThroughput:
    return KnownThroughput(
        DEVICE_PACE.get(device, Throughput(speed_sd=GUESSED)),
        f"a guess for {device} until a first night has measured it",
    )
