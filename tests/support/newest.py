"""Run `--json` of every command of an installed thirdshift: stdout must be one JSON object, whatever a library prints.

    .venv-newest/bin/python tests/support/newest.py

`make test-newest` does, in an environment where pip took the newest versions that the wheel admits.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow
from thirdshift.router.values import Price

PROGRAM = Path(sys.executable).parent / "thirdshift"
FINE = {0, 3}
"""3: a plan or a floor that is not to be had is an answer too."""
ROWS = 60
PACKAGES = ("prefect", "sqlalchemy", "highspy", "duckdb", "pyarrow", "litellm", "fastapi", "typer")

COMMANDS: dict[str, list[str]] = {
    "plan": ["job.yaml"],
    "rehearse": ["job.yaml"],
    "run": ["job.yaml", "--run-id", "tonight"],
    "resume": ["tonight"],
    "sql": ["select count(*) as results from results"],
    "ledger": [],
    "ledger reconcile": ["invoice.csv"],
    "labels export": ["tonight", "--output", "labels.csv", "--count", "5"],
    "labels import": ["labels.csv"],
    "export": ["results", "--output", "results.parquet"],
    "models": [],
    "models show": ["openai/gpt-5.4"],
    "models tiers": [],
    "models prices": [],
    "backtest": ["outcomes.parquet", "--floor", "0.8", "--labels", "60", "--repeat", "1"],
    "doctor": [],
    "migrate": [],
    "runs": [],
    "purge": ["--before", "2020-01-01"],
}
"""Every command that has `--json` (tests/flows/test_cli.py), in an order in which each finds what it needs."""


def write_input() -> list[KnownRow]:
    rows = [
        {"request_id": f"r{n}", "task": "sums", "prompt": f"What is {n} plus {n}?", "reference": str(2 * n)}
        for n in range(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), "requests.parquet")
    outcomes = [
        row
        | {"model": model, "score": float((n * 7) % 10 < good), "cost_usd": cost}
        | {"input_tokens": 10, "output_tokens": 2}
        for model, good, cost in (("dear", 10, 0.01), ("cheap", 7, 0.001))
        for n, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(outcomes).drop_columns(["reference"]), "outcomes.parquet")
    return [KnownRow(prompt=row["prompt"], reference=row["reference"]) for row in rows]


def write_job(emulator: Emulator) -> None:
    endpoints = [
        {"name": name, "model": f"openai/{name}", "api_base": emulator.api_base, "price": price}
        for name, price in (("dear", {"input": 5, "output": 25}), ("cheap", {"input": 0.1, "output": 0.4}))
    ]  # fmt: skip
    quality = {"floor": 0.5, "scorer": "numeric", "pilot": 10}
    job = {"name": "newest", "input": "requests.parquet", "quality": quality, "endpoints": endpoints}
    Path("job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")


def before(command: str) -> None:
    """What a command needs and no command makes."""
    if command == "labels import" and Path("labels.csv").exists():
        with open("labels.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with open("labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(row | {"score": "1"} for row in rows)
    if command == "ledger reconcile":
        today = time.strftime("%Y-%m-%d", time.gmtime())
        Path("invoice.csv").write_text(
            f"date,model,requests,cost_usd\n{today},cheap,1,0.01\n", encoding="utf-8"
        )


def fault_of(command: str, words: list[str]) -> str | None:
    """What is wrong with the command's answer."""
    done = subprocess.run(
        [str(PROGRAM), *command.split(), *words, "--json"], capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return f"stdout is no JSON: {done.stdout[:300]!r}; exit {done.returncode}: {done.stderr[-600:]}"
    if not isinstance(answer, dict):
        return f"stdout is no JSON object: {done.stdout[:300]!r}"
    return None if done.returncode in FINE else f"exit {done.returncode}: {done.stderr[-600:]}"


def main() -> int:
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    faults = []
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory(prefix="thirdshift-newest-") as folder:
        os.chdir(folder)
        os.environ |= {"THIRDSHIFT_HOME": f"{folder}/home", "PREFECT_HOME": f"{folder}/prefect"}
        items = write_input()
        models = [
            EmulatedModel("dear", Price(Decimal(5), Decimal(25)), ability=3),
            EmulatedModel("cheap", Price(Decimal("0.1"), Decimal("0.4")), ability=1),
        ]
        with Emulator(models, items=items, seed=1) as emulator:
            write_job(emulator)
            for command, words in COMMANDS.items():
                before(command)
                if fault := fault_of(command, words):
                    faults.append(f"{command}: {fault}")
        os.chdir("/")
    print("\n".join(faults) or f"{len(COMMANDS)} commands: stdout is one JSON object each")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
