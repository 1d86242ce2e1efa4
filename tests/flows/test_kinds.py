"""Kinds of requests that nobody named: like prompts act as tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from thirdshift.flows.api.plans import looking_ahead
from thirdshift.flows.planning.columns import request_columns
from thirdshift.flows.planning.kinds import in_kinds
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.prediction.features import learn
from thirdshift.router.prediction.kinds import FEW, LEAST, with_kinds
from thirdshift.router.prediction.observations import Population

EACH_KIND = 80


def prompts() -> list[str]:
    """Three kinds of request, nobody says which is which."""
    sums = [f"{n} + {n * 7} = " for n in range(EACH_KIND)]
    translations = [f"请把下面第{n}句话翻译成英文,保持语气正式,不要增加内容" for n in range(EACH_KIND)]
    letters = [
        f"Summarise the following complaint number {n} in one sentence, naming the product and what the customer asks for."
        for n in range(EACH_KIND)
    ]
    return [*sums, *translations, *letters]


def population_of(texts: list[str]) -> Population:
    text = learn(texts, np.random.default_rng(0)).transform(texts)
    return Population(np.zeros(len(texts), np.int32), text, 1)


def test_requests_of_one_kind_are_together_and_those_of_another_are_not_among_them() -> None:
    found = with_kinds(population_of(prompts()))
    kinds = [set(found.task[k * EACH_KIND : (k + 1) * EACH_KIND].tolist()) for k in range(3)]
    assert not kinds[0] & kinds[1]
    assert not kinds[0] & kinds[2]
    assert not kinds[1] & kinds[2]
    assert found.tasks == len(set.union(*kinds))
    assert with_kinds(found) is found, "what has tasks keeps them"


def test_requests_that_do_not_differ_or_are_few_are_of_one_kind() -> None:
    assert with_kinds(population_of(["the same"] * 400)).tasks == 1
    few = population_of(prompts()[: LEAST - 1])
    assert with_kinds(few) is few


def test_every_template_is_a_kind_however_many_there_are() -> None:
    rng = np.random.default_rng(1)
    words = rng.permutation([f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"])
    templates = [" ".join(rng.choice(words, 4 + 2 * k)) for k in range(2 * FEW)]
    texts = [f"{template}: {10 + n}" for n in range(8) for template in templates]
    found = with_kinds(population_of(texts))
    mates = found.task.reshape(8, len(templates))
    assert (mates == mates[0]).mean() > 0.9, "requests of a template are together"
    assert len(np.unique(mates[0])) > 0.9 * len(templates), "and those of two are not"


@pytest.mark.parametrize("count", [2 * FEW, 4 * FEW, 8 * FEW])
def test_templates_are_told_apart_whether_many_or_few_requests_are_made_from_them(count: int) -> None:
    rng = np.random.default_rng(3)
    words = rng.permutation([f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"])
    templates = [" ".join(rng.choice(words, 8)) for _ in range(count)]
    template = np.repeat(np.arange(count), rng.permutation(np.resize([3, 6, 9, 18], count)))
    population = population_of(
        [f"{templates[t]}: {rng.choice(words)} {10 + n % 90}" for n, t in enumerate(template)]
    )
    found, again = with_kinds(population), with_kinds(population, seed=1)
    pairs = np.unique(np.stack([template, found.task]), axis=1).shape[1]
    assert pairs <= 1.02 * count, "no template is in two kinds, and no kind is of two templates"
    assert found.tasks == count
    assert (found.task == again.task).all(), "whatever was drawn"


def test_texts_that_differ_by_degrees_are_of_few_kinds_and_the_same_ones_every_time() -> None:
    rng = np.random.default_rng(2)
    words = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
    found, again = (
        with_kinds(population_of(texts))
        for texts in [[" ".join(rng.choice(words, 12)) for _ in range(400)]] * 2
    )
    assert 1 < found.tasks <= FEW
    assert (found.task == again.task).all()


@pytest.mark.parametrize(
    ("quality", "named", "kinds"),
    [
        ({"floor": 0.8, "scorer": "exact"}, False, True),
        ({"floor": 0.8, "scorer": "exact"}, True, False),  # a task column is believed
        ({"floor": 0.8, "scorer": "exact", "per_task": True}, False, False),
        ({}, False, False),  # nothing is learnt
    ],
)
def test_what_is_learnt_is_learnt_by_kind_where_no_task_is_named(
    tmp_path: Path, quality: dict[str, Any], named: bool, kinds: bool
) -> None:
    texts = prompts()
    table = {
        "request_id": [f"r{n}" for n in range(len(texts))],
        "prompt": texts,
        "reference": ["1"] * len(texts),
    }
    if named:
        table["task"] = [("sum", "other")[n % 2] for n in range(len(texts))]
    pq.write_table(pa.table(table), tmp_path / "requests.parquet")
    price = {"input": 1, "output": 4}
    ends = [
        {"name": n, "model": f"openai/{n}", "api_base": "http://127.0.0.1:9/v1", "price": price} for n in "ab"
    ]
    job = {
        "name": "kinds",
        "input": "requests.parquet",
        "warehouse": "w.duckdb",
        "quality": quality,
        "endpoints": ends,
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    with looking_ahead(RunOptions(job=tmp_path / "job.yaml")) as outlook:
        context = outlook.context
        columns = request_columns(outlook.batch, context.endpoints, context.allowed, texts=context.learns)
        found = in_kinds(context, columns)
    if kinds:
        assert found.population.tasks == len(found.tasks) > 1
    else:
        assert found is columns
