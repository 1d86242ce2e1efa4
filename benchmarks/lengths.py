"""What the answers that a request has tell of the length of its next one, on recorded outcomes.

    python benchmarks/lengths.py FOLDER [--requests 300]

FOLDER holds outcome files (columns as `thirdshift backtest` reads them). For each file and each pair of models: how log
lengths of two models' answers to one request correlate within tasks; the share that router/tokens/request_lengths.py
learns from so many requests that both have answered; and what half of what one model failed at costs at the other, chosen
by the lengths that are expected after the first answer, beside a half drawn at random. Medians over the pairs; models whose
tokens were imputed are left out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from thirdshift.router.tokens.request_lengths import RequestAnswers, expected_factor

LEAST = 100
"""Requests that both models of a pair have answered, and that the first one has failed at."""
ANSWERS = """
with told as (
    select request_id, task, model, score, output_tokens, cost_usd, ln(output_tokens) as log
    from read_parquet(?) where output_tokens > 0 and not coalesce(cost_imputed, false))
select request_id, model, score, output_tokens, log - avg(log) over (partition by task, model) as deviation
from told order by all
"""


def figures(path: Path, requests: int) -> dict[str, Any]:
    """The medians of a file over its pairs of models."""
    rows = duckdb.execute(ANSWERS, [str(path)]).fetchnumpy()
    _, row = np.unique(rows["request_id"].astype(str), return_inverse=True)
    names, model = np.unique(rows["model"].astype(str), return_inverse=True)
    shape = int(row.max()) + 1, len(names)
    deviation, score, tokens = (np.full(shape, np.nan) for _ in range(3))
    for table, name in ((deviation, "deviation"), (score, "score"), (tokens, "output_tokens")):
        table[row, model] = rows[name]
    pairs = [
        found
        for first, then in permutations(range(len(names)), 2)
        if (found := _pair(deviation, score[:, first], tokens[:, then], (first, then), requests))
    ]
    alike, share, half = np.median(np.array(pairs), axis=0).round(3).tolist()
    return {"pairs": len(pairs), "correlation": alike, "share_learnt": share, "half_costs": half}


def _pair(
    deviation: NDArray[np.float64],
    score: NDArray[np.float64],
    tokens: NDArray[np.float64],
    pair: tuple[int, int],
    requests: int,
) -> tuple[float, float, float] | None:
    """Correlation, share learnt, and what the half chosen costs of one at random; None where too little is known."""
    both = np.flatnonzero(~np.isnan(deviation[:, pair]).any(axis=1))
    failed = both[score[both] < 0.5]
    if min(len(both), len(failed)) < LEAST:
        return None
    spread = deviation[:, pair][both].std(axis=0)
    told = deviation[:, pair] / spread
    some = np.random.default_rng(0).permutation(both)[:requests]
    answers = RequestAnswers.of(np.repeat(some, 2), told[some].ravel())
    share = answers.share(np.tile([0, 1], len(some)))
    factor = expected_factor(np.ones(len(failed), int), told[failed, 0], share, float(spread[1]))
    chosen = failed[np.argsort(factor, kind="stable")[: len(failed) // 2]]
    half = float(tokens[chosen].mean() / tokens[failed].mean())
    return float(np.corrcoef(told[both].T)[0, 1]), share, half


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("folder", type=Path)
    ask.add_argument("--requests", type=int, default=300, help="that two models have answered, to learn from")
    args = ask.parse_args()
    found = {path.stem: figures(path, args.requests) for path in sorted(args.folder.glob("*.parquet"))}
    print(f"{'file':20} {'pairs':>6} {'correlation':>12} {'share learnt':>13} {'half costs':>11}")
    for name, it in found.items():
        print(
            f"{name:20} {it['pairs']:6} {it['correlation']:12.3f} {it['share_learnt']:13.3f} {it['half_costs']:11.3f}"
        )
    print(json.dumps({"benchmark": "lengths", **found}))


if __name__ == "__main__":
    main()
