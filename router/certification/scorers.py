"""Scoring an answer, 0 to 1: what each scorer compares, what it needs, and what its score is an opinion of.

A request without an answer scores 0; a request that lacks what the scorer needs (a reference, a schema) has no score at
all: None, or NaN in columns. The models' and the user's scorers (`judge`, `agreement`, `package.module:function`) have
their place in the table; `judge` is scored by shards of its own, and a function is imported by who owns the job file.
A function that fails on an answer gives it 0, and its fault is told: it must not end the night, nor flatter it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.router.certification.comparisons import (
    agrees,
    choice,
    contains,
    exact,
    field_text,
    numeric,
    parsed,
    validates,
)
from thirdshift.router.patterns import compiled_if_sound, matches

UserFunction = Callable[[str, str | None, Mapping[str, Any]], float]
"""`(output, reference, request)` to 0..1."""


class ScorerError(ValueError):
    """A scorer that cannot be used as it is written; the message names it and what to do."""


class Need(StrEnum):
    """What a row must have so that its answer can be scored."""

    REFERENCE = "reference"
    RESPONSE_SCHEMA = "response_schema"
    ANCHOR = "anchor"
    """The answer of the endpoint that `relative_to` names, given in the reference's place."""


class Basis(StrEnum):
    """Whose opinion a score is; `observations.basis`, `certificates.basis`."""

    REFERENCE = "reference"
    HUMAN = "human"
    JUDGE = "judge"
    AGREEMENT = "agreement"
    SCHEMA = "schema"


@dataclass(frozen=True, slots=True)
class Scorer:
    name: str
    """A key of `KINDS`, or `package.module:function`."""
    pattern: str | None = None
    """For regex; None: the reference is the pattern."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """For fields: a JSON field (dots reach into objects) to the name of the scorer that compares it."""
    function: UserFunction | None = None
    """What `package.module:function` names, imported."""
    judge: str | None = None
    """For judge: who, by what rubric: "judge opus, rubric 3f2a"."""

    @property
    def shown(self) -> str:
        """As observations and certificates name it."""
        return self.judge or self.name


Compare = Callable[[str, str], float | None]
"""(output, reference or schema) to a score; None where the reference itself is no answer of that kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table of scorers."""

    needs: frozenset[Need]
    basis: Basis
    free: bool
    """Whether a score costs nothing, so that all answers can be scored."""
    binary: bool
    """Whether every score is 0 or 1."""
    compare: Compare | None = None
    """None: it takes more than two texts; see `score`."""


_REFERENCE = frozenset({Need.REFERENCE})
KINDS: Mapping[str, Kind] = {
    "exact": Kind(_REFERENCE, Basis.REFERENCE, True, True, exact),
    "choice": Kind(_REFERENCE, Basis.REFERENCE, True, True, choice),
    "numeric": Kind(_REFERENCE, Basis.REFERENCE, True, True, numeric),
    "contains": Kind(_REFERENCE, Basis.REFERENCE, True, True, contains),
    "regex": Kind(_REFERENCE, Basis.REFERENCE, True, True, matches),
    "json_schema": Kind(frozenset({Need.RESPONSE_SCHEMA}), Basis.SCHEMA, True, True, validates),
    "fields": Kind(_REFERENCE, Basis.REFERENCE, True, False),
    "agreement": Kind(frozenset({Need.ANCHOR}), Basis.AGREEMENT, False, True, agrees),
    "judge": Kind(frozenset(), Basis.JUDGE, False, False),
}
"""Every scorer that has a name. A user's function is `FUNCTION`."""
FUNCTION = Kind(frozenset(), Basis.REFERENCE, True, False)
FIELD_SCORERS = ("exact", "choice", "numeric", "contains", "regex")
"""What may compare one JSON field: those that need two texts and nothing else."""


def kind_of(scorer: Scorer) -> Kind:
    """Raises ScorerError for a name that is none."""
    if ":" in scorer.name:
        return FUNCTION
    try:
        return KINDS[scorer.name]
    except KeyError:
        raise ScorerError(unknown(scorer.name, KINDS, "or package.module:function")) from None


def unknown(name: str, known: Mapping[str, Kind] | tuple[str, ...], also: str = "") -> str:
    near = get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no scorer called {name!r}; scorers are {', '.join([*known, *filter(None, [also])])}{hint}"


def check(scorer: Scorer) -> None:
    """Raises ScorerError where the scorer cannot be used: unknown, a broken pattern, fields without scorers."""
    kind_of(scorer)
    if scorer.pattern is not None and compiled_if_sound(scorer.pattern) is None:
        raise ScorerError("quality.pattern is no regular expression; see Python's `re` for the syntax")
    if scorer.name == "fields" and not scorer.fields:
        raise ScorerError("scorer fields needs quality.fields: which JSON field is compared by which scorer")
    for name in scorer.fields.values():
        if name not in FIELD_SCORERS:
            raise ScorerError(unknown(name, FIELD_SCORERS))


def needs(scorer: Scorer) -> frozenset[Need]:
    """What each row must have. A regex with a pattern of the job needs nothing of the row."""
    if scorer.name == "regex" and scorer.pattern is not None:
        return frozenset()
    return kind_of(scorer).needs


def score(
    scorer: Scorer,
    output: str | None,
    reference: str | None = None,
    response_schema: str | None = None,
    request: Mapping[str, Any] | None = None,
) -> float | None:
    """One answer's score. `output` None: the request has no answer, which scores 0.

    None: this row has not what the scorer needs. `agreement` takes the anchor's answer as `reference`.
    """
    if scorer.name == "judge":
        raise ScorerError("a judge scores by shards of its own; its scores come in as observations")
    against = _against(scorer, reference, response_schema)
    if needs(scorer) and against is None:
        return None
    if output is None:  # a row that could not be scored has no score, answered or not
        return None if needs(scorer) and _score(scorer, "", against or "", {}) is None else 0.0
    return _score(scorer, output, against or "", request or {})


def _against(scorer: Scorer, reference: str | None, response_schema: str | None) -> str | None:
    if scorer.name == "regex" and scorer.pattern is not None:
        return scorer.pattern
    return response_schema if Need.RESPONSE_SCHEMA in needs(scorer) else reference


def _score(scorer: Scorer, output: str, against: str, request: Mapping[str, Any]) -> float | None:
    kind = kind_of(scorer)
    if kind.compare is not None:
        return kind.compare(output, against)
    if scorer.name == "fields":
        return _fields(scorer.fields, output, against)
    return _by_function(scorer, output, against or None, request)


def _by_function(scorer: Scorer, output: str, reference: str | None, request: Mapping[str, Any]) -> float:
    """Whatever the user's function does wrong is a ScorerError; what it says may hold the answer, so it is not quoted."""
    if scorer.function is None:
        raise ScorerError(f"scorer {scorer.name} was not imported")
    where = f"scorer {scorer.name}, request {request.get('request_id', 'unknown')}:"
    try:
        value: object = scorer.function(output, reference, request)
    except Exception as error:
        raise ScorerError(f"{where} raised {type(error).__name__}") from error
    if isinstance(value, bool | int | float | np.number) and 0.0 <= value <= 1.0:
        return float(value)
    shown = f"{value}" if isinstance(value, int | float) else f"a {type(value).__name__}"
    raise ScorerError(f"{where} returned {shown}; a score is a number from 0 to 1")


def _fields(scorers: Mapping[str, str], output: str, reference: str) -> float | None:
    """The mean over the fields. A field that is null or absent in both is right; what is no JSON object has no field."""
    right, given = parsed(reference), parsed(output)
    if not isinstance(right, dict):
        return None
    if not isinstance(given, dict):
        return 0.0
    scores = [
        _field(KINDS[how].compare, field_text(given, name), field_text(right, name))
        for name, how in scorers.items()
    ]
    return float(np.mean(scores))


def _field(compare: Compare | None, output: str | None, reference: str | None) -> float:
    if output is None or reference is None or compare is None:
        return float(output is None and reference is None)
    score = compare(output, reference)
    return exact(output, reference) if score is None else score


def score_batch(
    scorer: Scorer, batch: pa.RecordBatch | pa.Table, fault: Callable[[ScorerError], None] | None = None
) -> NDArray[np.float64]:
    """Scores of all rows, NaN where a row has not what the scorer needs.

    Columns: `output` (null: no answer), and where needed `reference`, `response_schema`; a function also gets the row.
    `fault` is told of each answer that a function failed on; without it that is raised.
    """
    outputs = batch.column("output").to_pylist()
    references, schemas = (_column(batch, name) for name in ("reference", "response_schema"))
    if kind_of(scorer) is FUNCTION:
        rows = map(_request, batch.to_pylist())
        scores: Iterable[float | None] = map(partial(_forgiving, scorer, fault), outputs, references, rows)
    else:
        scores = map(partial(score, scorer), outputs, references, schemas)
    return np.array([np.nan if s is None else s for s in scores], dtype=np.float64)


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a function is told of the request: its columns, with JSON read, without the answer."""
    data = {name: value for name, value in row.items() if name != "output"}
    for name in ("messages", "metadata", "response_schema"):
        if isinstance(data.get(name), str):
            data[name] = json.loads(data[name])
    return data


def _forgiving(
    scorer: Scorer,
    fault: Callable[[ScorerError], None] | None,
    output: str | None,
    reference: str | None,
    request: Mapping[str, Any],
) -> float | None:
    try:
        return score(scorer, output, reference, request=request)
    except ScorerError as error:
        if fault is None:
            raise
        fault(error)
        return 0.0


def _column(batch: pa.RecordBatch | pa.Table, name: str) -> list[Any]:
    return batch.column(name).to_pylist() if name in batch.schema.names else [None] * batch.num_rows
