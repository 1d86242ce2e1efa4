"""From the job's input to columns: freeze, admit, estimate. After this, rows in = requests + rejects."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.engines.tokenizers import tokenizer_for
from thirdshift.flows.console import LongWork
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import counted
from thirdshift.flows.planning.noted import Noted, noting, with_attached
from thirdshift.router.policy import Policy, masks, most_of_a_vendor, say
from thirdshift.router.policy import eligible as kept_by
from thirdshift.router.pricing.prices import CACHE_MARK
from thirdshift.router.tokens.estimate import TokenColumn, estimate
from thirdshift.router.tokens.prefixes import NO_BEGINNINGS
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.frozen import NumberColumn, batches, column
from thirdshift.warehouse.intake.intake import InputSpec, Intake, first_reasons, freeze, frozen, reject
from thirdshift.warehouse.intake.spool import spool

PART = 100_000
"""Rows that are looked at together."""
ADMITTED = "admitted"
"""A file of this name in the run's folder says that the rows no endpoint can take have been refused."""


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """A night's requests as columns by row. Texts stay on disk, in `folder`."""

    folder: Path
    intake: Intake
    task: NDArray[np.int32]
    """Positions in `intake.tasks`."""
    led_by: NDArray[np.int64] | None
    """The row that is answered in each row's place: itself, or the first request with the same hash. None: each itself."""
    policy: NDArray[np.int32]
    """0: the job's policy alone; p: besides it, the p-th of the job's `policies`."""
    tokens: tuple[TokenColumn, ...] = field(repr=False)
    """Input tokens expected, chat template included, for each endpoint; endpoints with one tokenizer share a column."""
    max_tokens: NDArray[np.int32]
    scorable: NDArray[np.bool_] = field(repr=False)
    """Whether the row has what the job's scorer needs."""
    text_only: bool = False
    """Whether no message of any row is made of parts, which may be pictures or sound."""
    beginnings: NDArray[np.uint64] = field(default_factory=NO_BEGINNINGS.copy, repr=False)
    """Hashes of the beginnings that several rows have (`thirdshift.router.tokens.prefixes.Beginnings`)."""

    @property
    def rows(self) -> int:
        return self.intake.rows

    @property
    def input_tokens(self) -> tuple[NDArray[np.int32], ...]:
        return tuple(column.tokens for column in self.tokens)

    @property
    def leader(self) -> NDArray[np.int64]:
        """[rows] the row that is answered in each row's place."""
        return np.arange(self.rows) if self.led_by is None else self.led_by

    @property
    def leaders(self) -> NDArray[np.int64]:
        """Rows that are answered themselves, ascending."""
        rows = np.arange(self.rows)
        return rows if self.led_by is None else np.flatnonzero(self.led_by == rows)

    @property
    def weight(self) -> NDArray[np.int32]:
        """[rows] how many requests a leader stands for; 0 for those that follow one."""
        if self.led_by is None:
            return np.ones(self.rows, np.int32)
        return np.bincount(self.led_by, minlength=self.rows).astype(np.int32)


def prepare(
    spec: InputSpec,
    folder: Path,
    endpoints: Sequence[Endpoint],
    policy: Policy,
    policies: Mapping[str, Policy],
    needs: Sequence[str],
    work: LongWork,
) -> PreparedInput:
    """Freeze the input into `folder`, refuse what no endpoint may or can take, and estimate the rest.

    `needs`: columns of the frozen input that the scorer needs; `work` says how far that is. Raises InputError where no row
    is left.
    """
    intake = freeze(spec, folder, work.on("reading the input"))
    allowed = masks(endpoints, policy, list(policies.values()))
    batch = None
    if not (folder / ADMITTED).exists():
        read = _columns(folder, endpoints, policies, needs, work)
        refused = _refused(read, endpoints, policies, allowed, folder)
        if len(refused) == intake.rows:
            rules = kept_by(endpoints, policy)[1]
            why = f" ({say(rules)})" if rules else ""
            raise UserError(
                f"no row of the input can be answered; the first: {next(iter(refused.values()))}{why}"
            )
        leader = _led_apart(read, endpoints, allowed, refused)
        reject(folder, refused, leader)
        (folder / ADMITTED).touch(mode=0o600)
        batch = read if not refused and leader is None else None  # the rows are those that were read
    batch = batch or _columns(folder, endpoints, policies, needs, work)
    if (batch.policy < 0).any():
        raise UserError(
            "rows of this run are under a policy that the job has no more; put it back under policies:"
        )
    return batch


@contextmanager
def thawing(folder: Path) -> Iterator[None]:
    """An input that is refused as a whole is not kept frozen, so that it can be mended and run again."""
    try:
        yield
    except UserError:
        if not (folder / "shards").exists():
            (folder / "frozen.json").unlink(missing_ok=True)
            (folder / ADMITTED).unlink(missing_ok=True)
            shutil.rmtree(folder / "requests", ignore_errors=True)
        raise


def _columns(
    folder: Path,
    endpoints: Sequence[Endpoint],
    policies: Mapping[str, Policy],
    needs: Sequence[str],
    work: LongWork,
) -> PreparedInput:
    intake = frozen(folder)
    if intake is None:
        raise InputError(f"{folder}: there is no frozen input")
    tokens, noted = _tokens(folder, endpoints, intake.rows, work)
    task, policy, max_tokens = (NumberColumn(intake.rows, np.int32) for _ in range(3))
    led_by, scorable = NumberColumn(intake.rows, np.int64, in_order=True), NumberColumn(intake.rows, np.bool_)
    tasks, named = pa.array(intake.tasks, pa.string()), pa.array(list(policies), pa.string())
    for batch in batches(folder, ["task", "leader", "policy", "max_tokens", *needs]):
        task.add(_codes(batch.column("task"), tasks))
        led_by.add(batch.column("leader").to_numpy())
        policy.add(_codes(batch.column("policy"), named) + 1)
        max_tokens.add(batch.column("max_tokens").to_numpy())
        has = [np.asarray(pc.is_valid(batch.column(name)), np.bool_) for name in needs]
        scorable.add(np.all(has, axis=0) if has else np.ones(batch.num_rows, np.bool_))
    return PreparedInput(
        folder=folder,
        intake=intake,
        task=task.values,
        led_by=None if led_by.is_in_order else led_by.values,
        policy=policy.values,
        tokens=tokens,
        max_tokens=max_tokens.values,
        scorable=scorable.values,
        text_only=not noted.parts,
        beginnings=noted.beginnings,
    )


def _codes(column: pa.Array, known: pa.Array) -> NDArray[np.int32]:
    """A text column as positions in `known`; -1 where it is null, -2 where it is none of them."""
    text = column.cast(pa.string())
    codes = pc.fill_null(pc.index_in(text, value_set=known), -2)
    return np.where(np.asarray(pc.is_null(text)), np.int32(-1), np.asarray(codes))


def _tokens(
    folder: Path, endpoints: Sequence[Endpoint], rows: int, work: LongWork
) -> tuple[tuple[TokenColumn, ...], Noted]:
    """Return a column for each endpoint, and what else was seen when the texts were read."""
    used = [tokenizer_for(endpoint.model) for endpoint in endpoints]
    distinct = list({tokenizer.name: tokenizer for tokenizer in used}.values())
    noted, told = Noted(), work.on("estimating tokens", rows)
    read = noting(batches(folder, ["messages", "tools"]), noted, rows, told)
    with spool(folder) as blocks:
        counted = estimate(read, distinct, rows, np.random.default_rng(0), blocks=blocks)
    columns = [counted[tokenizer.name] for tokenizer in used]
    if noted.attached:
        columns = [
            with_attached(column, endpoint.model, noted.attached)
            for column, endpoint in zip(columns, endpoints, strict=True)
        ]
    return tuple(columns), noted


def _refused(
    batch: PreparedInput,
    endpoints: Sequence[Endpoint],
    policies: Mapping[str, Policy],
    allowed: NDArray[np.bool_],
    folder: Path,
) -> dict[int, str]:
    """Rows that no endpoint may or can take, each with the reason."""
    reasons: dict[int, str] = {}
    unknown = np.flatnonzero(batch.policy == -1)
    if unknown.size:
        named = column(folder, "policy")
        for row in unknown:
            reasons[int(row)] = (
                f"policy {named[int(row)]} is not under the job's policies ({', '.join(policies) or 'none'})"
            )
    for part in parts(batch.rows):
        policy, fits = batch.policy[part], _fits(batch, endpoints, part)
        for code in np.flatnonzero(np.bincount(policy[policy >= 0])):
            rows, may = np.flatnonzero(policy == code), allowed[code]
            if not may.any():
                name = "policy" if code == 0 else f"policy and policies.{list(policies)[code - 1]}"
                reason = f"allowed on no endpoint under the job's {name}"
                reasons |= dict.fromkeys((part.start + rows).tolist(), reason)
                continue
            for row in (part.start + rows[~fits[rows][:, may].any(axis=1)]).tolist():
                reasons[row] = _too_long(batch, row, endpoints, may)
    return reasons


def _led_apart(
    batch: PreparedInput,
    endpoints: Sequence[Endpoint],
    allowed: NDArray[np.bool_],
    refused: Mapping[int, str],
) -> NDArray[np.int64] | None:
    """Who leads each row, where requests with one hash are under policies that no one endpoint keeps together: then each
    policy's are answered once of their own. None where there are no such."""
    if batch.led_by is None:
        return None
    stays = np.ones(batch.rows, bool)
    stays[np.fromiter(refused, np.int64, len(refused))] = False
    may = eligible(batch, endpoints, allowed)
    against = [np.bincount(batch.led_by, stays & ~column, batch.rows) > 0 for column in may.T]
    torn = np.all(against, axis=0)[batch.led_by] & stays
    if not torn.any():
        return None
    _, first, group = np.unique(
        np.stack([batch.led_by, batch.policy])[:, torn], axis=1, return_index=True, return_inverse=True
    )
    leader = batch.led_by.copy()
    leader[torn] = np.flatnonzero(torn)[first][group.ravel()]
    return leader


def _too_long(batch: PreparedInput, row: int, endpoints: Sequence[Endpoint], may: NDArray[np.bool_]) -> str:
    longest, where = max((endpoints[e].context_window or 0, e) for e in np.flatnonzero(may).tolist())
    needed = int(batch.input_tokens[where][row]) + int(batch.max_tokens[row])
    return (
        f"needs {needed:,} tokens with its answer; the longest context among allowed endpoints is {longest:,} "
        f"({endpoints[where].name})"
    )


def parts(rows: int) -> Iterator[slice]:
    """All rows, some at a time."""
    return (slice(begin, min(begin + PART, rows)) for begin in range(0, rows, PART))


def _fits(batch: PreparedInput, endpoints: Sequence[Endpoint], part: slice) -> NDArray[np.bool_]:
    """[rows, endpoints]: whether the context window holds prompt and answer; an unknown window holds all."""
    fits = np.ones((len(batch.task[part]), len(endpoints)), dtype=np.bool_)
    for position, endpoint in enumerate(endpoints):
        if endpoint.context_window is not None:
            needed = batch.input_tokens[position][part].astype(np.int64) + batch.max_tokens[part]
            fits[:, position] = needed <= endpoint.context_window
    return fits


EVERY_ROW = slice(None)


def eligible(
    batch: PreparedInput,
    endpoints: Sequence[Endpoint],
    allowed: NDArray[np.bool_],
    part: slice = EVERY_ROW,
) -> NDArray[np.bool_]:
    """[rows, endpoints]: allowed by policy, and the context window holds it."""
    return np.asarray(allowed[batch.policy[part]] & _fits(batch, endpoints, part))


MARKED = ("messages", "tools", "sampling")


def marked_requests(batch: PreparedInput) -> NDArray[np.bool_]:
    """bool[rows] which requests ask for their beginning to be kept in a provider's cache, as far as their text shows."""
    found = []
    for part in batches(batch.folder, MARKED):
        has = [
            pc.fill_null(pc.match_substring(part.column(name), f'"{CACHE_MARK}"'), False) for name in MARKED
        ]
        found.append(reduce(pc.or_, has).to_numpy(zero_copy_only=False))
    return np.concatenate(found) if found else np.zeros(0, bool)


def check_charges(folder: Path, charge_by: Sequence[str]) -> None:
    """Raises UserError where no request has a key to charge by: all the money would go to nobody."""
    if not charge_by:
        return
    charged: set[str] = set()
    for batch in batches(folder, ["metadata"]):
        for text in pc.unique(batch.column(0)).to_pylist():
            body = None if text is None else json.loads(text)
            charged |= (
                {key for key, value in body.items() if value is not None} if isinstance(body, dict) else set()
            )
        if charged.issuperset(charge_by):
            return
    missing = [key for key in charge_by if key not in charged]
    if missing:
        have = f"they have {', '.join(sorted(charged)[:8])}" if charged else "they have no metadata"
        raise UserError(
            f"charge_by: {', '.join(missing)}: no row has that in its metadata ({have}); columns of the input are carried "
            f"there by request: {{metadata: [{', '.join(missing)}]}}"
        )


def refused_rows(batch: PreparedInput) -> str | None:
    """The sentence that says which of the input's rows are refused, and why; None where none is."""
    count = batch.intake.rejects
    if not count:
        return None
    first = first_reasons(batch.folder / "rejects.parquet")
    return f"{counted(count, 'row')} {'is' if count == 1 else 'are'} refused: {first}"


def idle_policies(batch: PreparedInput, policies: Mapping[str, Policy]) -> str | None:
    """The sentence that says that no row is under any of the job's `policies`: their rules then hold for nobody."""
    if not policies or batch.policy.any():
        return None
    return (
        f"no row is under any of policies: ({', '.join(policies)}): a row names its policy in a column `policy`, or in the "
        "one that request: {policy: …} names"
    )


def check_shares(
    batch: PreparedInput, endpoints: Sequence[Endpoint], allowed: NDArray[np.bool_], share: float | None
) -> None:
    """Raises UserError where no plan keeps `policy.max_vendor_share`: said before anything is spent."""
    if share is None:
        return
    reached = [eligible(batch, endpoints, allowed, part).any(axis=0) for part in parts(batch.rows)]
    used = np.any(reached, axis=0).tolist()
    vendors = sorted({endpoint.provider for endpoint, some in zip(endpoints, used, strict=True) if some})
    most = most_of_a_vendor(share, batch.rows)
    if most * len(vendors) < batch.rows:
        least = math.ceil(batch.rows / len(vendors)) / batch.rows
        raise UserError(
            f"policy.max_vendor_share: {share:g} of {batch.rows:,} requests is {most:,} for each vendor, and the endpoints "
            f"allowed are of {len(vendors)} ({', '.join(vendors)}): they cannot answer all. The least share that these can "
            f"keep is {least:.4g}; raise it, or add an endpoint of another vendor"
        )
