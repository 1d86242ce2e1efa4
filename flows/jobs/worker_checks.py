"""Check what a job says of workers that it starts, of servers of the user's, and of clusters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thirdshift.flows.jobs.parsing import Loc
from thirdshift.flows.jobs.quality_checks import Finds
from thirdshift.flows.jobs.unsupported import values_at

BATCH_LIMITS = ("enqueued_tokens", "batch_requests", "batch_bytes", "line_bytes", "batches")
"""Limits of an endpoint that say something of batches alone."""

WORKERS_ONLY = (
    "device",
    "workers",
    "usd_per_hour",
    "accounting_usd_per_hour",
    "minimum_minutes",
    "billing_increment_minutes",
    "price_per",
    "spot_price",
    "usd_per_kwh",
    "vllm",
    "python",
    "on",
    "cluster",
)
"""Keys of an endpoint that say how workers are started and paid."""


def endpoints_of(data: dict[str, Any]) -> list[tuple[Loc, dict[str, Any]]]:
    """Return the endpoints of a job's data with their places."""
    return [
        (loc, endpoint)
        for loc, endpoint in values_at(data, ["endpoints", "[]"])
        if isinstance(endpoint, dict)
    ]


def workers_are_whole(data: dict[str, Any]) -> Finds:
    """Check that workers have what they need, and what has no workers says nothing of them."""
    for loc, endpoint in endpoints_of(data):
        if endpoint.get("engine") == "vllm":
            yield from _worker(loc, endpoint)
            continue
        for key in WORKERS_ONLY:
            if endpoint.get(key) is not None and not (
                key == "usd_per_hour" and endpoint.get("api_base") is not None
            ):
                yield (*loc, key), "is for engine: vllm; this endpoint has none"
        yield from _server(loc, endpoint)


def _server(loc: Loc, endpoint: dict[str, Any]) -> Finds:
    """Check a server of the user's, which the job starts or which is paid by the hour."""
    health = endpoint.get("health")
    if isinstance(health, str) and not re.match(r"https?://\S+$", health):
        yield (*loc, "health"), "is a URL (http://…/health) that answers 200 when the server is ready"
    for key in ("up", "health"):
        if endpoint.get(key) is not None and endpoint.get("api_base") is None:
            yield (*loc, key), "is of a server that has an api_base; say where it answers"
        if endpoint.get(key) is not None and endpoint.get("mode") == "batch":
            yield (*loc, key), "does not go with mode: batch, which goes on when the server is down"
    if endpoint.get("down") is not None and endpoint.get("up") is None:
        yield (*loc, "down"), "stops what `up` starts; state both"
    if endpoint.get("usd_per_hour") is not None and endpoint.get("price") is not None:
        yield (*loc, "price"), "is by the token and usd_per_hour by the hour; state one of them"


def _worker(loc: Loc, endpoint: dict[str, Any]) -> Finds:
    if endpoint.get("device") is None:
        yield (*loc, "device"), "is required with engine: vllm; devices are cuda, npu, cpu"
    if endpoint.get("usd_per_hour") is None and endpoint.get("accounting_usd_per_hour") is None:
        yield (
            (*loc, "usd_per_hour"),
            "is required (0 if it costs nothing), or accounting_usd_per_hour for hardware already paid",
        )
    for key in ("api_base", "api_key_env", "price", "up", "health", "down"):
        if endpoint.get(key) is not None:
            yield (
                (*loc, key),
                "does not go with engine: vllm, whose workers run here and are paid by the hour",
            )
    stated = endpoint.get("limits")
    for key, limit in stated.items() if isinstance(stated, dict) else ():
        if limit is not None and key not in BATCH_LIMITS:
            yield (
                (*loc, "limits", key),
                "is what a provider allows; how much a worker takes at once is vLLM's to say: vllm: {max_num_seqs: …}",
            )
    if endpoint.get("spot_price") is not None and endpoint.get("usd_per_hour") is None:
        yield (*loc, "spot_price"), "needs usd_per_hour beside it, which a rehearsal reckons with"
    if endpoint.get("spot_price") is not None and endpoint.get("off_peak") is not None:
        yield (
            (*loc, "spot_price"),
            "does not go with off_peak: its command tells what an hour costs at its time",
        )
    if endpoint.get("usd_per_kwh") is not None and endpoint.get("device") != "cuda":
        yield (
            (*loc, "usd_per_kwh"),
            "is for device: cuda, whose cards count their energy; no other device does",
        )
    if endpoint.get("mode") not in {None, "realtime"}:
        yield (*loc, "mode"), "does not go with engine: vllm, whose workers have one price"


def clusters(data: dict[str, Any], environ: Mapping[str, str]) -> Finds:
    """Check that workers on Ray have a cluster, and those that are not have none."""
    for loc, endpoint in endpoints_of(data):
        cluster = endpoint.get("cluster")
        address = cluster.get("address") if isinstance(cluster, dict) else None
        if endpoint.get("on") != "ray":
            if cluster is not None and endpoint.get("engine") == "vllm":
                yield (*loc, "cluster"), "is for workers that run on one; say on: ray"
            if endpoint.get("workers") == "max" and endpoint.get("engine") == "vllm":
                yield (
                    (*loc, "workers"),
                    "max is for on: ray, where the cluster says how many; here say a number",
                )
            continue
        address = address or environ.get("RAY_ADDRESS")
        if not address:
            yield (
                (*loc, "cluster"),
                "is required with on: ray: {address: host:6379}, or the variable RAY_ADDRESS",
            )
        elif str(address).startswith("ray://"):
            yield (
                (*loc, "cluster"),
                f"{address} is a proxy for clients; run thirdshift on a node of the cluster, and name its head, host:6379",
            )
