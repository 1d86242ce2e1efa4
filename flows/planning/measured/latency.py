"""How long an API takes to answer: as this run measured it, as earlier runs did, before that a stated prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.measured.run_queries import CallFigures
from thirdshift.router.lots import Sent, Tokens, mean, total
from thirdshift.router.planning.options import BATCH_SECONDS, Throughput
from thirdshift.router.values import Endpoint, Mode
from thirdshift.warehouse.store.store import Warehouse

FIRST_TOKEN_SECONDS = 1.0
TOKENS_PER_SECOND = 50.0
"""What is believed of a model that nobody has timed: hosted models write 30 to 100 tokens a second to one request."""
MARGIN = 1.25
"""Requests wait for each other, and some are sent twice: a plan reckons with so many times what a call takes."""
ENOUGH = 5
"""Answers that this run must have timed before they correct its plan."""
NEWEST = 500
"""Calls of earlier runs that are looked at, by endpoint; a provider's load changes."""

EARLIER = f"""
select endpoint, avg(seconds) as seconds from (
    select l.endpoint, epoch(l.settled_at) - epoch(l.started_at) as seconds,
           row_number() over (partition by l.endpoint order by l.settled_at desc) as nth
    from ledger l join runs r using (run_id)
    where l.mode <> 'batch' and l.status = 'settled' and l.request_id is not null and l.purpose <> 'judge'
      and l.settled_at >= l.started_at
      and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated
      and (l.endpoint || ' ' || l.model) in (select unnest($endpoints)))
where nth <= {NEWEST} group by 1
"""


BATCHES = f"""
select endpoint, avg(seconds) as mean, max(seconds) as most, count(*) as batches from (
    select *, row_number() over (partition by endpoint order by started desc) as nth from (
        select l.endpoint, date_trunc('minute', l.started_at) as started,
               max(epoch(l.settled_at) - epoch(l.started_at)) as seconds
        from ledger l join runs r using (run_id)
        where l.mode = 'batch' and l.status = 'settled' and l.output_tokens > 0
          and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated
          and (l.endpoint || ' ' || l.model) in (select unnest($endpoints))
        group by l.endpoint, l.run_id, l.shard_id, date_trunc('minute', l.started_at)))
where nth <= {NEWEST} group by 1
"""
"""A batch's requests were all sent in one minute, or nearly so."""
BATCH_MARGIN = 1.05
"""Many batches one after the other take so much longer than their mean in one night of fifty."""


def timed(endpoint: Endpoint) -> bool:
    """Whether its answers take each its own time: it is no batch tier, and no worker paid by the hour."""
    return (
        endpoint.mode is not Mode.BATCH and endpoint.workers is None and endpoint.price.usd_per_hour is None
    )


def earlier_latencies(
    endpoints: Sequence[Endpoint], warehouse: Warehouse, *, emulated: bool
) -> dict[str, Throughput]:
    """Return what earlier runs' answers took, by endpoint's name."""
    known = [f"{endpoint.name} {endpoint.model}" for endpoint in endpoints if timed(endpoint)]
    rows = warehouse.query(EARLIER, None, endpoints=known, emulated=str(emulated).lower()).to_pylist()
    found = {row["endpoint"]: Throughput(seconds_per_request=MARGIN * row["seconds"]) for row in rows}
    tiers = [f"{endpoint.name} {endpoint.model}" for endpoint in endpoints if endpoint.mode is Mode.BATCH]
    for row in warehouse.query(BATCHES, None, endpoints=tiers, emulated=str(emulated).lower()).to_pylist():
        if row["batches"] >= ENOUGH:
            mean = BATCH_MARGIN * row["mean"]
            found[row["endpoint"]] = Throughput(turnaround_seconds=row["most"], refill_seconds=mean)
    return found


def with_latencies(
    throughputs: Mapping[str, Throughput],
    endpoints: Sequence[Endpoint],
    output_tokens: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    measured: CallFigures,
    sent: Sent = None,
) -> dict[str, Throughput]:
    """Return the throughputs with a latency for every API. `output_tokens`: [leaders, endpoints], as expected; `sent`: how
    many requests each row has."""
    found = dict(throughputs)
    for e, endpoint in enumerate(endpoints):
        here = measured.endpoint == e
        if endpoint.mode is Mode.BATCH and here.any() and measured.answers[here].sum() >= ENOUGH:
            found[endpoint.name] = _as_tonight(endpoint, float(measured.seconds[here][0]), found)
        if not timed(endpoint):
            continue
        if here.any() and measured.answers[here].sum() >= ENOUGH:
            found[endpoint.name] = Throughput(seconds_per_request=MARGIN * float(measured.seconds[here][0]))
        elif endpoint.name not in found:
            tokens = float(mean(output_tokens[:, e], sent)) if len(output_tokens) else 0.0
            found[endpoint.name] = Throughput(
                seconds_per_request=FIRST_TOKEN_SECONDS + tokens / TOKENS_PER_SECOND
            )
    return found


def with_enough_up(
    throughputs: Mapping[str, Throughput],
    endpoints: Sequence[Endpoint],
    tokens: Sequence[Tokens],
    output_tokens: NDArray[np.float32],
    seconds: float | None,
    sent: Sent = None,
) -> dict[str, Throughput]:
    """Return the throughputs, with whether the workers that are up could answer everything in `seconds`, were they as slow
    as they may be. `tokens`: input tokens of each request for each endpoint; `output_tokens`: [leaders, endpoints]."""
    found = dict(throughputs)
    for e, endpoint in enumerate(endpoints):
        pace = found.get(endpoint.name)
        if pace is None or not pace.running or seconds is None:
            continue
        read, written = float(total(tokens[e], sent)), float(total(output_tokens[:, e], sent))
        busy = read / pace.prefill_tokens_per_second + written / pace.decode_tokens_per_second
        found[endpoint.name] = replace(
            pace, enough=(1.0 + 2.0 * pace.speed_sd) * busy <= pace.running * seconds
        )
    return found


def _as_tonight(endpoint: Endpoint, mean_seconds: float, known: Mapping[str, Throughput]) -> Throughput:
    """Return a batch tier's turnaround as this run's batches correct it: what is stated or was known holds unless they took
    longer; a queue is refilled halfway between what was believed and their mean, as they are few."""
    before = known.get(endpoint.name, Throughput())
    stated = before.turnaround_seconds or endpoint.turnaround_seconds or BATCH_SECONDS
    mean = BATCH_MARGIN * mean_seconds
    refill = ((before.refill_seconds or stated) + mean) / 2
    return Throughput(turnaround_seconds=max(stated, mean), refill_seconds=refill)
