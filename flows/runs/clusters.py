"""The clusters that a job's workers run on: what they have, asked once, before anything is planned or paid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thirdshift.flows.errors import UserError
from thirdshift.router.values import Endpoint

if TYPE_CHECKING:  # loaded where a job has a cluster
    from thirdshift.engines.ray.survey import ClusterSurvey


def surveyed(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with what its cluster has: hardware, and how many workers where the job asks for all.

    Raises UserError where the cluster cannot be reached, or has no room for `workers: max`.
    """
    spec = endpoint.workers
    if spec is None or spec.cluster is None:
        return endpoint
    found = _survey(endpoint)
    hardware = found.hardware(spec)
    room = sum(count for _, count in hardware)
    if spec.cluster.whole and not room:
        raise UserError(
            f"endpoint {endpoint.name}: workers: max, and the cluster at {spec.cluster.address} has no room for one now; "
            "say a number where machines are added on demand"
        )
    workers = room if spec.cluster.whole else spec.workers
    known = replace(spec.cluster, hardware=hardware, per_node=found.per_node(spec))
    return replace(endpoint, workers=replace(spec, workers=workers, cluster=known))


def cluster_problems(endpoint: Endpoint) -> list[str]:
    """Return what keeps workers from starting on their cluster's nodes, each in a sentence. Raises UserError."""
    spec = endpoint.workers
    if spec is None or spec.cluster is None:
        return []
    from thirdshift.engines.ray.survey import problems

    return problems(endpoint, spec, _survey(endpoint))


def _survey(endpoint: Endpoint) -> ClusterSurvey:
    spec = endpoint.workers
    if spec is None or spec.cluster is None:
        raise TypeError("an endpoint on a cluster")
    from thirdshift.engines.errors import MissingExtraError
    from thirdshift.engines.ray.cluster import ClusterUnreachable
    from thirdshift.engines.ray.survey import survey

    try:
        return survey(spec.cluster, endpoint.model)
    except (ClusterUnreachable, MissingExtraError) as error:
        raise UserError(f"endpoint {endpoint.name}: {error}") from None
