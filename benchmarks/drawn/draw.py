"""A night drawn at random: its job, its requests, and the truth that only providers and the optimum know."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WORDS = """
the of to and a in is it you that he was for on are with as his they be at one have this from or had
by hot word but what some we can out other were all there when up use your how said an each she
which do their time if will way about many then them write would like so these her long make thing
see him two has look more day could go come did number sound no most people my over know water than
call first who may down side been now find any new work part take get place made live where after
back little only round man year came show every good me give our under name very through just form
sentence great think say help low line differ turn cause much mean before move right boy old too
same tell does set three want air well also play small end put home read hand port large spell add
even land here must big high such follow act why ask men change went light
""".split()  # noqa: SIM905 - a list of its own would fill a page
TOKENS_PER_WORD = 1.02
AROUND = 12
"""Tokens of the chat template around a prompt."""
NOISE = 0.3
"""Spread of single latencies (log-normal)."""


@dataclass(frozen=True)
class TrueEndpoint:
    """What is true of an endpoint; `job` is what the job file says of it."""

    name: str
    job: dict[str, Any]
    model: int
    """Endpoints of one model give the same answers."""
    kind: str
    """realtime, batch or workers."""
    first_seconds: float = 0.0
    seconds_per_token: float = 0.0
    turnaround_seconds: float = 0.0
    startup_seconds: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    """Tokens a second of one worker."""
    hit_rate: float = 0.0
    """How often a shared beginning is found in the cache."""

    @property
    def concurrency(self) -> int:
        return int(self.job["limits"]["concurrency"])


@dataclass(frozen=True)
class Night:
    """One of a draw's nights. Columns by row, then by endpoint."""

    task: NDArray[np.int64]
    prompts: list[str] = field(repr=False)
    input_tokens: Floats
    output_tokens: NDArray[np.int64]
    right: NDArray[np.bool_]
    shared_tokens: int
    """Tokens that all prompts begin with."""


@dataclass(frozen=True)
class Draw:
    seed: int
    rows: int
    tasks: int
    endpoints: tuple[TrueEndpoint, ...]
    ability: Floats
    """[tasks, models]"""
    mean_length: Floats
    """[tasks, models]"""
    token_factor: Floats
    """[models]"""
    begins: float
    """POSIX time of the first night."""
    system: str
    max_tokens: int
    floor: float | None
    scored: bool
    deadline_seconds: float | None
    cap_share: float | None
    """The cap as a multiple of the optimum's bill."""

    def night(self, number: int) -> Night:
        """The requests of one night and what is true of them."""
        rng = np.random.default_rng([self.seed, 10 + number])
        task = rng.integers(0, self.tasks, self.rows)
        count = np.maximum(8, np.exp(rng.normal(np.log(40.0 * (1 + task)), 0.5))).astype(np.int64)
        words = rng.integers(0, len(WORDS), int(count.sum()))
        ends = np.cumsum(count)
        prompts = [
            " ".join(WORDS[w] for w in words[end - n : end]) for n, end in zip(count, ends, strict=True)
        ]
        shared = len(self.system.split())
        plain = TOKENS_PER_WORD * (count + shared) + AROUND
        models = self.ability.shape[1]
        spread = rng.normal(0, 0.5, (self.rows, 1)) + rng.normal(0, 0.3, (self.rows, models))
        length = np.clip(np.exp(np.log(self.mean_length[task]) + spread - 0.17), 1, self.max_tokens)
        hard = rng.normal(0, 0.8, (self.rows, 1))
        right = rng.random((self.rows, models)) < 1 / (1 + np.exp(hard - self.ability[task]))
        of = [end.model for end in self.endpoints]
        return Night(
            task,
            prompts,
            (plain[:, None] * self.token_factor)[:, of],
            length.astype(np.int64)[:, of],
            right[:, of],
            round(TOKENS_PER_WORD * shared),
        )

    def write(self, folder: Path, number: int, cap_usd: float | None) -> Path:
        """The job file and its input, as a user would have them."""
        night = self.night(number)
        table = {
            "request_id": [f"n{number}-{row:05d}" for row in range(self.rows)],
            "prompt": [f"{number} {row} {text}" for row, text in enumerate(night.prompts)],
            "task": [f"task-{t}" for t in night.task.tolist()],
            "reference": ["right"] * self.rows,
        }
        if self.system:
            table["system"] = [self.system] * self.rows
        pq.write_table(pa.table(table), folder / "requests.parquet")
        job: dict[str, Any] = {
            "name": "drawn",
            "input": "requests.parquet",
            "warehouse": "warehouse.duckdb",
            "request": {"max_tokens": self.max_tokens},
            "quality": {"floor": self.floor or 0.0},
            "endpoints": [end.job for end in self.endpoints],
        }
        if self.scored:
            job["quality"]["scorer"] = "exact"
        if self.deadline_seconds is not None:
            job["deadline"] = f"{round(self.deadline_seconds / 60)}m"
        if cap_usd is not None:
            job["budget"] = {"cap_usd": round(cap_usd, 6)}
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(job, sort_keys=False))
        return path


def drawn(seed: int) -> Draw:
    """The draw of a seed."""
    rng = np.random.default_rng([seed, 1])
    tasks, models = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    scored = bool(rng.random() < 0.4)
    level = np.sort(rng.uniform(-0.3, 3.0, models))
    ability = level + rng.normal(0, 0.4, (tasks, models))
    price = 0.15 * np.exp(rng.uniform(0.5, 1.4) * (level + 0.3)) * rng.uniform(0.7, 1.4, models)
    lengths = np.exp(rng.normal(4.6, 0.6, (tasks, models)))
    system = " ".join(WORDS[w] for w in rng.integers(0, len(WORDS), 1500)) if rng.random() < 0.3 else ""
    endpoints = tuple(_endpoints(rng, models, price, ability, cached=bool(system)))
    known = rng.random() < 0.85
    skill = 1 / (1 + np.exp(-0.85 * ability))
    best = float(skill.mean(axis=0).max())
    deadline = None if rng.random() < 0.3 else float(np.exp(rng.uniform(np.log(0.5), np.log(20.0)))) * 3600
    return Draw(
        seed=seed,
        rows=int(np.exp(rng.uniform(np.log(300), np.log(1200)))),
        tasks=tasks,
        endpoints=endpoints,
        ability=ability,
        mean_length=lengths,
        token_factor=rng.uniform(0.9, 1.2, models),
        begins=datetime(2026, 11, 30, tzinfo=UTC).timestamp() + float(rng.integers(0, 24 * 60)) * 60,
        system=system,
        max_tokens=int(rng.choice([256, 512, 1024])),
        floor=round(float(rng.uniform(0.75, 0.98)) * best, 4) if known or scored else None,
        scored=scored,
        deadline_seconds=deadline,
        cap_share=None if rng.random() < 0.5 else float(rng.uniform(1.2, 3.0)),
    )


def _endpoints(
    rng: np.random.Generator, models: int, price: Floats, ability: Floats, *, cached: bool
) -> list[TrueEndpoint]:
    """Each model in real time, some in a batch tier too, some on workers instead."""
    ends = []
    for model in range(models):
        prior = round(float((1 / (1 + np.exp(-0.85 * ability[:, model]))).mean()), 3)
        base = {"model": f"openai/m{model}", "quality_prior": prior}
        if rng.random() < 0.25:
            ends.append(_workers(rng, model, base))
            continue
        real = _realtime(rng, model, base, float(price[model]), cached=cached)
        ends.append(real)
        if rng.random() < 0.5:
            ends.append(_batch(rng, model, base, real))
    return ends


def _price(usd: float, factor: float, *, cached: bool) -> dict[str, float]:
    price = {"input": round(usd * factor, 4), "output": round(4 * usd * factor, 4)}
    return price | ({"cached_input": round(0.1 * usd * factor, 5)} if cached else {})


def _realtime(
    rng: np.random.Generator, model: int, base: dict[str, Any], usd: float, *, cached: bool
) -> TrueEndpoint:
    limits: dict[str, int] = {"concurrency": int(rng.choice([2, 4, 8, 16, 32]))}
    if rng.random() < 0.3:
        limits["rpm"] = int(rng.choice([20, 60, 200]))
    job = base | {
        "name": f"m{model}",
        "api_base": "http://127.0.0.1:9/v1",
        "price": _price(usd, 1.0, cached=cached),
        "limits": limits,
    }
    if rng.random() < 0.3:
        first = int(rng.integers(0, 24))
        hours = sorted((first + hour) % 24 for hour in range(int(rng.integers(4, 13))))
        job["off_peak"] = {"factor": 0.5, "tz": "UTC", "hours": hours}
    return TrueEndpoint(
        f"m{model}",
        job,
        model,
        "realtime",
        first_seconds=float(rng.uniform(0.4, 3.0)),
        seconds_per_token=1 / float(np.exp(rng.uniform(np.log(10), np.log(120)))),
        hit_rate=float(rng.choice([0.0, 0.5, 0.95])) if cached else 0.0,
    )


def _batch(rng: np.random.Generator, model: int, base: dict[str, Any], real: TrueEndpoint) -> TrueEndpoint:
    turnaround = float(np.exp(rng.uniform(np.log(600), np.log(8 * 3600))))
    price = {name: round(usd / 2, 5) for name, usd in real.job["price"].items() if name != "cached_input"}
    limits = {"enqueued_tokens": int(rng.choice([60_000, 200_000]))} if rng.random() < 0.3 else {}
    job = base | {
        "name": f"m{model}-batch",
        "api_base": "http://127.0.0.1:9/v1",
        "mode": "batch",
        "turnaround": f"{round(turnaround / 60)}m",
        "price": price,
        "limits": limits,
    }
    return TrueEndpoint(f"m{model}-batch", job, model, "batch", turnaround_seconds=turnaround)


def _workers(rng: np.random.Generator, model: int, base: dict[str, Any]) -> TrueEndpoint:
    decode = float(np.exp(rng.uniform(np.log(300), np.log(3000))))
    job = base | {
        "name": f"m{model}-house",
        "engine": "vllm",
        "device": "cpu",
        "workers": int(rng.integers(1, 4)),
        "usd_per_hour": round(float(rng.uniform(0.02, 0.6)), 3),
        "minimum_minutes": int(rng.choice([0, 0, 30, 60])),
    }
    return TrueEndpoint(
        f"m{model}-house", job, model, "workers",
        startup_seconds=float(rng.uniform(30, 240)), prefill=5 * decode, decode=decode,
    )  # fmt: skip
