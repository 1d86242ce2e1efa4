"""The demo's job on real inference: two small models that vLLM runs on this machine, and an emulated frontier model.

The models are those of the tests, trained by us on the demo's exercises (`tests/tiny_model/train.py`): 0.4 and 0.8
million parameters. Their answers are their own; what an hour of them costs is invented, and said to be.
"""

from __future__ import annotations

from pathlib import Path

from thirdshift.engines.emulator import Emulator, KnownRow
from thirdshift.flows.cli.demo import emulated, exercises
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.options import RunOptions

ROOT = Path(__file__).resolve().parents[3]
MODELS = {"tiny": ("tests/tiny_model", "0.36"), "larger": ("tests/larger_model", "0.72")}
"""Endpoint → folder, and dollars an hour: invented, so that starting a worker is worth it for some hundred requests."""
FRONTIER = emulated.MODELS[-1]

JOB = """\
# Written by `make demo-vllm`. tiny and larger are real models that vLLM runs on this machine's processor; what an hour
# of them costs is invented. The frontier model is emulated: a loopback server that lives while the demo runs.
name: demo-vllm
input: requests.parquet
warehouse: warehouse.duckdb
request: {{max_tokens: 64}}
quality:
  floor: 0.90          # mean score of all requests
  scorer: exact        # the answer equals the reference
  pilot: 200           # requests tried on the candidates to learn who is good at what
budget: {{cap_usd: 1.00}}
endpoints:
{endpoints}"""

WORKER = """\
  - name: {name}
    engine: vllm
    model: {model}
    device: cpu
    usd_per_hour: {usd_per_hour}   # invented
    vllm: {{max_model_len: 512}}
"""
WORKER_TIMES = """\
select endpoint, round(epoch(ready_at - started_at), 1) as seconds_to_start,
       round(epoch(stopped_at - started_at), 1) as seconds_up, usd_per_hour::double as usd_per_hour, cost_usd
from workers order by all"""
WORKERS = ("How long was each worker up, and what did it cost?", " ".join(WORKER_TIMES.split()))


def run_demo(folder: Path, requests: int, run: emulated.Runner) -> int:
    """Write the demo's files into `folder`, run the job, show its results; return the exit code."""
    missing = [place for place, _ in MODELS.values() if not (ROOT / place).exists()]
    if missing:
        raise UserError(f"{missing[0]} is not here; this demo runs in a checkout of the project")
    emulated.folder_for_demo(folder)
    items = list(exercises.items(requests, emulated.SEED))
    print(
        f"{len(items):,} exercises; two small real models on this machine's processor at invented prices by the hour, "
        "and an emulated frontier model; nothing is billed"
    )
    emulated.write_requests(folder / "requests.parquet", items)
    known = (KnownRow(prompt=i.prompt, reference=i.reference, difficulty=i.difficulty) for i in items)
    with Emulator([emulated.with_short_answers(FRONTIER)], items=known, seed=emulated.SEED) as emulator:
        job = folder / "job.yaml"
        workers = "".join(
            WORKER.format(name=name, model=ROOT / place, usd_per_hour=price)
            for name, (place, price) in MODELS.items()
        )
        job.write_text(JOB.format(endpoints=workers + emulated.endpoint_text(FRONTIER, emulator.api_base)))
        code = run(RunOptions(job=job.resolve(), fresh=True, run_id="demo-vllm"))
    emulated.show(folder, (*emulated.QUERIES, WORKERS))
    return code
