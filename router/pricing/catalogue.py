"""What is known of models: lab, origin, licence, weights, context, benchmarks, each with its source.

The data is `catalogue.toml` beside this file; it is handed in as text and checked. What is unknown is absent.
Where sources disagree both are given and the one that is `kept` is the more cautious; a job overrides.
A name finds a model by its last part (`Catalogue.find`): litellm names of any provider and local paths of the
same weights are one model. Strictness is safe: what is not found has no facts, and policy then refuses it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from thirdshift.router.values import Facts

FactKind = Literal["benchmark", "price", "context", "parameters", "licence", "serving", "release", "note"]

PUBLIC_DISCOUNT = 0.25
"""Logits taken off every prior: public benchmarks overstate (sources A and B). A judgement, not measured."""

PRIOR_WEIGHT = 1.0
"""How many benchmark results the assumption "as good as the others" is worth when abilities are fitted."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class FactSource(_Strict):
    title: str = Field(min_length=1)
    date: str | None = None
    """As precise as it is known: 2026-05-16, or 2026-05. Absent: undated."""


class Lab(_Strict):
    origin: str = Field(pattern="^[A-Z]{2}$")
    """ISO 3166 alpha-2."""


class Fact(_Strict):
    kind: FactKind
    name: str
    value: float | str
    """Where a source gives a range, its cautious end: the lower score, the higher price."""
    source: str
    """Letter of a source."""
    says: str | None = None
    """The source's own figure or words, where `value` is not all of it."""
    out_of: float | None = Field(default=None, gt=0)
    """The scale's maximum, for a benchmark that is a share of something."""
    approximate: bool = False
    kept: bool = True
    """False: another source says otherwise, and the catalogue keeps that."""


class CatalogueModel(_Strict):
    name: str
    lab: str
    weights: Literal["open", "closed"] | None = None
    licence: str | None = None
    """As SPDX names it, lower case; absent where no source says it of this very model."""
    context_window: int | None = Field(default=None, gt=0)
    modalities: tuple[str, ...] = ()
    match: tuple[str, ...] = Field(min_length=1)
    """Regular expressions for the last part of a name, see `tail_of`."""
    facts: tuple[Fact, ...] = Field(min_length=1)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{m})" for m in self.match))


class Catalogue(_Strict):
    as_of: str
    sources: Mapping[str, FactSource]
    labs: Mapping[str, Lab]
    models: tuple[CatalogueModel, ...]

    @model_validator(mode="after")
    def _refers_to_what_there_is(self) -> Catalogue:
        names = [m.name for m in self.models]
        faults = [f"{n}: named twice" for n in sorted(set(names)) if names.count(n) > 1]
        for model in self.models:
            if model.lab not in self.labs:
                faults.append(f"{model.name}: no lab called {model.lab}")
            unknown = sorted({f.source for f in model.facts} - self.sources.keys())
            faults += [f"{model.name}: no source {letter}" for letter in unknown]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def find(self, name: str) -> CatalogueModel | None:
        """The model of a litellm name, a path or a name as people write it; None: not in the catalogue."""
        tail = tail_of(name)
        return next((m for m in self.models if m.pattern.fullmatch(tail)), None)

    def facts_for(self, name: str) -> tuple[Facts, CatalogueModel | None]:
        """What policy asks about, and the model. Region and retention are an endpoint's, so never here."""
        model = self.find(name)
        if model is None:
            return Facts(), None
        return Facts(model.licence, model.lab, self.labs[model.lab].origin), model

    def origin(self, model: CatalogueModel) -> str:
        return self.labs[model.lab].origin

    def source_of(self, fact: Fact) -> str:
        """A fact's source for people: "[B] market-shift article, undated"."""
        source = self.sources[fact.source]
        return f"[{fact.source}] {source.title}, {source.date or 'undated'}"

    def select(
        self,
        *,
        licence: str | None = None,
        lab: str | None = None,
        origin: str | None = None,
        weights: str | None = None,
    ) -> tuple[CatalogueModel, ...]:
        """Models for which all that is asked is known and so, by name; case ignored."""

        def fits(asked: str | None, known: str | None) -> bool:
            return asked is None or (known is not None and asked.casefold() == known.casefold())

        chosen = (
            m
            for m in self.models
            if fits(licence, m.licence)
            and fits(lab, m.lab)
            and fits(origin, self.origin(m))
            and fits(weights, m.weights)
        )
        return tuple(sorted(chosen, key=lambda m: m.name.casefold()))

    def offers(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Model name to those of `names` (the keys of a price map) that are it, sorted."""
        by_model: dict[str, list[str]] = {}
        for name in names:
            model = self.find(name)
            if model is not None:
                by_model.setdefault(model.name, []).append(name)
        return {model: tuple(sorted(keys)) for model, keys in sorted(by_model.items())}

    @cached_property
    def priors(self) -> Mapping[str, float]:
        """Model name to quality prior, for models with at least one usable benchmark; see `fit_priors`."""
        return fit_priors(self.models)

    def quality_prior(self, name: str) -> float | None:
        """What to believe of a model's mean score before anything was observed; None without benchmarks."""
        model = self.find(name)
        return None if model is None else self.priors.get(model.name)


def load(text: str) -> Catalogue:
    """Read and check the catalogue. Raises ValueError (pydantic's or tomllib's) naming every fault."""
    return Catalogue.model_validate(tomllib.loads(text))


# --- names --------------------------------------------------------------------------------------------------

_REGION_AND_MAKER = re.compile(
    r"(?:[a-z-]+\.)*(?:anthropic|openai|meta|moonshotai?|minimax|qwen|zai|deepseek)\."
)
_RESELLER = re.compile(r"(?:databricks|fw|zai|perplexity)-")
_DECORATION = re.compile(
    r"(?:@[\w.-]+|:(?:free|nitro|floor|exacto|thinking|online)|-v\d(?::\d)?|-20\d\d-?[01]\d-?[0-3]\d|-latest"
    r"|[-.](?:fp8|nvfp4|mxfp4|bf16|awq|gptq|gguf|w8a8|w4a16|int[48])(?:-int[48])?|-maas|-tee)$"
)


def tail_of(name: str) -> str:
    """The part of a name that says which weights: no provider, folder, region, snapshot date or quantisation.

    `bedrock/eu.anthropic.claude-opus-4-7` and `anthropic/claude-opus-4-7-20260416` give `claude-opus-4-7`,
    `Claude Opus 4.7` gives `claude-opus-4.7`.
    """
    parts = [p for p in re.split(r"[/\\]", name.strip()) if p]
    tail = re.sub(r"[\s_]+", "-", (parts or [""])[-1].casefold())
    tail = _REGION_AND_MAKER.sub("", tail, count=1)
    tail = _RESELLER.sub("", tail, count=1)
    while (shorter := _DECORATION.sub("", tail)) != tail:
        tail = shorter
    return tail


# --- priors -------------------------------------------------------------------------------------------------


def fit_priors(models: Iterable[CatalogueModel]) -> dict[str, float]:
    """Mean-score priors from benchmark facts that are shares of a known maximum.

    Benchmarks are not equally hard, so scores are not averaged: logit(score) = ability of the model + ease of
    the benchmark, by least squares, with abilities drawn to zero by `PRIOR_WEIGHT` results. The prior is
    sigmoid(ability + mean ease - `PUBLIC_DISCOUNT`). Scales without a maximum (CAISI's IRT, Arena) are out.
    """
    results = [(m.name, f.name, share) for m in models for f in m.facts if (share := _share(f)) is not None]
    if not results:
        return {}
    able = sorted({r[0] for r in results})
    benches = sorted({r[1] for r in results})
    design = np.zeros((len(results) + len(able), len(able) + len(benches)))
    target = np.zeros(len(design))
    for row, (model, bench, share) in enumerate(results):
        design[row, able.index(model)] = design[row, len(able) + benches.index(bench)] = 1.0
        target[row] = math.log(share / (1 - share))
    design[len(results) :, : len(able)] = np.eye(len(able)) * math.sqrt(PRIOR_WEIGHT)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    level = float(solution[len(able) :].mean()) - PUBLIC_DISCOUNT
    return {model: 1 / (1 + math.exp(-(float(solution[i]) + level))) for i, model in enumerate(able)}


def _share(fact: Fact) -> float | None:
    """A benchmark's score as a share within 0.02 to 0.98, so that no single one decides."""
    if fact.kind != "benchmark" or not fact.kept or fact.out_of is None or not isinstance(fact.value, float):
        return None
    return min(max(fact.value / fact.out_of, 0.02), 0.98)
