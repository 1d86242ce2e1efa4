"""How often a certificate's lower bound is false, and how far below the truth it lies.

    .venv/bin/python benchmarks/certificates.py [--audits 1000]

Simulated audits of many score distributions at confidence 0.95, without replacement from a finite population. Widths stand
beside the exact binomial (where scores are 0 or 1) and an empirical Bernstein bound (Maurer and Pontil, 2009). Ends with
one JSON line; exits 1 where a bound is false in more than 73 of 1,000 audits: what one that is false in 5 % stays below
with probability 0.999.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thirdshift.router.certification.bounds import betting, exact
from thirdshift.router.certification.certificate import (
    Claim,
    certify_people,
    certify_relative,
)
from thirdshift.router.certification.scorers import Basis

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

CONFIDENCE = 0.95
SURE = 0.999
"""A bound that is false in 5 % of audits stays within what is allowed with this probability: 73 of 1,000."""
POPULATION = 3000
LABELS = (50, 200, 800)
KINDS: dict[str, Draw] = {
    "0/1, half": lambda rng, n: (rng.random(n) < 0.5).astype(float),
    "0/1, 0.9": lambda rng, n: (rng.random(n) < 0.9).astype(float),
    "0/1, 0.99": lambda rng, n: (rng.random(n) < 0.99).astype(float),
    "few values": lambda rng, n: rng.choice([0.0, 0.25, 0.5, 1.0], n, p=[0.1, 0.1, 0.2, 0.6]),
    "three values high": lambda rng, n: rng.choice([0.7, 0.9, 1.0], n, p=[0.1, 0.3, 0.6]),
    "heavy at the ends": lambda rng, n: rng.beta(0.15, 0.05, n),
    "in the middle": lambda rng, n: rng.beta(8, 4, n),
    "uniform": lambda rng, n: rng.random(n),
    "one in a hundred 0": lambda rng, n: np.where(rng.random(n) < 0.01, 0.0, 0.95),
    "constant": lambda _, n: np.full(n, 0.8),
}


def bernstein(scores: Floats, confidence: float) -> float:
    doubt = math.log(2.0 / (1.0 - confidence))
    wide = math.sqrt(2.0 * float(scores.var(ddof=1)) * doubt / len(scores)) + 7.0 * doubt / (
        3.0 * (len(scores) - 1)
    )
    return max(0.0, float(scores.mean()) - wide)


def audited(kind: str, labels: int, audits: int) -> dict[str, Any]:
    rng = np.random.default_rng([20261122, list(KINDS).index(kind), labels])
    false, widths = 0, {"ours": 0.0, "betting": 0.0, "bernstein": 0.0}
    binary = kind.startswith("0/1")
    for _ in range(audits):
        everyone = KINDS[kind](rng, POPULATION)
        scores, truth = rng.permutation(everyone)[:labels], float(everyone.mean())
        bets = betting(scores, CONFIDENCE, POPULATION)
        ours = exact(round(float(scores.sum())), labels, CONFIDENCE, POPULATION) if binary else bets
        false += int(ours > truth + 1e-9)
        for name, bound in (("ours", ours), ("betting", bets), ("bernstein", bernstein(scores, CONFIDENCE))):
            widths[name] += (truth - bound) / audits
        if binary:
            plain = exact(round(float(scores.sum())), labels, CONFIDENCE)
            widths["binomial"] = widths.get("binomial", 0.0) + (truth - plain) / audits
    return {
        "kind": kind,
        "labels": labels,
        "false": false,
        "width": {k: round(width, 4) for k, width in widths.items()},
    }


def compared(kind: str, audits: int) -> dict[str, Any]:
    """Certificates of two scores of each answer: a relative floor, a judge that people correct."""
    rng = np.random.default_rng([20261123, len(kind)])
    claim = Claim(0.9, CONFIDENCE, Basis.REFERENCE, "score")
    false, width = 0, 0.0
    for _ in range(audits):
        hard = rng.random(POPULATION)
        first, second = ((hard < t + 0.3 * rng.random(POPULATION)).astype(float) for t in (0.6, 0.7))
        rows = rng.permutation(POPULATION)[:300]
        if kind == "relative, audit":
            certificate, truth = (
                certify_relative(claim, first[rows], second[rows], POPULATION),
                first.mean() / second.mean(),
            )
        else:
            certificate, truth = (
                certify_people(claim, first[rows], second[rows], second, POPULATION),
                first.mean(),
            )
        false += int(certificate.lower_bound > truth + 1e-9)
        width += (float(truth) - certificate.lower_bound) / audits
    return {"kind": kind, "labels": 300, "false": false, "width": {"ours": round(width, 4)}}


def main() -> int:
    ask = argparse.ArgumentParser(description="false certificates and their widths")
    ask.add_argument("--audits", type=int, default=1000)
    audits = ask.parse_args().audits
    figures = [audited(kind, labels, audits) for kind in KINDS for labels in LABELS]
    figures += [compared(kind, audits) for kind in ("relative, audit", "judge, people")]
    for line in figures:
        widths = "  ".join(f"{name} {width:.4f}" for name, width in line["width"].items())
        print(
            f"{line['kind']:20} {line['labels']:4} labels  false {line['false']:3}  {widths}", file=sys.stderr
        )
    most = max(line["false"] for line in figures)
    print(json.dumps({"benchmark": "certificates", "audits": audits, "most_false": most, "found": figures}))
    return 1 if most > stats.binom.ppf(SURE, audits, 1.0 - CONFIDENCE) else 0


if __name__ == "__main__":
    sys.exit(main())
