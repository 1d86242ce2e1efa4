"""What a certificate's claim is about: all accepted requests, or those alone that can be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.certificate import Certificate, Claim, Method
from thirdshift.router.certification.representative import unlike
from thirdshift.warehouse.store.store import Warehouse

ACCEPTED = (
    "select task, count(*) as requests from requests where run_id = $run_id group by task order by task"
)

MEANS = """
select task, avg(score) as mean, count(*) as scored from results where run_id = $run_id and score is not null group by 1
"""


def accepted(warehouse: Warehouse, run_id: str) -> dict[str | None, int]:
    """Accepted requests of a run by task; under None all of them."""
    counts: dict[str | None, int] = {
        row["task"]: row["requests"] for row in warehouse.query(ACCEPTED, run_id=run_id).to_pylist()
    }
    return {None: sum(counts.values()), **counts}


def about(
    certificates: Sequence[Certificate],
    counts: Mapping[str | None, int],
    claim: Claim,
    *,
    per_task: bool,
    of_part: bool,
) -> tuple[Certificate, ...]:
    """The certificates with what they are a part of. `of_part`: the floor is asked of no more than what can be scored;
    else a task of which nothing can be scored has a certificate too, and that claims nothing."""
    if not certificates:
        return ()
    certificates_issued = [replace(it, requests=counts.get(it.task), of_part=of_part) for it in certificates]
    if per_task and not of_part:
        named = {it.task for it in certificates}
        certificates_issued += [
            _nothing(replace(claim, task=task), counts[task]) for task in counts if task not in named
        ]
    return tuple(certificates_issued)


def stands_for_all(
    context: RunContext, batch: PreparedInput, columns: RequestColumns, say: Callable[..., None]
) -> bool:
    """Whether the rows that can be scored are a random sample of all: the job says so, and nothing that is known of them
    speaks against it. What does is said."""
    if not context.by_sample or not batch.scorable.any():
        return False
    leader = columns.positions(batch.leader)
    text = columns.population.text[leader]
    different = unlike(
        batch.scorable,
        {"task": batch.task, "policy": batch.policy},
        {"the prompt's length": batch.input_tokens[0]}
        | {f"text feature {k}": text[:, k] for k in range(text.shape[1])},
        {"task": batch.intake.tasks, "policy": ("of the job", *context.policies)},
    )
    if different is not None:
        say(
            f"quality.references: sample, but the {int(batch.scorable.sum()):,} rows with a reference are no random part "
            f"of the {batch.rows:,}: {different}. What they show is claimed of them alone",
            "yellow",
        )
    return different is None


def _nothing(claim: Claim, requests: int) -> Certificate:
    return Certificate(
        claim.task, claim.floor, claim.confidence, claim.basis, claim.scorer, 0, 0, 0.0, 0.0, Method.NONE, requests
    )  # fmt: skip


def means_of(context: RunContext) -> dict[str | None, float]:
    """Mean scores of what is served, by task; None: of all."""
    with Warehouse.open(context.warehouse) as warehouse:
        found = warehouse.query(MEANS, run_id=context.run_id).to_pylist()
    count = sum(row["scored"] for row in found)
    means: dict[str | None, float] = {row["task"]: row["mean"] for row in found}
    means[None] = sum(row["mean"] * row["scored"] for row in found) / max(count, 1)
    return means
