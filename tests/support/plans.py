"""Plans of small jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.nights import write_sums
from thirdshift.flows.cli.plan import show_plan
from thirdshift.flows.runs.options import RunOptions

AT = {"api_base": "http://127.0.0.1:9/v1"}


def plan(
    folder: Path,
    endpoints: dict[str, dict[str, Any]],
    *,
    as_json: bool = True,
    why: str | None = None,
    **keys: Any,
) -> int:
    write_sums(folder / "requests.parquet", 100)
    job = {
        "name": "sums",
        "input": "requests.parquet",
        "endpoints": [{"name": n, **({} if "engine" in more else AT), "model": f"openai/{n}", **more}
                      for n, more in endpoints.items()],
        **keys,
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return show_plan(RunOptions(folder / "job.yaml"), as_json=as_json, request_id=why)
