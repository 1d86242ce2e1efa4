"""Nights whose scores are a judge's: what answers and verdicts cost together, beside each endpoint alone, judged likewise.

    python benchmarks/judged.py [--seeds 1] [--from 0] [--rows 2000] [--floors 0.80 0.85 0.90] [--nights 1]

Whole nights against an emulated provider whose judge errs at known rates, three endpoints each. Per seed and floor the job
with all three stands beside the cheapest of the three jobs with one alone that certifies. With `--nights` more than one,
the job with all three goes on over other requests, and the last night's looks stand beside the first's. The last line is
JSON (`bill_by_bill`: the sum of all bills over the sum of the cheapest); exit 1 where a bill is above MOST of the cheapest
alone, the mean above MEAN, fewer than CERTIFIED of those certify that the best endpoint alone would certify, or the tenth
night looks at more than LOOKS of what the first did.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow, ability_for
from thirdshift.flows.api.runs import run
from thirdshift.router.values import Price
from thirdshift.warehouse.store.ask import ask

MOST, MEAN, CERTIFIED, LOOKS = 1.05, 0.8, 0.95, 0.2
LENIENT, HARSH = 0.05, 0.03
JUDGE = "judge"
JUDGES_PRICE = (1.0, 4.0)
SKILL = {"small": 0.78, "middle": 0.90, "large": 0.97}
PRICES = {"small": (0.1, 0.4), "middle": (0.3, 1.2), "large": (2.5, 10.0)}
NIGHT = """
select (select coalesce(sum(cost_usd), 0) from ledger where run_id = $run_id) as usd,
       (select coalesce(sum(cost_usd), 0) from ledger where run_id = $run_id and purpose = 'judge') as judged_usd,
       (select count(*) from ledger where run_id = $run_id and purpose = 'judge') as verdicts,
       (select count(*) from ledger where run_id = $run_id and purpose = 'vote') as votes,
       (select count(*) from ledger where run_id = $run_id and purpose = 'pilot') as looks
"""


@dataclass(frozen=True, slots=True)
class JudgedNight:
    usd: float
    judged_usd: float
    verdicts: int
    votes: int
    looks: int
    certified: bool
    truth: float
    """The mean that the judge's verdicts on all answers would have, its errors being what they are."""


def sums(folder: Path, name: str, rows: int, rng: np.random.Generator) -> list[KnownRow]:
    """A file of additions without their results; what the provider knows of them."""
    pairs = rng.integers(1, 1_000_000, (rows, 2)).tolist()
    known = [KnownRow(prompt=f"What is {a} plus {b}?", reference=str(a + b)) for a, b in pairs]
    table = [{"request_id": f"r{n:05d}", "prompt": row.prompt} for n, row in enumerate(known)]
    pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    return known


def write_job(folder: Path, emulator: Emulator, names: list[str], night: str, floor: float) -> Path:
    prices = {**{name: PRICES[name] for name in names}, JUDGE: JUDGES_PRICE}
    title = f"{'-'.join(names)}-{floor:g}".replace(".", "")
    job = {
        "name": title,
        "input": f"{night}.parquet",
        "warehouse": f"{title}.duckdb",
        "request": {"max_tokens": 64},
        "quality": {
            "floor": floor,
            "scorer": "judge",
            "judge": {"endpoint": JUDGE, "rubric": "1 if the sum is right, 0 if it is not."},
        },
        "endpoints": [
            {
                "name": name,
                "model": f"openai/{name}",
                "api_base": emulator.api_base,
                "price": {"input": read, "output": written},
                **({"only": "judge"} if name == JUDGE else {}),
            }
            for name, (read, written) in prices.items()
        ],
    }
    path = folder / f"{title}-{night}.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def played(job: Path, night: str, known: list[KnownRow]) -> JudgedNight:
    summary = run(job, run_id=night)
    warehouse = Path(summary.warehouse)
    (figures,) = ask(warehouse, NIGHT.replace("$run_id", f"'{night}'"), say=lambda _: None).to_pylist()
    sql = f"select request_id, output from results where run_id = '{night}'"
    answers = ask(warehouse, sql, say=lambda _: None).to_pylist()
    right = np.mean([known[int(row["request_id"][1:])].reference == row["output"] for row in answers])
    truth = float(right * (1.0 - HARSH) + (1.0 - right) * LENIENT)
    counted = {name: int(figures[name]) for name in ("verdicts", "votes", "looks")}
    certificate = summary.certificate
    return JudgedNight(
        float(figures["usd"]),
        float(figures["judged_usd"]),
        **counted,
        certified=certificate is not None and certificate.certified,
        truth=truth,
    )


def models() -> list[EmulatedModel]:
    good = [
        EmulatedModel(name, _price(PRICES[name]), ability=ability_for(share)) for name, share in SKILL.items()
    ]
    return [*good, EmulatedModel(JUDGE, _price(JUDGES_PRICE), lenient=LENIENT, harsh=HARSH)]


def _price(usd: tuple[float, float]) -> Price:
    return Price(Decimal(str(usd[0])), Decimal(str(usd[1])))


def seed_of(seed: int, rows: int, floors: list[float], nights: int) -> list[dict[str, Any]]:
    cells = []
    with tempfile.TemporaryDirectory(prefix="thirdshift-judged-") as name:
        folder, rng = Path(name), np.random.default_rng([20261129, seed])
        inputs = {f"night-{n}": sums(folder, f"night-{n}", rows, rng) for n in range(nights)}
        every = [row for known in inputs.values() for row in known]
        with Emulator(models(), items=every, seed=seed) as emulator:
            for floor in floors:
                first, known = "night-0", inputs["night-0"]
                alone = {
                    endpoint: played(write_job(folder, emulator, [endpoint], first, floor), first, known)
                    for endpoint in SKILL
                }
                together = [
                    played(write_job(folder, emulator, list(SKILL), night, floor), night, known)
                    for night, known in inputs.items()
                ]
                cells.append(cell_of(seed, floor, alone, together))
                print(json.dumps(cells[-1]), flush=True)
    return cells


def cell_of(
    seed: int, floor: float, alone: dict[str, JudgedNight], together: list[JudgedNight]
) -> dict[str, Any]:
    night = together[0]
    able = [each.usd for each in alone.values() if each.certified]
    cheapest = min(able) if able else None
    return {
        "seed": seed,
        "floor": floor,
        "usd": round(night.usd, 5),
        "judged_usd": round(night.judged_usd, 5),
        "verdicts": night.verdicts,
        "votes": night.votes,
        "certified": night.certified,
        "met": night.truth >= floor,
        "alone_usd": {name: round(each.usd, 5) if each.certified else None for name, each in alone.items()},
        "cheapest_usd": None if cheapest is None else round(cheapest, 5),
        "share": None if cheapest is None else round(night.usd / cheapest, 3),
        "looks_of_last_night": round(together[-1].looks / max(night.looks, 1), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--floors", type=float, nargs="+", default=[0.80, 0.85, 0.90])
    parser.add_argument("--nights", type=int, default=1)
    given = parser.parse_args()
    cells = [
        cell
        for seed in range(given.first, given.first + given.seeds)
        for cell in seed_of(seed, given.rows, given.floors, given.nights)
    ]
    able = [cell for cell in cells if cell["share"] is not None]
    shares = [cell["share"] for cell in able]
    kept = float(np.mean([cell["certified"] and cell["met"] for cell in able])) if able else 0.0
    figures = {
        "cells": len(cells),
        "able": len(able),
        "worst": max(shares, default=None),
        "mean": round(float(np.mean(shares)), 3) if shares else None,
        "mean_by_floor": {
            floor: round(float(np.mean([cell["share"] for cell in able if cell["floor"] == floor])), 3)
            for floor in sorted({cell["floor"] for cell in able})
        },
        "bill_by_bill": round(
            sum(cell["usd"] for cell in able) / sum(cell["cheapest_usd"] for cell in able), 3
        )
        if able
        else None,
        "kept": round(kept, 3),
        "looks_of_last_night": max(cell["looks_of_last_night"] for cell in cells),
    }
    ok = bool(shares) and max(shares) <= MOST and float(np.mean(shares)) <= MEAN and kept >= CERTIFIED
    if given.nights >= 10:
        ok = ok and figures["looks_of_last_night"] <= LOOKS
    print(json.dumps({**figures, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
